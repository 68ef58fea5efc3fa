package sqlite

import "sync/atomic"

// Work has counters of the work that a Store has done since Open.
type Work struct {
	Statements uint64 // all statements that were run, including statements that write
	Rows       uint64 // that queries returned
}

// workCounters are the counters of one connection.
type workCounters struct{ statements, rows atomic.Uint64 }

// Work returns the sums of all connections' counters. Tests use the difference between two calls to
// bound the cost of a page.
func (s *Store) Work() (w Work) {
	for _, c := range append(s.readers.connections(), s.writer.conn) {
		w.Statements += c.work.statements.Load()
		w.Rows += c.work.rows.Load()
	}
	return w
}
