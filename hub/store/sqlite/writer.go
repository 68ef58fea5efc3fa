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

// batchSize bounds a transaction, and so how long a write can wait for its
// neighbours: 256 activations take about as long as one flush of a slow disk.
const batchSize = 256

// writer owns the only connection that writes. Its goroutine takes whatever
// is queued, runs it in one transaction, and answers after the commit.
//
// The invariant that makes sharing safe: an operation that returns an error
// has left no trace in the transaction. Operations check first and write
// last, so a refusal has written nothing and costs nothing to undo. One that
// fails after its first write spoils the transaction, which is then rolled
// back and run again with a savepoint around each operation. So an operation
// may run twice, and must set its results anew each time.
type writer struct {
	conn    *conn
	queue   chan *job
	stopped chan struct{} // closed when the goroutine has ended

	mu     sync.RWMutex // held shared while sending to queue, alone to close it
	closed bool

	commits atomic.Uint64
	ops     atomic.Uint64
}

// job is an operation in the queue.
type job struct {
	ctx  context.Context
	run  func(*conn) error
	err  error      // of the operation, until the commit decides
	done chan error // has room for the one answer

	// taken is won either by the writer, which then runs the job, or by its
	// caller, who has given up on it.
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
		// A page that many commits touch is copied into the database once a
		// checkpoint: fewer checkpoints, fewer copies. 32 MiB of log.
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

// writeTimeout is how long an operation waits for its turn, unless its context
// says otherwise (store.WithWriteTimeout).
const writeTimeout = 5 * time.Second

// do queues an operation and waits until it is durable or refused. When ctx or
// its patience ends before the operation was begun, it never happens; once
// begun, do waits for the outcome, so that the caller knows it. store.ErrBusy
// says that nothing was written.
func (w *writer) do(ctx context.Context, run func(*conn) error) error {
	patience := time.Now().Add(store.WriteTimeout(ctx, writeTimeout))
	for {
		err := w.try(ctx, patience, run)
		if !errors.Is(err, store.ErrBusy) || !time.Now().Before(patience) {
			return err
		}
		select { // another process has the file: it is not asked without a pause
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

// gaveUp is why a context that waited has ended: its caller's own reason, or
// store.ErrBusy.
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

// close lets the queue run dry, then closes the connection.
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
		// The callers that the last commit answered are runnable now: let
		// them queue their next writes rather than commit one alone.
		runtime.Gosched()
		batch = w.fill(batch[:0], first)
		w.transact(batch)
		for _, j := range batch {
			j.done <- j.err
		}
		clear(batch)
	}
}

// fill makes the batch: the first job and what waits behind it.
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

// take claims a job for the writer, unless its caller has given up.
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

// transact runs a batch and commits it. When the transaction fails as a
// whole, every job of it gets that error, refused ones too: a refusal may
// rest on a write that is undone with the rest.
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
		// Fails when SQLite has rolled back by itself already.
		_ = w.conn.control(rollback)
		if errors.Is(err, store.ErrNoSpace) {
			// Give back what the log holds; its pages may fit the database.
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

// together runs the jobs one after the other. It stops, with the transaction
// rolled back, when one has failed with its work half done.
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

// apart runs the jobs with a savepoint around each.
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
				// No savepoint any more: SQLite has given up the transaction.
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
