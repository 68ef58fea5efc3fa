package sqlite

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"gangway/hub/store"
)

// batchSize is the largest number of operations in one transaction. It limits how long a write
// waits for other writes: 256 activations take about as long as one flush of a slow disk.
const batchSize = 256

// writer owns the only connection that writes. The writer's goroutine runs all queued operations in
// one transaction, and answers the callers of these operations after the commit.
//
// Invariant: an operation that returns an error has changed nothing in the transaction. Operations
// check first and write last, so that a refusal usually needs no undo. If an operation fails after
// its first write, the writer rolls back the transaction, and runs all operations of the
// transaction again, each in a savepoint. So an operation may run twice, and must assign all its
// results each time.
type writer struct {
	conn    *conn
	queue   chan *job
	stopped chan struct{} // closed when the goroutine has ended

	mu     sync.RWMutex // read lock: to send to queue; write lock: to close queue
	closed bool

	commits atomic.Uint64
	ops     atomic.Uint64
}

// job is an operation in the queue.
type job struct {
	ctx  context.Context
	run  func(*conn) error
	err  error      // error of the operation; final after the commit
	done chan error // buffered, for the one answer

	// The writer sets taken to run the job. The caller sets taken to give up. Whoever sets it first
	// succeeds.
	taken atomic.Bool
}

var (
	begin      = prepared(`BEGIN IMMEDIATE`)
	commit     = prepared(`COMMIT`)
	rollback   = prepared(`ROLLBACK`)
	savepoint  = prepared(`SAVEPOINT op`)
	rollbackTo = prepared(`ROLLBACK TO op`)
	release    = prepared(`RELEASE op`)
)

func openWriter(path string) (*writer, error) {
	c, err := openConn(path,
		"synchronous = FULL",
		"foreign_keys = ON",
		"cache_size = -16384", // KiB
		"temp_store = MEMORY",
		// A checkpoint copies each changed page into the database file only once, even if many
		// commits changed the page. So fewer checkpoints copy fewer pages. 8192 pages are 32 MiB of
		// the write-ahead log.
		"wal_autocheckpoint = 8192",
		"journal_size_limit = 67108864",
	)
	if err != nil {
		return nil, err
	}
	w := &writer{conn: c, queue: make(chan *job, batchSize), stopped: make(chan struct{})}
	go w.loop()
	return w, nil
}

// writeTimeout is how long an operation waits for its turn, unless store.WithWriteTimeout has set
// another time in the operation's context.
const writeTimeout = 5 * time.Second

// do queues an operation and waits until the operation is durable or refused. If ctx ends or the
// write timeout passes before the operation begins, the operation never runs. After the operation
// has begun, do waits for the result, so that the caller always knows whether the write happened.
// store.ErrBusy means that nothing was written.
func (w *writer) do(ctx context.Context, run func(*conn) error) error {
	deadline := time.Now().Add(store.WriteTimeout(ctx, writeTimeout))
	for {
		err := w.try(ctx, deadline, run)
		if !errors.Is(err, store.ErrBusy) || !time.Now().Before(deadline) {
			return err
		}
		select { // another process has locked the database: wait before the retry
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (w *writer) try(ctx context.Context, until time.Time, run func(*conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	waiting, cancel := context.WithDeadlineCause(ctx, until, store.ErrBusy)
	defer cancel()
	j := &job{ctx: waiting, run: run, done: make(chan error, 1)}
	if err := w.send(j); err != nil {
		return err
	}
	select {
	case err := <-j.done:
		return err
	case <-waiting.Done():
		if j.taken.CompareAndSwap(false, true) {
			return gaveUp(waiting)
		}
		return <-j.done
	}
}

// gaveUp returns the error for an operation whose context ended before the operation began:
// store.ErrBusy after the write timeout, otherwise the error of the caller's context.
func gaveUp(ctx context.Context) error {
	if cause := context.Cause(ctx); cause == store.ErrBusy {
		return cause
	}
	return ctx.Err()
}

func (w *writer) send(j *job) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return errClosed
	}
	select {
	case w.queue <- j:
		return nil
	case <-j.ctx.Done():
		return gaveUp(j.ctx)
	}
}

// close runs all queued operations, and then closes the connection.
func (w *writer) close() error {
	w.mu.Lock()
	w.closed = true
	close(w.queue)
	w.mu.Unlock()
	<-w.stopped
	return w.conn.close()
}

func (w *writer) loop() {
	defer close(w.stopped)
	batch := make([]*job, 0, batchSize)
	for first := range w.queue {
		// The callers of the last commit can run again now. Let these callers queue their next
		// writes first, so that the writes share a commit.
		runtime.Gosched()
		batch = w.fill(batch[:0], first)
		w.transact(batch)
		for _, j := range batch {
			j.done <- j.err
		}
		clear(batch)
	}
}

// fill returns the next batch: the job `first` and the jobs in the queue, without jobs whose
// callers have given up.
func (w *writer) fill(batch []*job, first *job) []*job {
	if first.take() {
		batch = append(batch, first)
	}
	for len(batch) < batchSize {
		select {
		case j, open := <-w.queue:
			if !open {
				return batch
			}
			if j.take() {
				batch = append(batch, j)
			}
		default:
			return batch
		}
	}
	return batch
}

// take reports whether the writer must run the job. It returns false if the caller has given up.
func (j *job) take() bool {
	if !j.taken.CompareAndSwap(false, true) {
		return false
	}
	if j.ctx.Err() != nil {
		j.done <- gaveUp(j.ctx)
		return false
	}
	return true
}

// transact runs a batch of jobs in a transaction, and commits the transaction. If the transaction
// fails as a whole, every job gets the error. Refused jobs get the error too, because their refusal
// may depend on a write that was rolled back.
func (w *writer) transact(batch []*job) {
	if len(batch) == 0 {
		return
	}
	w.ops.Add(uint64(len(batch)))
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
			// The disk is full. Empty the write-ahead log: this may free enough space for the next
			// writes.
			_ = w.conn.pragma("wal_checkpoint(TRUNCATE)")
		}
		for _, j := range batch {
			j.err = fmt.Errorf("sqlite: transaction: %w", err)
		}
		return
	}
	if wrote {
		w.commits.Add(1)
	}
}

// together runs the jobs in order in one transaction. If a job fails after it has written
// something, together rolls back the transaction and returns `spoiled` as true.
func (w *writer) together(batch []*job) (wrote, spoiled bool, err error) {
	if err := w.conn.control(begin); err != nil {
		return false, false, err
	}
	for _, j := range batch {
		w.conn.wrote = false
		j.err = j.run(w.conn)
		if j.err != nil && w.conn.wrote {
			_ = w.conn.control(rollback)
			return false, true, nil
		}
		wrote = wrote || w.conn.wrote
	}
	return wrote, false, nil
}

// apart runs the jobs in one transaction, each in its own savepoint.
func (w *writer) apart(batch []*job) (wrote bool, err error) {
	if err := w.conn.control(begin); err != nil {
		return false, err
	}
	for _, j := range batch {
		if err := w.conn.control(savepoint); err != nil {
			return false, err
		}
		w.conn.wrote = false
		j.err = j.run(w.conn)
		if j.err != nil {
			if err := w.conn.control(rollbackTo); err != nil {
				// The savepoint no longer exists, because SQLite has rolled back the transaction.
				return false, errors.Join(j.err, err)
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
