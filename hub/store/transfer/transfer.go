// Package transfer reads and writes whole databases of a hub.
//
// Run copies a database from SQLite to PostgreSQL. The hub must be stopped. Each table is copied in portions, and each portion is one transaction. An interrupted transfer goes
// on after the last portion. Then every row of both databases is compared. Only after that, the new
// database gets the hub's name, without which a hub refuses the database.
//
// A Snapshot reads all rows of a database as they were at one moment, for a backup. A Target is a new
// database that gets these rows, for a restore.
package transfer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"gangway/hub/store/postgres"

	_ "modernc.org/sqlite" // the driver of the file
)

// Options say what to transfer.
type Options struct {
	File string          // the SQLite database
	To   postgres.Config // a database that is empty, or has a part of an earlier transfer
	Hub  string          // the hub's name
	// Progress is called after each portion, unless it is nil. rows is the number of the table's rows
	// that are copied.
	Progress func(table string, rows int64)
}

// The largest number of rows and of bytes in one transaction. The last row may exceed the number of
// bytes.
const (
	portion      = 2000
	portionBytes = 16 << 20
)

// errEnough ends the reading of a portion.
var errEnough = errors.New("enough")

// ErrUsed means that the target has the data of a hub.
var ErrUsed = errors.New("the PostgreSQL database has the data of a hub already")

// table is a table of both databases. Its key orders the rows in the same way in both databases.
type table struct {
	name    string
	key     []string
	columns []string
	// whole: the table is copied in one portion, because its key ignores case in SQLite.
	whole bool
	// counter is the column whose numbers the database assigns, or "".
	counter string
	// never: the database never uses the number of a removed row again.
	never bool
}

// tables are in an order in which each row comes after the rows to which it refers.
var tables = []table{
	{name: "accounts", key: []string{"id"}},
	{name: "sessions", key: []string{"token_hash"}},
	{name: "retired_nicks", key: []string{"nick"}, whole: true},
	{name: "api_tokens", key: []string{"hash"}},
	{name: "join_tokens", key: []string{"id"}},
	{name: "lost_devices", key: []string{"id"}},
	{name: "token_uses", key: []string{"token", "device"}},
	{name: "enrolments", key: []string{"id"}, counter: "id"},
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

// Run transfers a database. It makes the schema of the target first.
func Run(ctx context.Context, o Options) error {
	db, err := postgres.Open(ctx, o.To)
	if err != nil {
		return err
	}
	hub, err := db.Hub(ctx)
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if hub != "" {
		return fmt.Errorf("%w: %s", ErrUsed, hub)
	}
	t, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer t.close()
	for _, table := range tables {
		if err := t.copy(ctx, table); err != nil {
			return fmt.Errorf("copy %s: %w", table.name, err)
		}
	}
	for _, table := range tables {
		if err := t.compare(ctx, table); err != nil {
			return fmt.Errorf("compare %s: %w", table.name, err)
		}
	}
	return t.finish(ctx)
}

// transfer has the two open databases.
type transfer struct {
	Options
	from *sql.DB
	to   *postgres.Raw
}

func open(ctx context.Context, o Options) (*transfer, error) {
	from, err := openFile(o.File, "mode=ro")
	if err != nil {
		return nil, err
	}
	from.SetMaxOpenConns(1)
	to, err := postgres.OpenRaw(ctx, o.To)
	if err != nil {
		from.Close()
		return nil, err
	}
	return &transfer{Options: o, from: from, to: to}, nil
}

// openFile opens a SQLite database. In a URL, the path must be absolute.
func openFile(path, options string) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	address := url.URL{Scheme: "file", Path: path, RawQuery: options}
	return sql.Open("sqlite", address.String())
}

func (t *transfer) close() { _ = errors.Join(t.from.Close(), t.to.Close()) }

// columnsOf returns the columns of a table. The columns of both databases have the same names, in
// different orders.
func (t *transfer) columnsOf(ctx context.Context, table string) (columns []string, err error) {
	rows, err := t.from.QueryContext(ctx, `SELECT name FROM pragma_table_info(?)`, table)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		columns = append(columns, name)
	}
	if len(columns) == 0 {
		return nil, errors.New("the SQLite database does not have this table")
	}
	return columns, rows.Err()
}

// selection is a query for rows of the table after a key (of n values), in the order of the key.
func (t table) selection(after int) string {
	query := "SELECT " + quoted(t.columns) + " FROM " + t.name
	if after > 0 {
		holes := strings.TrimSuffix(strings.Repeat("?, ", after), ", ")
		query += " WHERE (" + quoted(t.key) + ") > (" + holes + ")"
	}
	return query + " ORDER BY " + quoted(t.key)
}

func quoted(names []string) string { return `"` + strings.Join(names, `", "`) + `"` }

// copy copies the rows of a table that the target does not have yet.
func (t *transfer) copy(ctx context.Context, table table) (err error) {
	if table.columns, err = t.columnsOf(ctx, table.name); err != nil {
		return err
	}
	last, total, err := t.copied(ctx, table)
	if err != nil {
		return err
	}
	for {
		rows, more, err := t.read(ctx, table, last)
		if err != nil {
			return err
		}
		if len(rows) > 0 || table.whole {
			if err := t.to.Replace(ctx, table.name, table.columns, rows, table.whole); err != nil {
				return err
			}
		}
		total += int64(len(rows))
		if t.Progress != nil {
			t.Progress(table.name, total)
		}
		if !more {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		last = last[:0]
		for _, name := range table.key {
			last = append(last, rows[len(rows)-1][index(table.columns, name)])
		}
	}
}

func index(list []string, name string) int {
	for i, one := range list {
		if one == name {
			return i
		}
	}
	return -1
}

// copied returns the key of the last row that the target has, and the number of its rows.
func (t *transfer) copied(ctx context.Context, table table) (last []any, rows int64, err error) {
	if table.whole {
		return nil, 0, nil
	}
	query := "SELECT " + quoted(table.key) + ", count(*) OVER () FROM " + table.name + " ORDER BY "
	for i, name := range table.key {
		if i > 0 {
			query += ", "
		}
		query += `"` + name + `" DESC`
	}
	err = t.to.Query(ctx, query+" LIMIT 1", nil, func(row []any) error {
		last, rows = append(last, row[:len(table.key)]...), row[len(table.key)].(int64)
		return nil
	})
	return last, rows, err
}

// read returns the next portion of rows of the file, or the whole table. `more` is true if there may
// be more rows.
func (t *transfer) read(ctx context.Context, table table, last []any) (list [][]any, more bool, err error) {
	size := 0
	err = t.each(ctx, table.selection(len(last)), last, len(table.columns), func(row []any) error {
		list = append(list, row)
		for _, v := range row {
			switch v := v.(type) {
			case string:
				size += len(v)
			case []byte:
				size += len(v)
			}
		}
		if !table.whole && (len(list) == portion || size >= portionBytes) {
			return errEnough
		}
		return nil
	})
	if err == errEnough {
		return list, true, nil
	}
	return list, false, err
}

// each calls the function `f` with each row of a query of the file.
func (t *transfer) each(ctx context.Context, query string, args []any, columns int, f func(row []any) error) error {
	return eachRow(ctx, t.from, query, args, columns, f)
}

// queryer is a *sql.DB or a *sql.Tx.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func eachRow(ctx context.Context, db queryer, query string, args []any, columns int, f func(row []any) error) error {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		row := make([]any, columns)
		into := make([]any, columns)
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			return err
		}
		if err := f(row); err != nil {
			return err
		}
	}
	return rows.Err()
}

// compare compares all rows of a table in both databases.
func (t *transfer) compare(ctx context.Context, table table) (err error) {
	if table.columns, err = t.columnsOf(ctx, table.name); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	mine := make(chan []any, 100)
	read := make(chan error, 1)
	go func() {
		defer close(mine)
		read <- t.each(ctx, table.selectionByBytes(), nil, len(table.columns), func(row []any) error {
			select {
			case mine <- row:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	n := 0
	err = t.to.Query(ctx, table.selection(0), nil, func(theirs []any) error {
		n++
		row, ok := <-mine
		if !ok {
			return fmt.Errorf("row %d is only in PostgreSQL", n)
		}
		for i, value := range row {
			if !same(value, theirs[i]) {
				return fmt.Errorf("the column %s of row %d differs", table.columns[i], n)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, more := <-mine; more {
		return fmt.Errorf("row %d is missing in PostgreSQL", n+1)
	}
	return <-read
}

// selectionByBytes is the query of all rows of the file in the order of PostgreSQL.
func (t table) selectionByBytes() string {
	order := make([]string, len(t.key))
	for i, name := range t.key {
		order[i] = `"` + name + `" COLLATE BINARY`
	}
	return "SELECT " + quoted(t.columns) + " FROM " + t.name + " ORDER BY " + strings.Join(order, ", ")
}

// same reports whether two values are equal. A nil blob equals an empty blob.
func same(a, b any) bool {
	if x, ok := a.([]byte); ok {
		y, ok := b.([]byte)
		return ok && string(x) == string(y)
	}
	return a == b
}

// finish sets the counters of the target, and writes the hub's name to it.
func (t *transfer) finish(ctx context.Context) error {
	counters := map[string]int64{}
	for _, table := range tables {
		if table.counter == "" {
			continue
		}
		var last sql.NullInt64
		query := "SELECT max(" + table.counter + ") FROM " + table.name
		if table.never {
			query = "SELECT max(seq) FROM sqlite_sequence WHERE name = '" + table.name + "'"
		}
		if err := t.from.QueryRowContext(ctx, query).Scan(&last); err != nil {
			return err
		}
		if last.Int64 > 0 {
			counters[table.name+"."+table.counter] = last.Int64
		}
	}
	return t.to.Finish(ctx, counters, t.Hub)
}
