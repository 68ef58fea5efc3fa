package sqlite

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"gangway/hub/store"
	"gangway/hub/store/sqlstore"
)

// batchSize is the maximum number of operations in one transaction. In a larger batch, a write
// would wait longer for the other writes: 256 activations take about as long as one flush of a slow
// disk.
const batchSize = 256

// writer owns the only connection that writes. Its goroutine runs queued operations together in one
// transaction, and answers their callers after the commit.
//
// Invariant: an operation that returns an error has changed nothing in the transaction. Operations
// check first and write last, so that a refusal usually has nothing to undo. If an operation fails
// after its first write, the writer rolls back the transaction and runs all its operations again,
// each in a savepoint. Therefore an operation may run twice, and must assign all its results each
// time.
type writer struct {
	*sqlstore.Queue
	conn        *conn
	checkpoints *checkpointer
	stopped     chan struct{} // closed when the goroutine has ended

	commits atomic.Uint64
}

var (
	begin      = sqlstore.ForSQLite(`BEGIN IMMEDIATE`)
	commit     = sqlstore.ForSQLite(`COMMIT`)
	rollback   = sqlstore.ForSQLite(`ROLLBACK`)
	savepoint  = sqlstore.ForSQLite(`SAVEPOINT op`)
	rollbackTo = sqlstore.ForSQLite(`ROLLBACK TO op`)
	release    = sqlstore.ForSQLite(`RELEASE op`)
)

func openWriter(path string) (*writer, error) {
	if err := registerWAL(); err != nil {
		return nil, err
	}
	c, err := openConn(path, walVFS,
		"synchronous = FULL", // required by walVFS
		"foreign_keys = ON",
		// KiB. SQLite gives pages a very high number for a moment when it rearranges a B-tree, and
		// after such a transaction, it searches the whole cache for pages behind the end of the
		// file. So a larger cache costs more than it saves.
		"cache_size = -8192",
		"temp_store = MEMORY",
		"journal_size_limit = 67108864",
	)
	if err != nil {
		return nil, err
	}
	c.countPages()
	k, err := openCheckpointer(path)
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	w := &writer{Queue: sqlstore.NewQueue(batchSize), conn: c, checkpoints: k, stopped: make(chan struct{})}
	go w.loop()
	return w, nil
}

// The method `do` runs an operation: see sqlstore.Queue.Do.
func (w *writer) do(ctx context.Context, run func(*conn) error) error {
	return w.Do(ctx, func(c sqlstore.Conn) error { return run(c.(*conn)) })
}

// close runs all queued operations, and then closes the connections.
func (w *writer) close() error {
	w.Queue.Close()
	<-w.stopped
	return errors.Join(w.checkpoints.close(), w.conn.close())
}

func (w *writer) loop() {
	defer close(w.stopped)
	batch := make([]*sqlstore.Job, 0, batchSize)
	for {
		var open bool
		if batch, open = w.Next(batch[:0]); !open {
			return
		}
		w.transact(batch)
		for _, j := range batch {
			j.Answer()
		}
		w.checkpoints.committed(w.conn, w.conn.logPages())
		clear(batch)
	}
}

// transact runs a batch of jobs in a transaction, and commits it. If the transaction fails as a
// whole, every job gets the error, even jobs that were refused, because their refusal may depend on
// a write that was rolled back.
func (w *writer) transact(batch []*sqlstore.Job) {
	if len(batch) == 0 {
		return
	}
	wrote, spoiled, err := w.together(batch)
	if spoiled {
		wrote, err = w.apart(batch)
	}
	if err == nil {
		err = w.conn.control(commit)
	}
	if err != nil {
		// The rollback fails if SQLite has already rolled back the transaction. Ignore this error.
		_ = w.conn.control(rollback)
		if errors.Is(err, store.ErrNoSpace) {
			// The disk is full. Emptying the write-ahead log may free enough space for the next
			// writes.
			_ = w.conn.pragma("wal_checkpoint(TRUNCATE)")
		}
		for _, j := range batch {
			j.Err = fmt.Errorf("sqlite: transaction: %w", err)
		}
		return
	}
	if wrote {
		w.commits.Add(1)
	}
}

// The method `together` runs the jobs in order in one transaction. If a job fails after it has
// written something, the transaction is rolled back, and `spoiled` is true.
func (w *writer) together(batch []*sqlstore.Job) (wrote, spoiled bool, err error) {
	if err := w.conn.control(begin); err != nil {
		return false, false, err
	}
	w.conn.again.Forget()
	for _, j := range batch {
		w.conn.wrote = false
		j.Err = j.Run(w.conn)
		if j.Err != nil && w.conn.wrote {
			_ = w.conn.control(rollback)
			return false, true, nil
		}
		wrote = wrote || w.conn.wrote
	}
	return wrote, false, w.conn.again.Run(w.conn)
}

// The method `apart` runs the jobs in one transaction, each in its own savepoint.
func (w *writer) apart(batch []*sqlstore.Job) (wrote bool, err error) {
	if err := w.conn.control(begin); err != nil {
		return false, err
	}
	for _, j := range batch {
		if err := w.conn.control(savepoint); err != nil {
			return false, err
		}
		w.conn.wrote = false
		w.conn.again.Forget()
		if j.Err = j.Run(w.conn); j.Err == nil {
			j.Err = w.conn.again.Run(w.conn)
		}
		if j.Err != nil {
			if err := w.conn.control(rollbackTo); err != nil {
				// The savepoint no longer exists, because SQLite has rolled back the transaction.
				return false, errors.Join(j.Err, err)
			}
			w.conn.wrote = false
		}
		if err := w.conn.control(release); err != nil {
			return false, err
		}
		wrote = wrote || w.conn.wrote
	}
	return wrote, nil
}
