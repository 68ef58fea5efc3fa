// Package postgres is an engine for package store that lets several hubs share one PostgreSQL
// database. It uses no feature of PostgreSQL that depends on the session (session locks, LISTEN,
// session variables), so a pooler such as PgBouncer may give each transaction another connection.
//
// Writes are durable as package store requires: the engine never changes synchronous_commit. If a
// connection is lost, reads are repeated. Writes are repeated only once the engine knows that they
// were not committed.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"gangway/hub/store/sqlstore"

	"github.com/jackc/pgx/v5/pgconn"
)

// Store is an engine of package store that stores all data in a PostgreSQL database. Open returns a
// Store.
type Store struct {
	*sqlstore.Store
	hosts   []*pgconn.Config // one for each host of the URL
	pooled  bool
	writers *writers
	readers *readers
	work    workCounters

	closing  sync.Once
	closeErr error
}

// Open opens a database, and updates its schema. If the schema is newer and this program cannot use
// it, Open returns ErrNewerSchema.
func Open(ctx context.Context, config Config) (*Store, error) {
	folder, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	list, err := readMigrations(folder)
	if err != nil {
		return nil, err
	}
	return open(ctx, config, list)
}

func open(ctx context.Context, config Config, list []migration) (*Store, error) {
	parsed, pooled, err := config.parse()
	if err != nil {
		return nil, err
	}
	s := &Store{hosts: split(parsed), pooled: pooled}
	first, err := s.prepare(ctx, list)
	if err != nil {
		return nil, err
	}
	s.writers = newWriters(orDefault(config.Writers, defaultWriters), s.connect)
	s.readers = newReaders(orDefault(config.Readers, defaultReaders), first, s.connect)
	s.Store = sqlstore.New(database{s})
	if err := s.IndexAgain(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func orDefault(n, otherwise int) int {
	if n > 0 {
		return n
	}
	return otherwise
}

// prepare checks the database and updates its schema. It returns the connection that it used.
func (s *Store) prepare(ctx context.Context, list []migration) (_ *conn, err error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = c.close()
		}
	}()
	row, _, err := firstRow(ctx, c.pg, `SELECT current_setting('server_encoding'), current_setting('standard_conforming_strings')`)
	if err != nil {
		return nil, err
	}
	if row[0] != "UTF8" || row[1] != "on" {
		return nil, fmt.Errorf("postgres: the database has the encoding %s and standard_conforming_strings = %s: make a database with the encoding UTF8, and set standard_conforming_strings to on", row[0], row[1])
	}
	return c, migrate(ctx, c.pg, list)
}

// connect opens a connection.
func (s *Store) connect(ctx context.Context) (*conn, error) {
	pg, err := connectFirst(ctx, s.hosts)
	if err != nil {
		return nil, &lostError{err}
	}
	c := &conn{pg: pg, ctx: ctx, work: &s.work, batch: &pgconn.Batch{}}
	pg.CustomData()[connKey] = c
	if !s.pooled {
		c.kept = make([]keptStatement, len(sqlstore.Statements()))
	}
	return c, nil
}

// Close waits for all queued writes, writes the times of the devices' last contacts that are still
// only in memory, and closes the connections. Later calls of other methods fail. Close may be
// called again.
func (s *Store) Close() error {
	s.closing.Do(func() {
		err := s.Store.Close()
		s.writers.close()
		s.closeErr = errors.Join(err, s.readers.close())
	})
	return s.closeErr
}

// database implements sqlstore.DB for a Store.
type database struct{ s *Store }

func (d database) Write(ctx context.Context, run func(sqlstore.Conn) error) error {
	return d.s.writers.Do(ctx, run)
}

func (d database) Read(ctx context.Context, run func(sqlstore.Conn) error) error {
	return d.s.readers.do(ctx, func(c *conn) error { return run(c) })
}

func (d database) Snapshot(ctx context.Context, run func(sqlstore.Conn) error) error {
	return d.s.readers.snapshot(ctx, beginSnapshot, func(c *conn) error { return run(c) })
}

func (d database) Search(ctx context.Context, run func(sqlstore.Conn) error) error {
	return d.s.readers.snapshot(ctx, beginSearch, func(c *conn) error { return run(c) })
}

// lastText is greater than every text that does not begin with 64 characters U+10FFFF.
var lastText = func() string {
	text := make([]rune, 64)
	for i := range text {
		text[i] = '\U0010FFFF'
	}
	return string(text)
}()

// Shared implements sqlstore.DB.
func (d database) Shared() bool { return true }

// LastText implements sqlstore.DB.
func (d database) LastText() any { return lastText }

// Stats counts what the writers have done since Open.
type Stats struct {
	Commits uint64 // transactions that wrote something
	Ops     uint64 // all operations that callers queued, including refused ones
	Retries uint64 // transactions that ran again after a lost connection or a conflict
}

// WritesWaiting implements store.Health.
func (s *Store) WritesWaiting() int { return s.writers.Waiting() }

// Stats returns the counters of the writers.
func (s *Store) Stats() Stats {
	return Stats{Commits: s.writers.commits.Load(), Ops: s.writers.Taken(), Retries: s.writers.retries.Load()}
}

// Work counts what a Store has done since Open.
type Work struct {
	Statements uint64 // all statements that were run, including statements that write
	Rows       uint64 // that queries returned
}

// Work returns the counters, summed over all connections.
func (s *Store) Work() Work {
	return Work{Statements: s.work.statements.Load(), Rows: s.work.rows.Load()}
}

// EndTransfer removes the table that package transfer has left in the database, after which no
// transfer can change the database. A hub calls EndTransfer before it uses the database.
func (s *Store) EndTransfer(ctx context.Context) error {
	return s.writers.Do(ctx, func(c sqlstore.Conn) error { return c.Do(endTransfer) })
}

var endTransfer = sqlstore.ForPostgres(`DROP TABLE IF EXISTS move_state`)
