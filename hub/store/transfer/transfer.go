// Package transfer moves the database of a hub from SQLite to PostgreSQL, while the hub runs.
//
//  1. Open adds triggers to the file, which note the key of each row that changes.
//  2. Copy copies each table in portions, then brings PostgreSQL up to date, and compares every
//     row. The hub may change rows meanwhile: these rows are compared later, when CatchUp copies
//     them again.
//  3. CatchUp copies the rows that have changed since the last call.
//  4. When the hub has closed the file, Finish copies the last changes, and writes the hub's name to
//     PostgreSQL. Without this name, a hub refuses the database.
//
// Each step can be interrupted and repeated. CatchUp reads all its rows from the same state of the
// file, and writes them in one transaction in PostgreSQL.
//
// A Snapshot reads all rows of a database as they were at one moment, for a backup. A Target is a
// new database that gets these rows, for a restore.
package transfer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	"gangway/hub/store/postgres"
	"gangway/hub/store/sqlite"

	_ "modernc.org/sqlite" // the driver of the file
)

// Options say what to move.
type Options struct {
	File string          // the SQLite database; its schema must be that of this program
	To   postgres.Config // a database that is empty, or has a part of this move
	Hub  string          // the hub's name
	// If Progress is not nil, it is called after each portion. `rows` is the number of the table's
	// rows that were copied so far.
	Progress func(table string, rows int64)
}

// A portion ends when it has this number of rows or of bytes. Its last row may exceed the number of
// bytes.
const (
	portion      = 2000
	portionBytes = 16 << 20
)

// errEnough ends the reading of a portion.
var errEnough = errors.New("enough")

var (
	// ErrUsed means that the target already contains the data of a hub.
	ErrUsed = errors.New("the PostgreSQL database already contains the data of a hub")
	// ErrOther means that the target has rows that this move has not copied, for example rows of
	// another move.
	ErrOther = errors.New("the PostgreSQL database contains rows that this move has not copied: create an empty database, and start again")
	// ErrUpgraded means that the schema of the file has changed since the move began.
	ErrUpgraded = errors.New("the hub was upgraded during the move: run 'gangway db migrate --stop', create an empty database, and start again")
)

// table is a table of both databases, which sort its rows by `key` in the same order.
type table struct {
	name string
	key  []string
	// whole means that the table is copied in one portion, because its key ignores case in SQLite.
	whole bool
	// counter is the column whose numbers the database assigns, or "".
	counter string
	// never means that the database never reuses the number of a removed row.
	never bool
}

// The order of `tables` is such that each row comes after the rows that it refers to.
var tables = []table{
	{name: "accounts", key: []string{"id"}},
	{name: "sessions", key: []string{"token_hash"}},
	{name: "retired_nicks", key: []string{"nick"}, whole: true},
	{name: "api_tokens", key: []string{"hash"}},
	{name: "join_tokens", key: []string{"id"}},
	{name: "lost_devices", key: []string{"id"}},
	{name: "token_uses", key: []string{"token", "device"}},
	{name: "enrolments", key: []string{"id"}, counter: "id"},
	{name: "ek_chains", key: []string{"sum"}},
	{name: "pending_usage", key: []string{"owner"}},
	{name: "tpms", key: []string{"ek"}},
	{name: "aiks", key: []string{"name"}},
	{name: "issued_aiks", key: []string{"id"}, counter: "id"},
	{name: "ek_certificates", key: []string{"ek"}},
	{name: "devices", key: []string{"id"}},
	{name: "device_secrets", key: []string{"device"}},
	{name: "boots", key: []string{"id"}, counter: "id"},
	{name: "boot_devices", key: []string{"device"}},
	{name: "manifest_keys", key: []string{"owner", "id"}},
	{name: "manifests", key: []string{"owner", "id"}},
	{name: "boot_rules", key: []string{"owner"}},
	{name: "boot_decisions", key: []string{"id"}, counter: "id", never: true},
	{name: "boot_judged", key: []string{"device"}},
	{name: "boot_parts", key: []string{"device", "part"}},
	{name: "boot_cohorts", key: []string{"owner", "part", "model", "value"}},
	{name: "boot_versions", key: []string{"owner", "part", "value", "model", "firmware"}},
	{name: "clones", key: []string{"device"}},
	{name: "told", key: []string{"device", "mark"}},
	{name: "chip_marks", key: []string{"mark", "device"}},
	{name: "events", key: []string{"seq"}, counter: "seq"},
	{name: "config_version", key: []string{"id"}, whole: true},
	{name: "trusted_certificates", key: []string{"id"}, counter: "id"},
	{name: "policies", key: []string{"owner"}},
	{name: "ek_lists", key: []string{"owner", "key"}},
	{name: "waiting", key: []string{"id"}, counter: "id"},
	{name: "settings", key: []string{"name"}, whole: true},
	{name: "alarms", key: []string{"name"}, whole: true},
	{name: "saved_views", key: []string{"owner", "name"}, whole: true},
	{name: "trails", key: []string{"device"}},
	{name: "steps", key: []string{"id"}, counter: "id"},
	{name: "step_objects", key: []string{"owner", "sum", "device", "rev"}},
	{name: "objects", key: []string{"owner", "sum"}},
	{name: "contents", key: []string{"sum"}},
	{name: "uploads", key: []string{"place"}},
	{name: "usage", key: []string{"owner"}},
	{name: "log_batches", key: []string{"first"}},
	{name: "log_counter", key: []string{"id"}, whole: true},
	{name: "log_usage", key: []string{"device"}},
	{name: "log_rules", key: []string{"owner"}},
	{name: "device_search", key: []string{"owner", "nick"}},
	{name: "device_words", key: []string{"owner", "word", "nick"}},
	{name: "device_meta_terms", key: []string{"term", "nick"}},
	{name: "fleet_counts", key: []string{"owner", "field", "value"}, whole: true},
	{name: "fleet_arrivals", key: []string{"owner", "day"}},
	{name: "leases", key: []string{"name"}},
	{name: "replica_messages", key: []string{"seq"}, counter: "seq", never: true},
	{name: "temporary_values", key: []string{"kind", "key"}},
	{name: "hub_counts", key: []string{"field", "value"}, whole: true},
}

// Run moves the database of a stopped hub.
func Run(ctx context.Context, o Options) (err error) {
	m, err := Open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := m.Copy(ctx); err != nil {
		return err
	}
	if err := m.Finish(ctx); err != nil {
		return err
	}
	return Validate(ctx, o.To)
}

// Move has the two open databases.
type Move struct {
	Options
	from *sql.DB
	to   *postgres.Raw
	id   string // id of this move, in both databases
	// columns holds the columns of each table.
	columns map[string][]string
}

// Open prepares both databases: it makes the schema of the target, and adds the triggers to the
// file.
func Open(ctx context.Context, o Options) (_ *Move, err error) {
	db, err := postgres.Open(ctx, o.To)
	if err != nil {
		return nil, err
	}
	hub, err := db.Hub(ctx)
	if err := errors.Join(err, db.Close()); err != nil {
		return nil, err
	}
	m := &Move{Options: o, columns: map[string][]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if err := m.open(ctx); err != nil {
		return nil, err
	}
	for _, table := range tables {
		if m.columns[table.name], err = m.columnsOf(ctx, table.name); err != nil {
			return nil, fmt.Errorf("%s: %w", table.name, err)
		}
	}
	if err := m.watch(ctx); err != nil {
		return nil, err
	}
	return m, m.prepare(ctx, hub)
}

func (m *Move) open(ctx context.Context) (err error) {
	done, err := sqlite.TakeTurn(m.File)
	if err != nil {
		return err
	}
	defer done()
	// With wal_autocheckpoint(0), only the hub copies the write-ahead log into the file, and never
	// this program.
	if m.from, err = openFile(m.File, "mode=rw&_pragma=busy_timeout(5000)&_pragma=wal_autocheckpoint(0)"); err != nil {
		return err
	}
	m.from.SetMaxOpenConns(2)
	m.from.SetMaxIdleConns(2)
	if err := m.from.PingContext(ctx); err != nil {
		return err
	}
	m.to, err = postgres.OpenRaw(ctx, m.To)
	return err
}

// openFile opens a SQLite database by a URL, in which the path must be absolute.
func openFile(path, options string) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	address := url.URL{Scheme: "file", Path: path, RawQuery: options}
	return sql.Open("sqlite", address.String())
}

// Close closes the databases. It may be called more than once.
func (m *Move) Close() (err error) {
	if m.from != nil {
		done, turn := sqlite.TakeTurn(m.File)
		if turn == nil {
			defer done()
		}
		err = m.from.Close()
	}
	if m.to != nil {
		err = errors.Join(err, m.to.Close())
	}
	m.from, m.to = nil, nil
	return err
}

// Copy copies all tables, and compares every row. The hub may go on using the file.
func (m *Move) Copy(ctx context.Context) error {
	for _, table := range tables {
		if err := m.copy(ctx, table); err != nil {
			return fmt.Errorf("copy %s: %w", table.name, err)
		}
	}
	if _, err := m.CatchUp(ctx); err != nil {
		return err
	}
	for _, table := range tables {
		if err := m.compare(ctx, table); err != nil {
			return fmt.Errorf("compare %s: %w", table.name, err)
		}
	}
	// ANALYZE gives PostgreSQL's planner statistics about the copied rows.
	return m.to.Exec(ctx, "ANALYZE")
}
