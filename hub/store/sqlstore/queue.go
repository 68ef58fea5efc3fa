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

	ctx   context.Context // of the caller
	until time.Time       // when the write timeout is over
	done  chan error      // buffered, for the one answer

	// The driver sets `taken` before it runs the job. The caller sets `taken` when it no longer
	// waits for the result. Only the first of the two succeeds.
	taken atomic.Bool
}

// Answer sends the result of the job to its caller.
func (j *Job) Answer() { j.done <- j.Err }

// Until returns the time until which the caller waits for the job to begin: the end of the write
// timeout or, if that is earlier, the deadline of the caller's context.
func (j *Job) Until() time.Time {
	if deadline, ok := j.ctx.Deadline(); ok && deadline.Before(j.until) {
		return deadline
	}
	return j.until
}

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

// timers holds stopped timers. Each write needs one, but hardly ever waits until it fires.
var timers = sync.Pool{New: func() any {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}}

func (q *Queue) try(ctx context.Context, until time.Time, run func(Conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	timeout := timers.Get().(*time.Timer)
	timeout.Reset(time.Until(until))
	defer func() {
		timeout.Stop() // after this, the channel has no value
		timers.Put(timeout)
	}()
	j := &Job{ctx: ctx, until: until, Run: run, done: make(chan error, 1)}
	if err := q.send(j, timeout.C); err != nil {
		return err
	}
	var err error
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
		err = ctx.Err()
	case <-timeout.C:
		err = store.ErrBusy
	}
	if j.taken.CompareAndSwap(false, true) {
		return err
	}
	return <-j.done
}

func (q *Queue) send(j *Job, timeout <-chan time.Time) error {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.closed {
		return ErrClosed
	}
	select {
	case q.jobs <- j:
		return nil
	case <-j.ctx.Done():
		return j.ctx.Err()
	case <-timeout:
		return store.ErrBusy
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
	err := j.ctx.Err()
	if err == nil && !time.Now().Before(j.until) {
		err = store.ErrBusy
	}
	if err != nil {
		j.done <- err
		return false
	}
	return true
}
