package transfer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gangway/hub/store/postgres"
	"gangway/hub/store/sqlstore"
)

// The engines of a database.
const (
	EngineSQLite   = "sqlite"
	EnginePostgres = "postgresql"
)

// passing holds the tables whose rows matter only while replicas run. A backup does not contain
// these rows.
var passing = map[string]bool{"leases": true, "replica_messages": true, "temporary_values": true}

// Snapshot is a hub's database as it was at one moment. A hub may write to the database while the
// snapshot is read.
type Snapshot struct {
	Engine string // EngineSQLite or EnginePostgres
	Schema int64  // the version of the schema; each engine has its own numbers
	from   reader
}

// reader reads a database in one transaction that changes nothing.
type reader interface {
	// query calls the function `f` with each row of a query that has `columns` columns.
	query(ctx context.Context, sql string, columns int, f func(row []any) error) error
	columnsOf(table string) string // a query for the names of a table's columns
	lastOf(t table) string         // a query for the last number that the database assigned
	close() error
}

// Close ends the snapshot.
func (s *Snapshot) Close() error { return s.from.close() }

// OpenFile opens a snapshot of a SQLite database. Another connection, of this process or of a hub,
// must have the database open, because a snapshot cannot recover a database after a crash.
func OpenFile(ctx context.Context, file string) (*Snapshot, error) {
	db, err := openFile(file, "mode=ro&_pragma=busy_timeout(10000)")
	if err != nil {
		return nil, err
	}
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return begun(ctx, EngineSQLite, &fileReader{db, tx}, `SELECT max(version_id) FROM goose_db_version`)
}

// OpenPostgres opens a snapshot of a PostgreSQL database.
func OpenPostgres(ctx context.Context, config postgres.Config) (*Snapshot, error) {
	raw, err := postgres.OpenRaw(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := raw.BeginSnapshot(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return begun(ctx, EnginePostgres, postgresReader{raw}, `SELECT max(version) FROM schema_versions`)
}

// The function `begun` returns a snapshot whose transaction has begun. A transaction begins with
// its first read, so `begun` reads the version of the schema.
func begun(ctx context.Context, engine string, from reader, version string) (*Snapshot, error) {
	s := &Snapshot{Engine: engine, from: from}
	err := from.query(ctx, version, 1, func(row []any) (err error) {
		s.Schema, err = number(row[0])
		return err
	})
	if err != nil {
		return nil, errors.Join(err, from.close())
	}
	return s, nil
}

func number(v any) (int64, error) {
	n, ok := v.(int64)
	if !ok {
		return 0, fmt.Errorf("%v (%T) is not a number", v, v)
	}
	return n, nil
}

// Rows has the rows of a table.
type Rows struct {
	Table   string
	Columns []string
	Each    func(f func(row []any) error) error // a row has values of the types int64, string, []byte and nil
}

// Tables calls the function `f` with each table. The order is such that each row comes after the
// rows that it refers to.
func (s *Snapshot) Tables(ctx context.Context, f func(Rows) error) error {
	for _, t := range tables {
		if passing[t.name] {
			continue
		}
		var columns []string
		err := s.from.query(ctx, s.from.columnsOf(t.name), 1, func(row []any) error {
			columns = append(columns, fmt.Sprint(row[0]))
			return nil
		})
		if err != nil {
			return fmt.Errorf("read the columns of %s: %w", t.name, err)
		}
		if len(columns) == 0 {
			return fmt.Errorf("the database has no table %s", t.name)
		}
		each := func(row func([]any) error) error {
			return s.from.query(ctx, t.selection(columns, 0), len(columns), func(values []any) error {
				if t.name == "settings" && values[slices.Index(columns, "name")] == sqlstore.SettingHub {
					return nil // this is the row with the name of the hub: a restore writes it last
				}
				return row(values)
			})
		}
		if err := f(Rows{Table: t.name, Columns: columns, Each: each}); err != nil {
			return fmt.Errorf("read %s: %w", t.name, err)
		}
	}
	return nil
}

// Counters returns the last number that the database has assigned, for each column ("table.column")
// whose numbers it assigns.
func (s *Snapshot) Counters(ctx context.Context) (map[string]int64, error) {
	counters := map[string]int64{}
	for _, t := range tables {
		if t.counter == "" || passing[t.name] {
			continue
		}
		err := s.from.query(ctx, s.from.lastOf(t), 1, func(row []any) error {
			if row[0] == nil {
				return nil
			}
			n, err := number(row[0])
			if n > 0 {
				counters[t.name+"."+t.counter] = n
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read the last number of %s: %w", t.name, err)
		}
	}
	return counters, nil
}

type fileReader struct {
	db *sql.DB
	tx *sql.Tx
}

func (r *fileReader) query(ctx context.Context, query string, columns int, f func([]any) error) error {
	return eachRow(ctx, r.tx, query, nil, columns, f)
}

func (r *fileReader) columnsOf(table string) string {
	return `SELECT name FROM pragma_table_info('` + table + `')`
}

func (r *fileReader) lastOf(t table) string {
	if t.never {
		return `SELECT max(seq) FROM sqlite_sequence WHERE name = '` + t.name + `'`
	}
	return `SELECT max(` + t.counter + `) FROM ` + t.name
}

func (r *fileReader) close() error { return errors.Join(r.tx.Rollback(), r.db.Close()) }

type postgresReader struct{ raw *postgres.Raw }

func (r postgresReader) query(ctx context.Context, query string, _ int, f func([]any) error) error {
	return r.raw.Query(ctx, query, nil, f)
}

func (r postgresReader) columnsOf(table string) string {
	return `SELECT attname::text FROM pg_attribute WHERE attrelid = '` + table + `'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`
}

func (r postgresReader) lastOf(t table) string {
	// PostgreSQL names the sequence of an identity column after the table and the column: see
	// "Identity Columns" in its manual.
	return `SELECT CASE WHEN is_called THEN last_value END FROM ` + strings.Join([]string{t.name, t.counter, "seq"}, "_")
}

func (r postgresReader) close() error { return r.raw.Close() }
