package sqlite

import (
	"context"
	"errors"

	"gangway/hub/store/sqlstore"
)

// readers is a fixed set of connections that cannot write. Each query sees all commits that ended
// before the query began.
type readers struct {
	idle   chan *conn // the connections that no call uses at the moment
	size   int
	all    []*conn // all connections; only Store.Work uses this field, to read the counters of the connections
	closed chan struct{}
}

func openReaders(path string, n int) (*readers, error) {
	r := &readers{idle: make(chan *conn, n), closed: make(chan struct{})}
	for range n {
		c, err := openConn(path, "query_only = ON", "cache_size = -8192", "temp_store = MEMORY")
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		r.idle <- c
		r.size++
		r.all = append(r.all, c)
	}
	return r, nil
}

// do calls the function `f` with a connection. ctx limits only the wait for the connection. `f`
// must be short, because do does not interrupt it.
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
	case <-ctx.Done():
		return ctx.Err()
	case <-r.closed:
		return sqlstore.ErrClosed
	}
}

var (
	beginRead = sqlstore.ForSQLite(`BEGIN`)
	endRead   = sqlstore.ForSQLite(`COMMIT`)
)

// snapshot calls the function `f` as do does, but in one read transaction: all queries of `f` see
// the same state of the database.
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
	var errs []error
	for range r.size {
		c := <-r.idle
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}
