package sqlite

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"gangway/hub/store/sqlstore"
)

// newReaders opens a pool of n read connections to a new database.
func newReaders(t *testing.T, n int) *readers {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hub.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r, err := openReaders(path, n)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// readAtOnce starts n reads at the same time, and calls f while all of them run.
func readAtOnce(t *testing.T, r *readers, n int, f func()) {
	t.Helper()
	if n == 0 {
		f()
		return
	}
	if err := r.do(t.Context(), func(*conn) error {
		readAtOnce(t, r, n-1, f)
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// The store opens another read connection only when more reads run at the same time than it has
// connections.
func TestReadersAreOpenedWhenTheyAreNeeded(t *testing.T) {
	t.Parallel()
	r := newReaders(t, 3)
	for range 5 {
		readAtOnce(t, r, 1, func() {})
	}
	if n := len(r.connections()); n != 1 {
		t.Errorf("%d connections after reads one after the other", n)
	}
	readAtOnce(t, r, 3, func() {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.do(ctx, func(*conn) error { return nil }) }()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("a fourth read at the same time: %v", err)
		}
	})
	if n := len(r.connections()); n != 3 {
		t.Errorf("%d connections after three reads at the same time", n)
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
	if err := r.do(t.Context(), func(*conn) error { return nil }); !errors.Is(err, sqlstore.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

// The connection that was used last is used next.
func TestReadersUseTheSameConnectionAgain(t *testing.T) {
	t.Parallel()
	r := newReaders(t, 3)
	readAtOnce(t, r, 3, func() {})
	var last *conn
	for range 10 {
		if err := r.do(t.Context(), func(c *conn) error {
			if last != nil && c != last {
				t.Error("another connection")
			}
			last = c
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
}

// A connection is used by one read at a time, and reads that stop waiting lose no connection.
func TestReadsThatStopWaitingLoseNoConnection(t *testing.T) {
	t.Parallel()
	r := newReaders(t, 2)
	var mu sync.Mutex
	using := map[*conn]bool{}
	var reading sync.WaitGroup
	for i := range 8 {
		reading.Go(func() {
			for j := range 500 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((i*500+j)%40)*time.Microsecond)
				err := r.do(ctx, func(c *conn) error {
					mu.Lock()
					if using[c] {
						t.Error("two reads use the same connection")
					}
					using[c] = true
					mu.Unlock()
					time.Sleep(10 * time.Microsecond)
					mu.Lock()
					using[c] = false
					mu.Unlock()
					return nil
				})
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	reading.Wait()
	r.opening.Wait()
	if idle, all := len(r.idle), len(r.all); idle != all || len(r.waiting) != 0 {
		t.Fatalf("%d of %d connections are idle, and %d reads wait", idle, all, len(r.waiting))
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
}

// If another connection cannot be opened because the process has too many open files, a read waits
// for an existing connection.
func TestReadWaitsIfNoMoreConnectionsCanBeOpened(t *testing.T) {
	t.Parallel()
	r := newReaders(t, 3)
	open := r.open
	r.open = func() (*conn, error) { return nil, errors.New("too many open files") }
	ended := make(chan error)
	readAtOnce(t, r, 1, func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := r.do(ctx, func(*conn) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second read at the same time: %v", err)
		}
		go func() { ended <- r.do(t.Context(), func(*conn) error { return nil }) }()
	})
	if err := <-ended; err != nil {
		t.Error(err)
	}
	r.opening.Wait()
	r.open = open
	readAtOnce(t, r, 3, func() {})
	if err := r.close(); err != nil {
		t.Error(err)
	}
}
