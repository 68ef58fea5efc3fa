package transfer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gangway/hub/store/postgres"
	"gangway/hub/store/sqlite"
)

// Target is a new database that is filled with the rows of a snapshot.
type Target interface {
	// Add adds rows to a table. `first` must be true for the first rows of a table, so that Add
	// empties the table before it adds them.
	Add(ctx context.Context, table string, columns []string, rows [][]any, first bool) error
	// Finish sets the counters. A hub can use the database only after that.
	Finish(ctx context.Context, counters map[string]int64) error
	// Close closes the database. Unless Finish was called before, no hub will accept it.
	Close() error
}

// Known reports whether rows for this table can be added to a Target.
func Known(name string) bool {
	return !passing[name] && slices.ContainsFunc(tables, func(t table) bool { return t.name == name })
}

// file is a SQLite database as a Target. All calls of Add are one transaction.
type file struct {
	db       *sql.DB
	tx       *sql.Tx
	triggers []string // the statements that make the removed triggers again
	insert   *sql.Stmt
	into     string // the table and the columns of `insert`
}

// NewFile makes a SQLite database with the schema of a version. NewFile fails if the file exists.
func NewFile(ctx context.Context, path string, schema int64) (_ Target, err error) {
	if err := sqlite.Create(ctx, path, schema); err != nil {
		return nil, err
	}
	db, err := openFile(path, "mode=rw&_pragma=foreign_keys(0)&_pragma=synchronous(full)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	f := &file{db: db}
	if f.tx, err = db.BeginTx(ctx, nil); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if err := f.dropTriggers(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// dropTriggers removes the triggers; Finish makes them again. The added rows come from a snapshot,
// which already contains what the triggers would write.
func (f *file) dropTriggers(ctx context.Context) error {
	var names []string
	err := eachRow(ctx, f.tx, `SELECT name, sql FROM sqlite_master WHERE type = 'trigger'`, nil, 2, func(row []any) error {
		names = append(names, fmt.Sprint(row[0]))
		f.triggers = append(f.triggers, fmt.Sprint(row[1]))
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := f.tx.ExecContext(ctx, `DROP TRIGGER "`+name+`"`); err != nil {
			return err
		}
	}
	return nil
}

// Add implements Target.
func (f *file) Add(ctx context.Context, table string, columns []string, rows [][]any, first bool) error {
	if first {
		if _, err := f.tx.ExecContext(ctx, `DELETE FROM `+table); err != nil {
			return err
		}
	}
	if into := table + " (" + quoted(columns) + ")"; into != f.into {
		holes := strings.TrimSuffix(strings.Repeat("?, ", len(columns)), ", ")
		insert, err := f.tx.PrepareContext(ctx, `INSERT INTO `+into+` VALUES (`+holes+`)`)
		if err != nil {
			return err
		}
		f.insert, f.into = insert, into
	}
	for _, row := range rows {
		if _, err := f.insert.ExecContext(ctx, row...); err != nil {
			return err
		}
	}
	return nil
}

// Finish implements Target.
func (f *file) Finish(ctx context.Context, counters map[string]int64) error {
	for _, t := range tables {
		if !t.never {
			continue
		}
		if _, err := f.tx.ExecContext(ctx, `DELETE FROM sqlite_sequence WHERE name = ?`, t.name); err != nil {
			return err
		}
		if _, err := f.tx.ExecContext(ctx, `INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)`, t.name, counters[t.name+"."+t.counter]); err != nil {
			return err
		}
	}
	for _, trigger := range f.triggers {
		if _, err := f.tx.ExecContext(ctx, trigger); err != nil {
			return err
		}
	}
	if err := f.tx.Commit(); err != nil {
		return err
	}
	// Move the rows from the write-ahead log to the file, because renaming the file does not rename
	// its write-ahead log.
	_, err := f.db.ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`)
	return err
}

// Close implements Target.
func (f *file) Close() error {
	if err := f.tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return errors.Join(err, f.db.Close())
	}
	return f.db.Close()
}

// server is a PostgreSQL database as a Target. Each call of Add is a transaction.
type server struct{ raw *postgres.Raw }

// Newest means the newest version of the schema that this program knows.
const Newest = 0

// NewPostgres makes the tables of a schema version in a PostgreSQL database, and returns the
// database as a Target. The database must be empty, or contain only rows that an interrupted
// restore has written. A hub accepts the database only after Finish, and after the store's
// ClaimForHub has then written the name of the hub.
func NewPostgres(ctx context.Context, config postgres.Config, schema int64) (Target, error) {
	switch err := postgres.Create(ctx, config, int(schema)); {
	case errors.Is(err, postgres.ErrNotNew):
		return nil, fmt.Errorf("%w: %w", ErrUsed, err)
	case err != nil:
		return nil, err
	}
	raw, err := postgres.OpenRaw(ctx, config)
	if err != nil {
		return nil, err
	}
	return &server{raw}, nil
}

// Add implements Target.
func (s *server) Add(ctx context.Context, table string, columns []string, rows [][]any, first bool) error {
	return s.raw.Replace(ctx, table, columns, rows, first)
}

// Finish implements Target.
func (s *server) Finish(ctx context.Context, counters map[string]int64) error {
	for name := range counters {
		if !slices.ContainsFunc(tables, func(t table) bool { return name == t.name+"."+t.counter }) {
			return fmt.Errorf("the counter %q is not known", name)
		}
	}
	return s.raw.Finish(ctx, counters, "")
}

// Close implements Target.
func (s *server) Close() error { return s.raw.Close() }
