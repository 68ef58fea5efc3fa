package postgres

import (
	"context"
	"errors"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/sqlstore"
)

const (
	// readTimeout limits how long one read may take. A read that has begun goes on even if the
	// caller's context ends. The reason is that an interruption of a read closes its connection: a
	// peer that begins and cancels many requests could make the hub open connections all the time.
	readTimeout = 30 * time.Second
	// retryFor is how long a read or a write is repeated after its connection was lost, for example
	// while another server takes over.
	retryFor = sqlstore.WriteTimeout
	// retryPause is the time between two attempts.
	retryPause = 50 * time.Millisecond
)

// readers is a set of connections for statements that only read. A connection is opened when it is
// first needed.
type readers struct {
	open   func(ctx context.Context) (*conn, error)
	idle   chan *conn // a nil conn stands for a connection that is not open
	closed chan struct{}
}

// newReaders returns n connections. Only the connection `first` is open.
func newReaders(n int, first *conn, open func(ctx context.Context) (*conn, error)) *readers {
	r := &readers{open: open, idle: make(chan *conn, n), closed: make(chan struct{})}
	r.idle <- first
	for range n - 1 {
		r.idle <- nil
	}
	return r
}

// The method `do` calls the function `run` with a connection. If the connection is lost, it repeats
// the call with another connection. `ctx` limits only the time that `do` waits for a connection.
func (r *readers) do(ctx context.Context, run func(*conn) error) error {
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
		deadline := time.Now().Add(retryFor)
		for attempt := 0; ; attempt++ {
			var err error
			if c, err = r.once(ctx, c, run); !again(err) || time.Now().After(deadline) {
				return err
			}
			if attempt == 0 {
				continue // one lost connection says nothing about the next
			}
			if err := pause(ctx, r.closed); err != nil {
				return err
			}
		}
	case <-ctx.Done():
		return ctx.Err()
	case <-r.closed:
		return sqlstore.ErrClosed
	}
}

// The function `again` reports whether a read that failed may succeed with another connection.
func again(err error) bool { return err != nil && (lost(err) || errors.Is(err, store.ErrBusy)) }

func pause(ctx context.Context, closed <-chan struct{}) error {
	select {
	case <-time.After(retryPause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-closed:
		return sqlstore.ErrClosed
	}
}

// The method `once` makes one call of `run`, with the connection `c` or, if `c` is not open, with a
// new connection. It returns the connection if the connection can be used again.
func (r *readers) once(ctx context.Context, c *conn, run func(*conn) error) (*conn, error) {
	if c == nil {
		var err error
		if c, err = r.open(ctx); err != nil {
			return nil, err
		}
	}
	limited, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	c.ctx, c.failed = limited, nil
	c.forget()
	err := run(c)
	if c.failed != nil && lost(c.failed) {
		err = c.failed // `run` may have wrapped this error, or returned another error or none
		c.drop()
	}
	if c.closed() {
		return nil, err
	}
	return c, err
}

const (
	beginSnapshot = `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`
	// beginSearch begins a transaction whose queries find their rows by an index, and read only the
	// first rows in the order of the index. Without these settings, PostgreSQL may read and sort
	// all rows if it has no statistics, for example after a restore. The settings end with the
	// transaction. With `enable_sort = off`, PostgreSQL estimates a high cost for each plan that
	// must sort. It would compile such an expensive plan to machine code, which is slow.
	// `jit = off` prevents this.
	beginSearch = beginSnapshot + `;
	SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off; SET LOCAL jit = off`
)

// snapshot calls the function `run` as the method `do` does, but in one read transaction: all
// queries of `run` see the same state of the database. `begin` is the SQL text that begins the
// transaction.
func (r *readers) snapshot(ctx context.Context, begin string, run func(*conn) error) error {
	return r.do(ctx, func(c *conn) error {
		if _, err := c.control(begin); err != nil {
			return c.fail(err)
		}
		err := run(c)
		if c.closed() {
			return err
		}
		if _, ended := c.control("COMMIT"); ended != nil {
			return errors.Join(err, c.fail(ended))
		}
		return err
	})
}

// close waits for all calls that use a connection, and then closes the connections.
func (r *readers) close() error {
	close(r.closed)
	var errs []error
	for range cap(r.idle) {
		if c := <-r.idle; c != nil {
			errs = append(errs, c.close())
		}
	}
	return errors.Join(errs...)
}
