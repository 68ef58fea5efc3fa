package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"gangway/hub/store/sqlstore"
)

const (
	// batchSize is the maximum number of operations in one transaction.
	batchSize = 64
	// batchTimeout limits how long one attempt to run a transaction may take.
	batchTimeout = 30 * time.Second
	// resolveTimeout is how long the writer tries to find out whether a commit happened, if the
	// answer to the commit is lost.
	resolveTimeout = time.Minute
	// cleanInterval is how often old rows of write_marks are removed.
	cleanInterval = time.Minute
)

// writers runs the queued operations, on one or several connections. Each connection takes a batch
// of operations and runs them in one transaction, as the writer of package sqlite does.
//
// Invariant: an operation that returns an error has changed nothing in the transaction. Operations
// check first and write last, so that a refusal usually has nothing to undo. If an operation fails
// after its first write, or if one of its statements fails, the transaction is rolled back, and
// then all its operations run again, each in a savepoint.
//
// The transactions of all hubs run one after the other, because each begins by locking the table
// write_turn. Therefore they need neither serializable isolation nor retries after conflicts, and
// rows are numbered in the order of the commits. Batches keep this fast: while one transaction
// waits for the flush to disk, the operations of the next one are collected.
type writers struct {
	*sqlstore.Queue
	open    func(ctx context.Context) (*conn, error)
	running sync.WaitGroup
	commits atomic.Uint64
	retries atomic.Uint64
	cleaned atomic.Int64 // time of the last removal of old rows of write_marks, in nanoseconds

	resolveFor time.Duration // resolveTimeout, or less in tests
}

func newWriters(n int, open func(ctx context.Context) (*conn, error)) *writers {
	w := &writers{Queue: sqlstore.NewQueue(batchSize), open: open, resolveFor: resolveTimeout}
	w.cleaned.Store(time.Now().UnixNano())
	for range n {
		w.running.Go(w.loop)
	}
	return w
}

// close runs all queued operations, and then closes the connections.
func (w *writers) close() {
	w.Queue.Close()
	w.running.Wait()
}

func (w *writers) loop() {
	var c *conn
	defer func() {
		if c != nil {
			_ = c.close()
		}
	}()
	for batch := make([]*sqlstore.Job, 0, batchSize); ; {
		var open bool
		if batch, open = w.Next(batch[:0]); !open {
			return
		}
		if len(batch) == 0 {
			continue
		}
		c = w.transact(c, batch)
		for _, j := range batch {
			j.Answer()
		}
		clear(batch)
	}
}

// transact runs a batch of jobs in a transaction, and commits it. If the transaction fails as a
// whole, every job gets the error, even jobs that were refused, because their refusal may depend on
// a write that was rolled back. transact returns the connection if it can be used again.
func (w *writers) transact(c *conn, batch []*sqlstore.Job) *conn {
	deadline := untilOf(batch)
	for attempt := 0; ; attempt++ {
		var err error
		c, err = w.attempt(c, batch)
		if err == nil {
			w.clean(c)
			break
		}
		if errors.Is(err, ErrUnknown) || !repeatable(err) || time.Now().After(deadline) {
			for _, j := range batch {
				j.Err = fmt.Errorf("postgres: transaction: %w", err)
			}
			break
		}
		w.retries.Add(1)
		if attempt > 0 { // one lost connection says nothing about the next
			time.Sleep(retryPause)
		}
	}
	if c != nil && c.closed() {
		return nil
	}
	return c
}

// untilOf returns the time at which transact gives up its retries: after retryFor, or when the last
// caller stops waiting, whichever is earlier.
func untilOf(batch []*sqlstore.Job) (until time.Time) {
	for _, j := range batch {
		if j.Until().After(until) {
			until = j.Until()
		}
	}
	if latest := time.Now().Add(retryFor); latest.Before(until) {
		return latest
	}
	return until
}

// attempt runs the batch once. If it returns an error other than ErrUnknown, nothing was written.
func (w *writers) attempt(c *conn, batch []*sqlstore.Job) (*conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	if c == nil || c.closed() {
		var err error
		if c, err = w.open(ctx); err != nil {
			return nil, err
		}
	}
	c.ctx = ctx
	wrote, spoiled, mark, err := c.together(batch)
	if err == nil && spoiled {
		wrote, mark, err = c.apart(batch)
	}
	if err != nil {
		c.undo(err)
		return c, err
	}
	c, err = w.commit(c, mark)
	if err == nil && wrote {
		w.commits.Add(1)
	}
	return c, err
}

// mark is the id of a transaction in the table write_marks.
type mark [16]byte

// begin begins a transaction, waits for its turn and writes its mark, all in one message to the
// server. If this hub then falls silent, the server ends the transaction after a while, so that
// other hubs get their turn.
func (c *conn) begin() (m mark, err error) {
	rand.Read(m[:])
	c.failed = nil
	c.forget()
	_, err = c.control(fmt.Sprintf(`BEGIN ISOLATION LEVEL READ COMMITTED;
		SET LOCAL idle_in_transaction_session_timeout = '2s'; SET LOCAL lock_timeout = '5s';
		LOCK TABLE write_turn IN EXCLUSIVE MODE; INSERT INTO write_marks (id) VALUES ('\x%x')`, m[:]))
	return m, err
}

// The method `undo` rolls back a transaction after an error.
func (c *conn) undo(err error) {
	if lost(err) {
		c.drop()
		return
	}
	c.rollback()
}

// The method `together` runs the jobs in order in one transaction. If a job fails after it has
// written something, or if a statement of a job fails, the transaction is rolled back, and
// `spoiled` is true.
func (c *conn) together(batch []*sqlstore.Job) (wrote, spoiled bool, m mark, err error) {
	if m, err = c.begin(); err != nil {
		return false, false, m, err
	}
	for i, j := range batch {
		c.wrote, c.job = false, i
		j.Err = j.Run(c)
		if c.failed != nil && repeatable(c.failed) {
			return false, false, m, c.failed
		}
		if c.failed != nil || j.Err != nil && c.wrote {
			c.rollback()
			return false, true, m, nil
		}
		wrote = wrote || c.wrote
	}
	refused := false
	err = c.settle(func(i int, err error) { batch[i].Err, refused = err, true })
	switch {
	case err == nil && !refused:
		return wrote, false, m, nil
	case err != nil && repeatable(err):
		return false, false, m, err
	}
	c.rollback()
	return false, true, m, nil
}

// The method `apart` runs the jobs in one transaction, each in its own savepoint.
func (c *conn) apart(batch []*sqlstore.Job) (wrote bool, m mark, err error) {
	if m, err = c.begin(); err != nil {
		return false, m, err
	}
	for _, j := range batch {
		if _, err := c.control("SAVEPOINT op"); err != nil {
			return false, m, err
		}
		c.wrote = false
		if j.Err = j.Run(c); j.Err == nil {
			if err := c.settle(func(_ int, err error) { j.Err = err }); err != nil {
				j.Err = err
			}
		}
		c.forget()
		if c.failed != nil && repeatable(c.failed) {
			return false, m, c.failed
		}
		end := "RELEASE op"
		if c.failed != nil || j.Err != nil {
			end = "ROLLBACK TO op; RELEASE op"
			c.wrote = false
		}
		c.failed = nil
		if _, err := c.control(end); err != nil {
			return false, m, err
		}
		wrote = wrote || c.wrote
	}
	return wrote, m, nil
}

// commit commits a transaction. If the connection is lost before the answer arrives, or if the
// server has not waited for its standby, commit finds out whether the transaction is durably
// committed.
func (w *writers) commit(c *conn, m mark) (*conn, error) {
	c.warning = ""
	tag, err := c.control("COMMIT")
	switch {
	case err == nil && tag == "COMMIT" && c.warning == "":
		return c, nil
	case err == nil && tag == "COMMIT":
		err = errors.New(c.warning)
	case err == nil: // the transaction had failed, and no job has noticed that
		return c, &lostError{fmt.Errorf("the server answered COMMIT with %s", tag)}
	case !lost(err):
		c.rollback()
		return c, err
	}
	c.drop()
	return w.resolve(m, err)
}

// resolve finds out whether the transaction that wrote the mark `m` is committed, after the
// connection was lost with the error `cause`. It returns a new connection if the transaction is
// committed, and a lostError if it is not.
func (w *writers) resolve(m mark, cause error) (*conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), w.resolveFor)
	defer cancel()
	for {
		c, err := w.open(ctx)
		if err == nil {
			c.ctx = ctx
			var committed bool
			committed, err = c.committed(m)
			switch {
			case err == nil && committed:
				return c, nil
			case err == nil:
				return c, &lostError{cause}
			}
			c.drop()
		}
		select {
		case <-ctx.Done():
			// Do not wrap the causes with %w: a wrapped cause would mean that nothing was written,
			// and the queue would run the operations again.
			return nil, fmt.Errorf("%w (%v, then %v)", ErrUnknown, cause, err)
		case <-time.After(retryPause):
		}
	}
}

// committed reports whether the transaction that wrote the mark `m` is committed. If committed
// returns an error, the caller may call it again.
//
// To find out, committed tries to write the same mark. If the transaction has not ended yet, this
// write waits for its end. If the write succeeds, the transaction is not committed, and can never
// be committed. This also holds if another server has taken over, because that server has the mark
// only if it has the transaction. Looking for the transaction's number would not be enough, because
// the other server may have given it to another transaction.
//
// The mark that committed writes has the time -infinity. If the answer to one call is lost, the
// next call therefore does not mistake this mark for that of the transaction.
func (c *conn) committed(m mark) (bool, error) {
	tag, err := c.control(fmt.Sprintf(`INSERT INTO write_marks (id, at) VALUES ('\x%x', '-infinity') ON CONFLICT DO NOTHING`, m[:]))
	if err != nil || tag != "INSERT 0 0" {
		return false, err
	}
	// After a crash, the server may have transactions that its standby does not have. Therefore the
	// following write is necessary: the server answers it only when the standby has all earlier
	// transactions.
	c.warning = ""
	tag, err = c.control(fmt.Sprintf(`UPDATE write_marks SET at = clock_timestamp() WHERE id = '\x%x' AND at > '-infinity'`, m[:]))
	if err == nil && c.warning != "" {
		err = errors.New(c.warning)
	}
	return tag == "UPDATE 1", err
}

// The method `clean` removes the marks of old transactions from time to time. No writer looks for
// them any more, because it gives up after resolveTimeout.
func (w *writers) clean(c *conn) {
	last, now := w.cleaned.Load(), time.Now().UnixNano()
	if now-last < int64(cleanInterval) || !w.cleaned.CompareAndSwap(last, now) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	c.ctx, c.failed = ctx, nil
	if _, err := c.Exec(forgetMarks); err != nil && lost(err) {
		c.drop()
	}
}

var forgetMarks = sqlstore.ForPostgres(`DELETE FROM write_marks WHERE at < clock_timestamp() - interval '10 minutes'`)
