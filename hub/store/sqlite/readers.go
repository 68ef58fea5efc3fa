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
	size   int        // the maximum number of connections
	idle   chan *conn // the connections that no call uses at the moment
	closed chan struct{}

	opening sync.WaitGroup
	mu      sync.Mutex
	all     []*conn // guarded by mu: all connections
	pending bool    // guarded by mu: a connection is being opened
	ended   bool    // guarded by mu: no connection may be opened any more
}

func openReaders(path string, n int) (*readers, error) {
	r := &readers{size: n, idle: make(chan *conn, n), closed: make(chan struct{}), open: func() (*conn, error) {
		return openConn(path, "", "query_only = ON", "cache_size = -8192", "temp_store = MEMORY")
	}}
	c, err := r.open()
	if err != nil {
		return nil, err
	}
	r.all = append(r.all, c)
	r.idle <- c
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
	select {
	case c := <-r.idle:
		defer func() { r.idle <- c }()
		return f(c)
	default:
		r.grow()
	}
	select {
	case c := <-r.idle:
		defer func() { r.idle <- c }()
		return f(c)
	case <-ctx.Done():
		return ctx.Err()
	case <-r.closed:
		return sqlstore.ErrClosed
	}
}

// grow starts to open one more connection in the background, if there are fewer than allowed. If
// this fails, for example because the process has too many open files, callers wait for an existing
// connection, and a later call of grow tries again.
func (r *readers) grow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || r.pending || len(r.all) == r.size {
		return
	}
	r.pending = true
	r.opening.Go(func() {
		c, err := r.open()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.pending = false
		if err == nil {
			r.all = append(r.all, c)
			r.idle <- c // does not block: the channel has room for r.size connections
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
		c := <-r.idle
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}
