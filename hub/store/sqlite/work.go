package sqlite

import "sync/atomic"

// Work counts what a Store has done since Open.
type Work struct {
	Statements uint64 // all statements that were run, including statements that write
	Rows       uint64 // that queries returned
}

// workCounters counts the work of one connection.
type workCounters struct{ statements, rows atomic.Uint64 }

// Work returns the counters, summed over all connections. Tests compare two calls to check that a
// page does not cost too much.
func (s *Store) Work() (w Work) {
	for _, c := range append(s.readers.connections(), s.writer.conn) {
		w.Statements += c.work.statements.Load()
		w.Rows += c.work.rows.Load()
	}
	return w
}
