package sqlite

import (
	"context"

	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/sqlstore"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(context.Background(), filepath.Join(t.TempDir(), "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// hold keeps the writer busy until the test calls `letGo`, so that the test can decide which
// operations share the next transaction.
func hold(t *testing.T, s *Store) (letGo func()) {
	t.Helper()
	held, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- s.writer.do(context.Background(), func(*conn) error {
			close(held)
			<-release
			return nil
		})
	}()
	<-held
	return func() {
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// queue starts a write in a goroutine, and returns as soon as the write is in the queue.
func queue(t *testing.T, s *Store, write func() error) (outcome <-chan error) {
	t.Helper()
	before := s.writer.Waiting()
	done := make(chan error, 1)
	go func() { done <- write() }()
	for s.writer.Waiting() == before {
		time.Sleep(10 * time.Microsecond)
	}
	return done
}

var insertEvent = sqlstore.ForSQLite(`INSERT INTO events (time, kind, code, owner, device, token, addr, message)
	VALUES (0, ?, '', '', '', '', '', '')`)

func event(kind string) store.Event { return store.Event{Kind: kind, Time: time.Unix(0, 0)} }

func TestQueuedWritesShareOneCommit(t *testing.T) {
	t.Parallel()
	s := open(t)
	letGo := hold(t, s)
	var outcomes []<-chan error
	const writes = 100
	for i := range writes {
		outcomes = append(outcomes, queue(t, s, func() error {
			return s.AppendEvent(context.Background(), event(fmt.Sprint(i)))
		}))
	}
	before := s.Stats()
	letGo()
	for _, done := range outcomes {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	after := s.Stats()
	if commits := after.Commits - before.Commits; commits != 1 {
		t.Errorf("%d commits for %d writes", commits, writes)
	}
	if ops := after.Ops - before.Ops; ops != writes {
		t.Errorf("%d operations counted for %d writes", ops, writes)
	}
}

// If an operation fails after its first write, that write is undone, and the other operations in
// the same transaction succeed.
func TestHalfDoneOperationLeavesNoTrace(t *testing.T) {
	t.Parallel()
	s := open(t)
	ctx := context.Background()
	letGo := hold(t, s)
	broken := errors.New("broken off")
	writeAnd := func(kind string, then error) func() error {
		return func() error {
			return s.writer.do(ctx, func(c *conn) error {
				if _, err := c.Exec(insertEvent, kind); err != nil {
					return err
				}
				return then
			})
		}
	}
	account := func() error { return s.CreateAccount(ctx, store.Account{ID: "1", Nick: "anne"}) }
	writes := []struct {
		write func() error
		want  error
	}{
		{writeAnd("a", nil), nil},
		{account, nil},
		{writeAnd("b", broken), broken},
		{account, store.ErrExists}, // the earlier job of this batch has created the account
		{writeAnd("c", nil), nil},
		{func() error { return s.DisableJoinToken(ctx, "x", "y") }, store.ErrNotFound},
		{writeAnd("d", broken), broken},
		{writeAnd("e", nil), nil},
	}
	var outcomes []<-chan error
	for _, w := range writes {
		outcomes = append(outcomes, queue(t, s, w.write))
	}
	before := s.Stats().Commits
	letGo()
	for i, w := range writes {
		if err := <-outcomes[i]; !errors.Is(err, w.want) {
			t.Errorf("write %d: %v, want %v", i, err, w.want)
		}
	}
	if commits := s.Stats().Commits - before; commits != 1 {
		t.Errorf("%d commits", commits)
	}
	events, err := s.Events(ctx, store.EventFilter{})
	if err != nil {
		t.Fatal(err)
	}
	kinds := ""
	for _, e := range events {
		kinds += e.Kind
	}
	if kinds != "eca" {
		t.Errorf("events %q, want those of the whole operations, newest first: eca", kinds)
	}
}

// If a commit fails, the callers of all operations in the transaction get the error, even those
// whose operation was refused.
func TestFailedCommitAnswersEveryWaiter(t *testing.T) {
	t.Parallel()
	s := open(t)
	ctx := context.Background()
	letGo := hold(t, s)
	outcomes := []<-chan error{
		queue(t, s, func() error { return s.AppendEvent(ctx, event("lost")) }),
		queue(t, s, func() error { return s.DisableJoinToken(ctx, "x", "y") }),
		// This operation rolls back the transaction behind the writer's back, as SQLite does when
		// the disk is full, so that the commit fails.
		queue(t, s, func() error {
			return s.writer.do(ctx, func(c *conn) error { return c.control(rollback) })
		}),
	}
	letGo()
	for i, done := range outcomes {
		err := <-done
		if err == nil {
			t.Errorf("write %d is acknowledged", i)
		}
		if errors.Is(err, store.ErrNotFound) {
			t.Errorf("write %d is refused on the ground of what is undone", i)
		}
	}
	if events, err := s.Events(ctx, store.EventFilter{}); err != nil || len(events) != 0 {
		t.Errorf("events %v, %v", events, err)
	}
	if err := s.AppendEvent(ctx, event("next")); err != nil {
		t.Error("the writer does not go on:", err)
	}
}

// If a caller's context ends while its write waits in the queue, the write never runs.
func TestCancelledInTheQueueNeverHappens(t *testing.T) {
	t.Parallel()
	s := open(t)
	letGo := hold(t, s)
	ctx, cancel := context.WithCancel(context.Background())
	cancelled := queue(t, s, func() error { return s.AppendEvent(ctx, event("cancelled")) })
	kept := queue(t, s, func() error { return s.AppendEvent(context.Background(), event("kept")) })
	cancel()
	if err := <-cancelled; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled write: %v", err)
	}
	letGo()
	if err := <-kept; err != nil {
		t.Error(err)
	}
	events, err := s.Events(context.Background(), store.EventFilter{})
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != 1 || events[0].Kind != "kept" {
		t.Errorf("events %v", events)
	}
}

// Close runs the writes that are still in the queue.
func TestCloseAnswersWhatIsQueued(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hub.db")
	s, err := Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	letGo := hold(t, s)
	var outcomes []<-chan error
	for range 10 {
		outcomes = append(outcomes, queue(t, s, func() error {
			return s.AppendEvent(context.Background(), event("queued"))
		}))
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	letGo()
	for _, done := range outcomes {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if s, err = Open(context.Background(), path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if events, err := s.Events(context.Background(), store.EventFilter{}); err != nil || len(events) != 10 {
		t.Errorf("%d events, %v", len(events), err)
	}
}

// An owner can have only a limited number of join tokens, and there is also a limit on devices
// without an owner. If there is room for one more row, and several calls try to add one at the same
// time, only one of them succeeds.
func TestLastPlaceIsTakenOnce(t *testing.T) {
	t.Parallel()
	s, ctx, now := open(t), context.Background(), time.Now()
	if err := s.writer.do(ctx, func(c *conn) error {
		for i := range store.MaxJoinTokens - 1 {
			if _, err := c.Exec(insertToken, fmt.Sprintf("%024x", i)); err != nil {
				return err
			}
		}
		for i := range store.MaxUnclaimed - 1 {
			id := fmt.Sprintf("%024x", i)
			if _, err := c.Exec(insertUnclaimed, id, id); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for what, create := range map[string]func(id string) error{
		"join tokens": func(id string) error {
			return s.CreateJoinToken(ctx, store.JoinToken{ID: id, Owner: "owner", PublicKey: []byte(id)})
		},
		"unclaimed devices": func(id string) error {
			_, err := s.CreateDevice(ctx, store.Device{ID: id, Nick: id, Created: now}, store.Hash{1})
			return err
		},
	} {
		errs := atOnce(func(i int) error { return create(fmt.Sprintf("%024d", 1_000_000+i)) })
		if made := errs[nil]; made != 1 || errs[store.ErrFull] != 23 {
			t.Errorf("%s: %v", what, errs)
		}
	}
	other := store.JoinToken{ID: fmt.Sprintf("%024d", 2_000_000), Owner: "another", PublicKey: []byte("k")}
	if err := s.CreateJoinToken(ctx, other); err != nil {
		t.Errorf("another owner: %v", err)
	}
	if err := s.CreateAccount(ctx, store.Account{ID: "another", Nick: "another", Created: now}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateDevice(ctx, store.Device{ID: other.ID, Nick: "n", Owner: "another", Created: now}, store.Hash{1}); err != nil {
		t.Errorf("an owner's device: %v", err)
	}
}

var (
	insertToken = sqlstore.ForSQLite(`INSERT INTO join_tokens (id, owner, nick, public_key, expires, max_uses, uses, disabled,
		default_user_meta, created) VALUES (?, 'owner', '', x'01', 0, 0, 0, 1, '{}', 0)`)
	insertUnclaimed = sqlstore.ForSQLite(`INSERT INTO devices (id, nick, owner, token, deleted, created, activated, last_seen,
		last_seen_addr, user_meta, device_meta) VALUES (?, ?, '', '', 0, 0, 0, 0, '', '{}', '{}')`)
)

// atOnce calls `f` 24 times concurrently, and counts the calls by their error.
func atOnce(f func(i int) error) map[error]int {
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := map[error]int{}
	for i := range 24 {
		wg.Go(func() {
			err := f(i)
			mu.Lock()
			defer mu.Unlock()
			errs[err]++
		})
	}
	wg.Wait()
	return errs
}
