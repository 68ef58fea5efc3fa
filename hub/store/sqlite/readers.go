package sqlite

import (
	"context"
	"errors"
	"slices"
	"sync"

	"gangway/hub/store/sqlstore"
)

// readers is a pool of connections that cannot write. Each query sees all commits that ended before
// the query began. Because most stores need only one connection most of the time, and opening a
// connection parses the whole schema, the store opens only the first connection when it starts, and
// each further one when a caller finds none idle.
type readers struct {
	open   func() (*conn, error)
	size   int // the maximum number of connections
	closed chan struct{}

	opening sync.WaitGroup
	mu      sync.Mutex
	all     []*conn // guarded by mu: all connections
	// `idle` has the connections that no call uses at the moment. The last one was used last, and is
	// used next, because much of its memory may still be in the processor's caches.
	idle    []*conn      // guarded by mu
	waiting []chan *conn // guarded by mu: a channel for each call that waits for a connection; oldest first
	pending bool         // guarded by mu: a connection is being opened
	ended   bool         // guarded by mu: no connection may be opened any more
}

func openReaders(path string, n int) (*readers, error) {
	r := &readers{size: n, closed: make(chan struct{}), open: func() (*conn, error) {
		return openConn(path, "", "query_only = ON", "cache_size = -8192", "temp_store = MEMORY")
	}}
	c, err := r.open()
	if err != nil {
		return nil, err
	}
	r.all, r.idle = []*conn{c}, []*conn{c}
	return r, nil
}

// The method `do` calls `f` with a connection. `ctx` limits only how long `do` waits for a
// connection. `f` must be short, because it continues even if `ctx` ends.
func (r *readers) do(ctx context.Context, f func(*conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-r.closed:
		return sqlstore.ErrClosed
	default:
	}
	c, err := r.take(ctx, r.closed)
	if err != nil {
		return err
	}
	defer r.give(c)
	return f(c)
}

// The method `take` returns a connection that no other call uses. The caller must give it back. If
// there is no such connection, `take` waits until `ctx` ends, or until the channel `closed` is
// closed.
func (r *readers) take(ctx context.Context, closed <-chan struct{}) (*conn, error) {
	r.mu.Lock()
	if last := len(r.idle) - 1; last >= 0 {
		c := r.idle[last]
		r.idle = r.idle[:last]
		r.mu.Unlock()
		return c, nil
	}
	turn := make(chan *conn, 1)
	r.waiting = append(r.waiting, turn)
	r.grow()
	r.mu.Unlock()
	var err error
	select {
	case c := <-turn:
		return c, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-closed:
		err = sqlstore.ErrClosed
	}
	r.mu.Lock()
	i := slices.Index(r.waiting, turn)
	if i >= 0 {
		r.waiting = slices.Delete(r.waiting, i, i+1)
	}
	r.mu.Unlock()
	if i < 0 { // the call has got a connection meanwhile
		r.give(<-turn)
	}
	return nil, err
}

// The method `give` gives a connection to the call that has waited longest, or makes it idle.
func (r *readers) give(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) > 0 {
		r.waiting[0] <- c // does not block: the channel has room for one connection
		r.waiting = slices.Delete(r.waiting, 0, 1)
		return
	}
	r.idle = append(r.idle, c)
}

// grow starts to open one more connection in the background, if there are fewer than allowed. If
// this fails, for example because the process has too many open files, callers wait for an existing
// connection, and a later call of grow tries again. The caller holds r.mu.
func (r *readers) grow() {
	if r.ended || r.pending || len(r.all) == r.size {
		return
	}
	r.pending = true
	r.opening.Go(func() {
		c, err := r.open()
		r.mu.Lock()
		r.pending = false
		if err == nil {
			r.all = append(r.all, c)
		}
		r.mu.Unlock()
		if err == nil {
			r.give(c)
		}
	})
}

// connections returns the connections that are open now.
func (r *readers) connections() []*conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

var (
	beginRead = sqlstore.ForSQLite(`BEGIN`)
	endRead   = sqlstore.ForSQLite(`COMMIT`)
)

// snapshot is like the method `do`, but runs all queries of `f` in one read transaction, so that
// they see the same state of the database.
func (r *readers) snapshot(ctx context.Context, f func(*conn) error) error {
	return r.do(ctx, func(c *conn) error {
		if err := c.control(beginRead); err != nil {
			return err
		}
		err := f(c)
		return errors.Join(err, c.control(endRead))
	})
}

// close waits for all calls that use a connection, and then closes the connections.
func (r *readers) close() error {
	close(r.closed)
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.opening.Wait()
	var errs []error
	for range r.connections() {
		c, err := r.take(context.Background(), nil)
		if err == nil {
			err = c.close()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
