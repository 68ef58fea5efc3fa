// Package sqlstore implements the interfaces of package store for engines that use SQL, and
// contains the text of all statements. An engine (packages sqlite and postgres) is a driver: it
// provides the connections, the transactions and the schema, and passes them to New as a DB.
package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gangway/hub/store"
)

// ErrClosed is the error of every call after Close.
var ErrClosed = errors.New("store: the store is closed")

// ErrConstraint means that a statement violates a constraint of the schema. The statement has
// changed nothing. Drivers return errors that wrap ErrConstraint.
var ErrConstraint = errors.New("store: a constraint of the schema is violated")

// DB is a database: the part of a store that a driver implements.
type DB interface {
	// Write runs an operation in a transaction and waits until the transaction is durable or has
	// failed. Operations of different calls may share one transaction. If `run` returns an error,
	// the operation changes nothing. Write may call `run` several times, so `run` must assign all
	// its results each time.
	Write(ctx context.Context, run func(Conn) error) error
	// Read calls the function `run` with a connection that cannot write. Each statement sees every
	// write that was acknowledged before the statement began. Read may call `run` several times.
	Read(ctx context.Context, run func(Conn) error) error
	// Snapshot is like Read, but all statements of `run` see the same state of the database.
	Snapshot(ctx context.Context, run func(Conn) error) error
	// Search is like Snapshot, for queries that find their rows by an index.
	Search(ctx context.Context, run func(Conn) error) error
	// Shared reports whether other processes may use the database, perhaps of earlier versions of
	// the hub.
	Shared() bool
	// LastText returns an argument that is greater than every text in the database.
	LastText() any
}

// Conn is a connection to the database. It may run only one statement at a time, in one goroutine.
// Arguments have the types int64, string, []byte and []string. A []string is a list of values;
// engines differ in how a statement refers to it. A nil []byte becomes an empty blob, not NULL.
type Conn interface {
	// Exec runs a statement that returns no rows. It returns the number of changed rows.
	Exec(s *Statement, args ...any) (changed int64, err error)
	// Do runs a statement whose number of changed rows does not matter. A driver may send the
	// statement later, together with the next statement of the connection. So its error may be
	// returned by a later call, or only after the operation has returned; in both cases, the
	// operation changes nothing.
	Do(s *Statement, args ...any) error
	// Again is like Do, but the statement runs at the end of the transaction, and only once for all
	// equal calls in the transaction.
	Again(s *Statement, args ...any) error
	// Then runs a statement as Do does, and later calls the function `f` with the number of changed
	// rows: at the latest after the operation has returned, but before the transaction commits. `f`
	// may use the connection, and is a part of the operation: it may set results, and its error
	// counts as an error of the operation. A driver can so send the statements of many operations
	// together, although each operation needs a result.
	Then(s *Statement, f func(changed int64) error, args ...any) error
	// One returns the first row of a query. `ok` is false if the query has no row. The row is valid
	// until the connection is used again, but values that were read from it stay valid.
	One(s *Statement, args ...any) (r Row, ok bool, err error)
	// Each calls the function `f` with every row of a query, until `f` returns false or an error.
	// `f` must not use the connection.
	Each(s *Statement, f func(Row) (more bool, err error), args ...any) error
	// EachColumns is like Each, but the function `f` reads the columns itself. This allocates less
	// memory for queries with many rows.
	EachColumns(s *Statement, f func(Columns) (more bool, err error), args ...any) error
}

// Later has the statements that Conn.Again must run at the end of a transaction.
type Later struct{ calls []laterCall }

type laterCall struct {
	statement *Statement
	args      []any
}

// Add adds a call, unless there is an equal one.
func (l *Later) Add(s *Statement, args []any) {
	if !slices.ContainsFunc(l.calls, func(c laterCall) bool { return c.statement == s && reflect.DeepEqual(c.args, args) }) {
		l.calls = append(l.calls, laterCall{s, args})
	}
}

// Run runs the statements and forgets them.
func (l *Later) Run(c Conn) error {
	for _, call := range l.calls {
		if err := c.Do(call.statement, call.args...); err != nil {
			return err
		}
	}
	l.Forget()
	return nil
}

// Forget removes all calls.
func (l *Later) Forget() { l.calls = l.calls[:0] }

// The function `one` returns the first row of a query, as Conn.One does. If the query has no row,
// it returns store.ErrNotFound.
func one(c Conn, st *Statement, args ...any) (Row, error) {
	r, ok, err := c.One(st, args...)
	if err == nil && !ok {
		err = store.ErrNotFound
	}
	return r, err
}

// Columns are the columns of the current row of a query, none of which is NULL.
type Columns interface {
	// Text returns column `i`. If the text is equal to `like`, it returns `like` and allocates
	// nothing.
	Text(i int, like string) string
	Int64(i int) int64
}

// Store implements the interfaces of package store on a DB.
type Store struct {
	db   DB
	seen *sightings
	// unproven counts the calls of keepCertificate, because only every n-th call counts the
	// unproven certificates in the database.
	unproven atomic.Uint64
	// chains holds the keys of those rows of ek_chains that this process has committed.
	chains sync.Map
	packed atomic.Bool // PackEvidence has nothing to do any more
}

// New returns a store on a database. The driver must close the store before it closes the database,
// and call IndexAgain before any other method.
func New(db DB) *Store { return &Store{db: traced{fenced{db}}, seen: newSightings(db)} }

// Close writes the sightings of devices that are still only in memory. It does not close the
// database.
func (s *Store) Close() error { return s.seen.close() }

// existsOr converts the error of a violated constraint to store.ErrExists. Use it only for
// statements that can violate only UNIQUE constraints.
func existsOr(err error) error {
	if errors.Is(err, ErrConstraint) {
		return fmt.Errorf("%w: %w", store.ErrExists, err)
	}
	return err
}

// expire runs a statement that removes or empties at most `limit` rows that expired at or before
// `now`. It returns the number of changed rows.
func (s *Store) expire(ctx context.Context, statement *Statement, now time.Time, limit int) (int, error) {
	if limit <= 0 {
		return 0, nil
	}
	var n int64
	err := s.db.Write(ctx, func(c Conn) (err error) {
		n, err = c.Exec(statement, micro(now), int64(limit))
		return err
	})
	if err != nil {
		return 0, err
	}
	return int(n), nil
}

// Ping implements store.Health. It reads one row, and then waits for its turn in the queue of
// writes, but writes nothing.
func (s *Store) Ping(ctx context.Context) error {
	err := s.db.Read(ctx, func(c Conn) error {
		_, _, err := c.One(ping)
		return err
	})
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(Conn) error { return nil })
}

var ping = both(`SELECT count(*) FROM goose_db_version WHERE id = 1`, `SELECT count(*) FROM schema_versions WHERE version = 1`)
