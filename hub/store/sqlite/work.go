package sqlite

import "sync/atomic"

// Work counts what a Store has done since it was opened.
type Work struct {
	Statements uint64 // that were run, also those that change something
	Rows       uint64 // that queries returned
}

// workCounters are the counters of one connection.
type workCounters struct{ statements, rows atomic.Uint64 }

// Work returns the counters of all connections. Tests use the difference between two calls to bound
// what a page costs.
func (s *Store) Work() (w Work) {
	for _, c := range append([]*conn{s.writer.conn}, s.readers.all...) {
		w.Statements += c.work.statements.Load()
		w.Rows += c.work.rows.Load()
	}
	return w
}
