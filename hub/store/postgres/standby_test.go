package postgres_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/postgres"
	"gangway/hub/store/postgres/pgtest"
	"gangway/hub/store/storetest"
)

// While the standby is down, a commit waits for it. If somebody cancels the wait, or ends the
// connection, the store must not acknowledge the write until the standby has it. The only sign of a
// cancelled wait is a warning from the server.
func TestCommitWaitsForItsStandby(t *testing.T) {
	if server == nil {
		t.Skip(pgtest.ErrMissing)
	}
	if testing.Short() {
		t.Skip("starts two servers")
	}
	t.Parallel()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	primary, err := pgtest.StartAt(pgtest.Place{Addr: "127.0.0.1", Network: "127.0.0.0/8", Do: pgtest.Here})
	check(err)
	t.Cleanup(primary.Stop)
	standby, err := pgtest.StartStandby(primary, pgtest.Place{Addr: "127.0.0.2", Network: "127.0.0.0/8", Do: pgtest.Here})
	check(err)
	t.Cleanup(standby.Stop)
	s := open(t, postgres.Config{URL: primary.URL("postgres")})
	check(primary.Follow(t.Context()))
	check(s.AppendEvent(t.Context(), store.Event{Time: storetest.Epoch, Kind: "before"}))
	for _, how := range []string{"pg_cancel_backend", "pg_terminate_backend"} {
		standby.Kill()
		written := make(chan error, 1)
		go func() { written <- s.AppendEvent(t.Context(), store.Event{Time: storetest.Epoch, Kind: how}) }()
		endWait(t, primary, how)
		select {
		case err := <-written:
			t.Errorf("%s: the write is acknowledged (%v), but the standby does not have it", how, err)
		case <-time.After(500 * time.Millisecond):
		}
		check(standby.Run())
		if !t.Failed() {
			check(<-written)
		}
		n, err := standby.Query(t.Context(), "postgres", fmt.Sprintf("SELECT count(*) FROM events WHERE kind = '%s'", how))
		if err != nil || n != "1" {
			t.Errorf("%s: the standby has %s events, %v", how, n, err)
		}
	}
}

// endWait waits until a commit is waiting for the standby. Then it calls a function of PostgreSQL,
// such as pg_cancel_backend, on the connection of that commit.
func endWait(t *testing.T, primary *pgtest.Server, function string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		done, err := primary.Query(ctx, "postgres", "SELECT "+function+"(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' LIMIT 1")
		if err == nil && done == "t" {
			return
		}
		if ctx.Err() != nil {
			t.Fatal("no commit waits for the standby:", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// If the first host of a URL accepts connections but sends nothing, the store soon uses the second.
func TestSilentHostDoesNotDelayTheNext(t *testing.T) {
	t.Parallel()
	name := nameOf(database(t))
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	begun := time.Now()
	s := open(t, postgres.Config{URL: fmt.Sprintf("postgres://gangway@%s,%s/%s?connect_timeout=60", silent.Addr(), server.TCP(), name)})
	if _, err := s.CountAccounts(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("the store is open after %s", took)
	}
}
