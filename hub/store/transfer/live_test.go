package transfer_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/postgres"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/storetest"
	"gangway/hub/store/transfer"
	"gangway/internal/race"
)

// The hub writes during the whole move: it onboards devices, gives the nick of one device to
// another, and removes rows. The move is interrupted and then continued. Afterwards, every
// acknowledged write must be in PostgreSQL.
func TestHubWritesDuringTheMove(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	to := target(t, "live")
	file := hub(t, 4500)
	s, err := sqlite.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var rounds atomic.Int64
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() { stopped <- write(t, s, stop, &rounds) }()
	more := func() { // waits until the writer has done one more whole round
		deadline := time.Now().Add(20 * time.Second)
		for n := rounds.Load(); rounds.Load() < n+2 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if len(stopped) > 0 {
				return // the writer has failed
			}
		}
	}
	// The hub writes after every portion. The first attempt to copy ends in the middle.
	enough := errors.New("enough")
	attempt := func(o transfer.Options, steps int) error {
		m, err := transfer.Open(t.Context(), o)
		if err != nil {
			return err
		}
		defer m.Close()
		if steps == 0 {
			return enough
		}
		if err := m.Copy(t.Context()); err != nil {
			return err
		}
		for range steps - 1 {
			more()
			if _, err := m.CatchUp(t.Context()); err != nil {
				return err
			}
		}
		return nil
	}
	o := transfer.Options{File: file, To: to, Hub: "h", Progress: func(table string, _ int64) {
		if table == "devices" || table == "events" {
			more()
		}
	}}
	if err := attempt(o, 0); err != enough {
		t.Fatal(err)
	}
	for range 2 {
		if err := attempt(o, 3); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal("a write failed during the move:", err)
	}
	want := state(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	m, err := transfer.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := errors.Join(m.Finish(t.Context()), m.Close()); err != nil {
		t.Fatal(err)
	}
	// Simulate that Finish was interrupted after its commit, so that the operator repeats all
	// steps. Copy then compares every row.
	if m, err = transfer.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := errors.Join(m.Copy(t.Context()), m.Finish(t.Context()), transfer.Validate(t.Context(), to)); err != nil {
		t.Fatal(err)
	}
	if late, err := sqlite.Open(t.Context(), file); err == nil {
		err = late.SetURLs(t.Context(), []string{"https://late.example"})
		if late.Close(); err == nil || !strings.Contains(err.Error(), "was moved") {
			t.Errorf("a write after the move: %v", err)
		}
	}
	if out, err := server.Query(t.Context(), "live", `SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated AND connamespace = 'public'::regnamespace`); err != nil || strings.TrimSpace(out) != "7" {
		t.Errorf("%s foreign keys hold, %v; want 7", out, err)
	}
	after, err := postgres.Open(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	if got := state(t, after); got != want {
		t.Errorf("before the move %s\nafter it %s", want, got)
	}
	// The triggers of the schema must be enabled again.
	owner := storetest.Account("anne")
	list, err := after.Devices(t.Context(), owner.ID, "", 1)
	if err != nil || len(list) == 0 {
		t.Fatal(err)
	}
	counts, err1 := after.FleetCounts(t.Context(), owner.ID)
	err2 := after.DeleteDevice(t.Context(), owner.ID, list[0].ID, storetest.Epoch)
	fewer, err3 := after.FleetCounts(t.Context(), owner.ID)
	if err := errors.Join(err1, err2, err3); err != nil || fewer.Total != counts.Total-1 {
		t.Errorf("%d devices after a removal, %d before it, %v", fewer.Total, counts.Total, err)
	}
	// Once a hub uses the PostgreSQL database, the move is over, and no step of it may overwrite
	// the hub's data.
	if err := after.EndTransfer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m, err := transfer.Open(t.Context(), o); !errors.Is(err, transfer.ErrUsed) {
		t.Errorf("a move to a database in use: %v, %v", m, err)
	}
}

// write writes to a store until stop is closed.
func write(t *testing.T, s *sqlite.Store, stop chan struct{}, rounds *atomic.Int64) error {
	ctx, now := t.Context(), storetest.Epoch
	owner := storetest.Account("anne")
	token := storetest.JoinToken(owner.ID, "fleet", 0)
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		rounds.Add(1)
		e, err := s.BeginEnrolment(ctx, storetest.Machine{Name: fmt.Sprint("live", i)}.Enrolment(owner.ID, token.ID), now)
		if err != nil {
			return err
		}
		d, err := s.Activate(ctx, store.Activation{IDevIDHash: e.IDevIDHash, Nick: fmt.Sprint("live", i), Now: now})
		if err != nil {
			return err
		}
		// The nick "moving" passes from one device to another.
		held, err := s.DeviceByNick(ctx, owner.ID, "moving")
		if err == nil {
			err = s.RenameDevice(ctx, owner.ID, held.ID, fmt.Sprint("was", i))
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		err = errors.Join(
			s.RenameDevice(ctx, owner.ID, d.ID, "moving"),
			s.PatchUserMeta(ctx, owner.ID, d.ID, map[string]any{"round": i}),
			s.AppendLogs(ctx, d.ID, owner.ID, []store.LogEntry{{Message: fmt.Sprint(i)}}, store.LogBounds{Rows: 3, Bytes: 1 << 20}, now),
			s.AppendCounted(ctx, []store.Event{{Time: now, Kind: "test.many", Code: fmt.Sprint("live", i), Owner: owner.ID}}),
			s.SetURLs(ctx, []string{fmt.Sprintf("https://hub%d.example", i)}),
			s.MarkDeviceSeen(ctx, d.ID, "192.0.2.1", now.Add(time.Duration(i)*time.Second)),
		)
		if err == nil && i%3 == 0 {
			err = s.DeleteDevice(ctx, owner.ID, d.ID, now)
		}
		if err != nil {
			return err
		}
	}
}

// state returns, as a text, the content of a store, as far as the test compares it.
func state(t *testing.T, s storetest.Engine) string {
	t.Helper()
	ctx, owner := t.Context(), storetest.Account("anne")
	devices, err1 := s.Devices(ctx, owner.ID, "", 1000)
	events, err2 := s.Events(ctx, store.EventFilter{Limit: 1000})
	logs, err3 := s.Logs(ctx, store.LogFilter{Owner: owner.ID, Limit: 5000})
	urls, err4 := s.URLs(ctx)
	counts, err5 := s.FleetCounts(ctx, owner.ID)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%v %v %v %v %v", devices, events[:min(len(events), 20)], logs, urls, counts)
}

// By attack or mistake, the target contains rows that this move did not copy. The move must refuse
// it.
func TestMoveRefusesATargetOfAnotherMove(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	to := target(t, "others")
	one, other := hub(t, 0), hub(t, 0)
	open := func(file string) error {
		m, err := transfer.Open(t.Context(), transfer.Options{File: file, To: to, Hub: "h"})
		if err != nil {
			return err
		}
		return errors.Join(m.Copy(t.Context()), m.Close())
	}
	if err := open(one); err != nil {
		t.Fatal(err)
	}
	if err := open(other); !errors.Is(err, transfer.ErrOther) {
		t.Errorf("the second file: %v", err)
	}
	// If the first move is cancelled, its rows stay in the target, so no later move may use this
	// target.
	if stopped, err := transfer.Stop(t.Context(), one, time.Hour); err != nil || stopped {
		t.Errorf("a move that works is stopped: %t, %v", stopped, err)
	}
	if stopped, err := transfer.Stop(t.Context(), one, 0); err != nil || !stopped {
		t.Errorf("stop: %t, %v", stopped, err)
	}
	if stopped, err := transfer.Stop(t.Context(), one, 0); err != nil || stopped {
		t.Errorf("stop again: %t, %v", stopped, err)
	}
	if err := open(one); !errors.Is(err, transfer.ErrOther) {
		t.Errorf("the file without its notes: %v", err)
	}
}
