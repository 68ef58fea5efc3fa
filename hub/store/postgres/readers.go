package postgres

import (
	"context"
	"errors"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/sqlstore"
)

const (
	// readTimeout limits how long one read may take. A read that has begun continues even if the
	// caller's context ends, because interrupting it would close its connection: a peer that begins
	// and cancels many requests could make the hub open connections all the time.
	readTimeout = 30 * time.Second
	// retryFor is how long the store repeats a read or a write whose connection was lost, for
	// example while another server takes over.
	retryFor = sqlstore.WriteTimeout
	// retryPause is the pause between two attempts.
	retryPause = 50 * time.Millisecond
)

// readers is a pool of connections for statements that only read. Each connection is opened when it
// is first needed.
type readers struct {
	open   func(ctx context.Context) (*conn, error)
	idle   chan *conn // a nil conn stands for a connection that is not open
	closed chan struct{}
}

// newReaders returns a pool of n connections, of which only `first` is open.
func newReaders(n int, first *conn, open func(ctx context.Context) (*conn, error)) *readers {
	r := &readers{open: open, idle: make(chan *conn, n), closed: make(chan struct{})}
	r.idle <- first
	for range n - 1 {
		r.idle <- nil
	}
	return r
}

// The method `do` calls `run` with a connection, and calls it again with another connection if the
// first one is lost. `ctx` limits only how long `do` waits for a connection.
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

// The method `once` calls `run` once, with the connection `c` or, if `c` is nil, with a new
// connection. It returns the connection if it can be used again.
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
	// first rows in the order of the index. Without these settings, which end with the transaction,
	// PostgreSQL may read and sort all rows if it has no statistics, for example after a restore.
	// With `enable_sort = off`, PostgreSQL estimates a high cost for each plan that must sort, and
	// would compile such an expensive plan to machine code, which is slow. `jit = off` prevents
	// this.
	beginSearch = beginSnapshot + `;
	SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off; SET LOCAL jit = off`
)

// snapshot is like the method `do`, but runs all queries of `run` in one read transaction, so that
// they see the same state of the database. `begin` is the SQL that begins the transaction.
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
