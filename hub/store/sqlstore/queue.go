package sqlstore

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"gangway/hub/store"
)

// WriteTimeout is how long an operation waits for its turn, unless store.WithWriteTimeout has set
// another limit in the operation's context.
const WriteTimeout = 5 * time.Second

// Queue holds the operations that wait for a write transaction. A driver takes them in batches,
// runs each batch in one transaction, and then answers the callers, so that all operations of a
// batch share one flush to disk.
type Queue struct {
	jobs chan *Job
	size int // largest number of jobs in a batch

	mu     sync.RWMutex // read lock: to send to the channel jobs; write lock: to close this channel
	closed bool

	ops atomic.Uint64
}

// Job is an operation in the queue.
type Job struct {
	// Run runs the operation. A driver may call it several times.
	Run func(Conn) error
	// Err is the result of the operation. The driver sets it before it calls Answer.
	Err error

	ctx  context.Context
	done chan error // buffered, for the one answer

	// The driver sets `taken` before it runs the job. The caller sets `taken` when it no longer
	// waits for the result. Only the first of the two succeeds.
	taken atomic.Bool
}

// Answer sends the result of the job to its caller.
func (j *Job) Answer() { j.done <- j.Err }

// Context returns the caller's context. The context ends at the latest when the caller's write
// timeout is over. Its end does not stop a job that the driver has taken.
func (j *Job) Context() context.Context { return j.ctx }

// NewQueue returns a queue whose batches have at most `size` jobs.
func NewQueue(size int) *Queue { return &Queue{jobs: make(chan *Job, size), size: size} }

// Waiting returns the number of jobs that no driver has taken yet.
func (q *Queue) Waiting() int { return len(q.jobs) }

// Taken returns the number of jobs that drivers have taken.
func (q *Queue) Taken() uint64 { return q.ops.Load() }

// Do queues an operation and waits until it is durable or has failed. If `ctx` ends or the write
// timeout passes before the operation begins, it never runs. After the operation has begun, Do
// waits for the result, so that the caller always knows whether the write happened. store.ErrBusy
// means that nothing was written.
func (q *Queue) Do(ctx context.Context, run func(Conn) error) error {
	deadline := time.Now().Add(store.WriteTimeout(ctx, WriteTimeout))
	for {
		err := q.try(ctx, deadline, run)
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

func (q *Queue) try(ctx context.Context, until time.Time, run func(Conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	waiting, cancel := context.WithDeadlineCause(ctx, until, store.ErrBusy)
	defer cancel()
	j := &Job{ctx: waiting, Run: run, done: make(chan error, 1)}
	if err := q.send(j); err != nil {
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

// gaveUp returns the error for an operation whose context ended before the operation began. It is
// store.ErrBusy if the write timeout has passed, and the error of the caller's context otherwise.
func gaveUp(ctx context.Context) error {
	if cause := context.Cause(ctx); cause == store.ErrBusy {
		return cause
	}
	return ctx.Err()
}

func (q *Queue) send(j *Job) error {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.closed {
		return ErrClosed
	}
	select {
	case q.jobs <- j:
		return nil
	case <-j.ctx.Done():
		return gaveUp(j.ctx)
	}
}

// Close makes the queue refuse new jobs. Next still returns the jobs that are already queued, and
// then reports that the queue is closed.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.jobs)
	}
}

// Next waits for jobs and appends the next batch of them to `batch`, except for jobs whose callers
// have given up. So it may append nothing. `open` is false if the queue is closed and empty.
func (q *Queue) Next(batch []*Job) (_ []*Job, open bool) {
	first, open := <-q.jobs
	if !open {
		return batch, false
	}
	// The callers whose writes were just committed can run again now. Let them queue their next
	// writes first, so that those share a commit.
	runtime.Gosched()
	batch = q.fill(batch, first)
	q.ops.Add(uint64(len(batch)))
	return batch, true
}

func (q *Queue) fill(batch []*Job, first *Job) []*Job {
	if first.take() {
		batch = append(batch, first)
	}
	for len(batch) < q.size {
		select {
		case j, open := <-q.jobs:
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

// The method `take` reports whether the driver must run the job. It returns false if the caller no
// longer waits for the result.
func (j *Job) take() bool {
	if !j.taken.CompareAndSwap(false, true) {
		return false
	}
	if j.ctx.Err() != nil {
		j.done <- gaveUp(j.ctx)
		return false
	}
	return true
}
