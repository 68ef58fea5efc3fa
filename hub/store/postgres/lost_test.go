package postgres_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/postgres"
	"gangway/hub/store/postgres/pgtest"
	"gangway/hub/store/storetest"
)

// load onboards machines and appends events with several workers. Afterwards, check compares the
// database with the answers that the workers got: each acknowledged write must be there exactly
// once.
type load struct {
	*testing.T
	server *pgtest.Server
	store  *postgres.Store
	name   string // name of the database
	owner  store.Account
	token  store.JoinToken

	rounds       int // calls of run
	acknowledged atomic.Int64
	busy         atomic.Int64 // operations that were refused with ErrBusy
}

func newLoad(t *testing.T, server *pgtest.Server, s *postgres.Store, name string) *load {
	l := &load{T: t, server: server, store: s, name: name, owner: storetest.Account("anne")}
	l.token = storetest.JoinToken(l.owner.ID, "fleet", 0)
	if err := errors.Join(s.CreateAccount(t.Context(), l.owner), s.CreateJoinToken(t.Context(), l.token)); err != nil {
		t.Fatal(err)
	}
	return l
}

// untilDone repeats an operation until it is no longer refused with ErrBusy, which means that
// nothing was written.
func (l *load) untilDone(what string, operation func() error) {
	for {
		err := operation()
		if err == nil {
			return
		}
		if !errors.Is(err, store.ErrBusy) {
			l.Errorf("%s: %v", what, err)
			return
		}
		l.busy.Add(1)
	}
}

func (l *load) run(workers, each int) {
	l.rounds++
	var done sync.WaitGroup
	for w := range workers {
		done.Go(func() {
			for i := range each {
				name := fmt.Sprint(l.rounds, "/", w, "/", i)
				e := storetest.Machine{Name: name}.Enrolment(l.owner.ID, l.token.ID)
				l.untilDone("event", func() error {
					return l.store.AppendEvent(l.Context(), store.Event{Time: storetest.Epoch, Kind: "test.load", Owner: l.owner.ID, Message: name})
				})
				l.untilDone("begin", func() error {
					_, err := l.store.BeginEnrolment(l.Context(), e, storetest.Epoch)
					return err
				})
				l.untilDone("activate", func() error {
					_, err := l.store.Activate(l.Context(), store.Activation{IDevIDHash: e.IDevIDHash, Nick: "otter", Now: storetest.Epoch})
					return err
				})
				d, err := l.store.DeviceByCertificate(l.Context(), e.IDevIDHash)
				if err != nil || d.ID != e.DeviceID {
					l.Errorf("an acknowledged device is not there: %v", err)
				}
				l.acknowledged.Add(1)
			}
		})
	}
	done.Wait()
}

// check compares the numbers of rows in the database with the numbers of acknowledged writes.
func (l *load) check() {
	l.Helper()
	want := fmt.Sprint(l.acknowledged.Load())
	for what, query := range map[string]string{
		"devices":           `SELECT count(*) FROM devices`,
		"uses":              `SELECT uses FROM join_tokens`,
		"events":            `SELECT count(*) FROM events WHERE kind = 'test.load'`,
		"different events":  `SELECT count(DISTINCT message) FROM events WHERE kind = 'test.load'`,
		"activations":       `SELECT count(*) FROM events WHERE kind = 'device.activated'`,
		"counted devices":   `SELECT n FROM fleet_counts WHERE field = 'total'`,
		"devices of hub":    `SELECT n FROM hub_counts WHERE field = 'devices'`,
		"active enrolments": `SELECT count(*) FROM enrolments WHERE state = 'a'`,
	} {
		got, err := l.server.Query(context.Background(), l.name, query)
		if err != nil || got != want {
			l.Errorf("%s: %s (%v), want %s", what, got, err, want)
		}
	}
}

// While the server ends connections at random moments, no acknowledged write is lost, and no write
// happens twice.
func TestKilledConnectionsLoseNothing(t *testing.T) {
	t.Parallel()
	address := database(t)
	name := nameOf(address)
	l := newLoad(t, server, open(t, postgres.Config{URL: address, Writers: 3}), name)
	stop, stopped := make(chan struct{}), make(chan struct{})
	kills := 0
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(20+rand.IntN(60)) * time.Millisecond):
			}
			if _, err := server.Query(context.Background(), name, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND application_name = 'gangway' ORDER BY random() LIMIT 1`); err != nil {
				t.Error(err)
				return
			}
			kills++
		}
	}()
	for l.rounds < 20 && (l.rounds == 0 || l.store.Stats().Retries < 3) { // chance decides which connections end
		l.run(6, 12)
	}
	close(stop)
	<-stopped
	l.check()
	if l.store.Stats().Retries < 3 {
		t.Errorf("%d connections were ended, and %d transactions ran again", kills, l.store.Stats().Retries)
	}
}

// The server crashes and restarts several times while devices onboard. Its commits wait for the
// disk, so no acknowledged write may be lost.
func TestCrashedServerForgetsNothing(t *testing.T) {
	if server == nil {
		t.Skip(pgtest.ErrMissing)
	}
	if testing.Short() {
		t.Skip("the server starts several times")
	}
	t.Parallel()
	own, err := pgtest.Start(true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Stop) // after the store is closed
	l := newLoad(t, own, open(t, postgres.Config{URL: own.URL("postgres")}), "postgres")
	done := make(chan struct{})
	var crashes atomic.Int64
	go func() {
		defer close(done)
		for l.rounds == 0 || crashes.Load() == 0 && !t.Failed() { // on a fast machine, a round may end before the first crash
			l.run(4, 12)
		}
	}()
	for more := true; more; {
		select {
		case <-done:
			more = false
		case <-time.After(time.Duration(100+rand.IntN(200)) * time.Millisecond):
			own.Kill()
			if err := own.Run(); err != nil {
				t.Fatal(err)
			}
			crashes.Add(1)
		}
	}
	l.check()
}

func nameOf(address string) string {
	_, rest, _ := strings.Cut(address, "@/")
	name, _, _ := strings.Cut(rest, "?")
	return name
}

// cutter is a proxy between the store and the server, which cuts connections around commits.
type cutter struct {
	net.Listener
	enabled atomic.Bool
	down    atomic.Bool // after a cut, no connection reaches the server
	cut     atomic.Bool // a commit was cut while down was set
	cuts    [3]atomic.Int64

	// twice counts down the steps of an outage: at 2, a COMMIT is lost; at 1, the store asks
	// whether the COMMIT happened, and the answer to that is lost too.
	twice atomic.Int32
}

// The three ways in which a hub can lose the answer to a COMMIT.
const (
	cutAnswer   = iota // the server commits, and its answer is lost
	cutQuestion        // the server never gets the COMMIT
	cutLate            // the server gets the COMMIT when the hub has already lost the connection
)

func newCutter(t *testing.T) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go c.serve(client)
		}
	}()
	return c
}

func (c *cutter) serve(client net.Conn) {
	defer client.Close()
	if c.cut.Load() {
		return
	}
	upstream, err := net.Dial("tcp", server.TCP())
	if err != nil {
		return
	}
	defer upstream.Close()
	mute := make(chan struct{})
	go func() {
		defer client.Close()
		buffer := make([]byte, 32<<10)
		for {
			n, err := upstream.Read(buffer)
			select {
			case <-mute:
				return
			default:
			}
			if err != nil {
				return
			}
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	// The first message on a connection has no type byte.
	header := make([]byte, 5)
	for first := true; ; first = false {
		head := header
		if first {
			head = header[1:]
		}
		if _, err := io.ReadFull(client, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(header[1:])-4)
		if _, err := io.ReadFull(client, body); err != nil {
			return
		}
		message := append(append([]byte(nil), head...), body...)
		if !first && header[0] == 'Q' {
			switch text := string(body); {
			case text == "COMMIT\x00" && c.twice.CompareAndSwap(2, 1):
				return
			case strings.HasPrefix(text, "INSERT INTO write_marks") && c.twice.CompareAndSwap(1, 0):
				close(mute)
				_, _ = upstream.Write(message)
				_, _ = upstream.Read(header)
				return
			}
		}
		if !first && header[0] == 'Q' && string(body) == "COMMIT\x00" && c.enabled.Load() && (c.down.Load() || rand.IntN(2) == 0) {
			how := rand.IntN(3)
			if c.down.Load() {
				how = cutAnswer
				c.cut.Store(true)
			}
			c.cuts[how].Add(1)
			close(mute)
			switch how {
			case cutAnswer:
				_, _ = upstream.Write(message)
				_, _ = upstream.Read(header) // the answer of the server
			case cutLate:
				client.Close()
				time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
				_, _ = upstream.Write(message)
				time.Sleep(20 * time.Millisecond)
			}
			return
		}
		if _, err := upstream.Write(message); err != nil {
			return
		}
	}
}

// Connections are cut between a COMMIT and its answer, and each time the store finds out whether
// the transaction was committed.
func TestLostCommitIsResolved(t *testing.T) {
	t.Parallel()
	address := database(t)
	name := nameOf(address)
	c := newCutter(t)
	proxied := fmt.Sprintf("postgres://gangway@%s/%s", c.Addr(), name)
	l := newLoad(t, server, open(t, postgres.Config{URL: proxied}), name)
	c.enabled.Store(true)
	for l.rounds < 20 && min(c.cuts[0].Load(), c.cuts[1].Load(), c.cuts[2].Load()) < 2 { // chance decides how commits are lost
		l.run(6, 12)
	}
	c.enabled.Store(false)
	l.check()
	for how := range c.cuts {
		if c.cuts[how].Load() == 0 {
			t.Errorf("no connection was cut in way %d", how)
		}
	}
	if busy := l.busy.Load(); busy > 0 {
		t.Logf("%d operations were refused and repeated", busy)
	}
}

// The database commits, but its answer is lost, and after that the database cannot be reached. The
// store must claim neither that nothing was written (ErrBusy) nor that the write is done.
func TestUnknownCommitIsSaidToBeUnknown(t *testing.T) {
	t.Parallel()
	address := database(t)
	c := newCutter(t)
	s := open(t, postgres.Config{URL: fmt.Sprintf("postgres://gangway@%s/%s", c.Addr(), nameOf(address))})
	s.ResolveFor(300 * time.Millisecond)
	if err := s.AppendEvent(t.Context(), store.Event{Time: storetest.Epoch, Kind: "before"}); err != nil {
		t.Fatal(err)
	}
	c.down.Store(true)
	c.enabled.Store(true)
	err := s.AppendEvent(t.Context(), store.Event{Time: storetest.Epoch, Kind: "unknown"})
	if !errors.Is(err, postgres.ErrUnknown) || errors.Is(err, store.ErrBusy) {
		t.Errorf("the write whose outcome is unknown: %v", err)
	}
	if n, err := server.Query(t.Context(), nameOf(address), `SELECT count(*) FROM events WHERE kind = 'unknown'`); err != nil || n != "1" {
		t.Errorf("%s events, %v: the test should have lost only the answer", n, err)
	}
	c.enabled.Store(false)
	c.cut.Store(false)
	if err := s.AppendEvent(t.Context(), store.Event{Time: storetest.Epoch, Kind: "after"}); err != nil {
		t.Error("the store does not work again:", err)
	}
}

// If the database does not answer at all, a write fails with ErrBusy after the write timeout, and
// reads fail too. Both work again as soon as the database answers.
func TestUnreachableDatabaseIsBusy(t *testing.T) {
	t.Parallel()
	address := database(t)
	c := newCutter(t)
	s := open(t, postgres.Config{URL: fmt.Sprintf("postgres://gangway@%s/%s", c.Addr(), nameOf(address))})
	name := nameOf(address)
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Query(t.Context(), "postgres", fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS false", name)); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Query(t.Context(), "postgres", fmt.Sprintf("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '%s'", name)); err != nil {
		t.Fatal(err)
	}
	ctx := store.WithWriteTimeout(t.Context(), 200*time.Millisecond)
	begun := time.Now()
	if err := s.AppendEvent(ctx, store.Event{Time: storetest.Epoch, Kind: "k"}); !errors.Is(err, store.ErrBusy) {
		t.Errorf("a write to a database that is down: %v", err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the write took %s", took)
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.CountAccounts(short); err == nil {
		t.Error("a read of a database that is down succeeds")
	}
	if _, err := server.Query(t.Context(), "postgres", fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS true", name)); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error("the store does not work again:", err)
	}
}

// A COMMIT does not reach the database. The store asks the database whether the transaction was
// committed, and the answer to that is lost too. To ask, the store writes a marker row of its own,
// which it must not mistake for that of the transaction.
func TestQuestionAboutACommitIsNotTheCommit(t *testing.T) {
	t.Parallel()
	address := database(t)
	c := newCutter(t)
	s := open(t, postgres.Config{URL: fmt.Sprintf("postgres://gangway@%s/%s", c.Addr(), nameOf(address))})
	for i := range 3 {
		c.twice.Store(2)
		if err := s.AppendEvent(t.Context(), store.Event{Time: storetest.Epoch, Kind: "twice"}); err != nil {
			t.Fatal(err)
		}
		n, err := server.Query(t.Context(), nameOf(address), `SELECT count(*) FROM events WHERE kind = 'twice'`)
		if err != nil || n != fmt.Sprint(i+1) || c.twice.Load() != 0 {
			t.Fatalf("%s events after %d acknowledged writes, %v, %d steps left", n, i+1, err, c.twice.Load())
		}
	}
}
