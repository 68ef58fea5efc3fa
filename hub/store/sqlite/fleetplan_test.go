package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/sqlstore"
	"gangway/hub/store/storetest"
	"gangway/internal/race"

	sqlite3 "modernc.org/sqlite/lib"
)

// emptyDatabase makes an empty database with the schema of a hub, and opens it with database/sql in
// addition to the store.
func emptyDatabase(t *testing.T) *sql.DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hub.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// Every statement finds its rows by an index, and reads them in the order of the result, so that
// SQLite need not scan a table or sort rows.
func TestFleetQueriesUseTheirIndexes(t *testing.T) {
	t.Parallel()
	db := emptyDatabase(t)
	all := sqlstore.FleetStatements()
	maps.Copy(all, sqlstore.RequestStatements())
	for name, st := range all {
		args := make([]any, strings.Count(st.SQLite, "?"))
		for i := range args {
			args[i] = 1
		}
		rows, err := db.Query("EXPLAIN QUERY PLAN "+st.SQLite, args...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, detail)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		for _, step := range plan {
			table, scans := strings.CutPrefix(step, "SCAN ")
			if table == "1" || strings.HasPrefix(table, "(subquery") || slices.Contains(plan, "CO-ROUTINE "+table) {
				scans = false // the rows come from another step of the plan
			}
			if strings.HasPrefix(table, "json_each VIRTUAL TABLE") || strings.HasPrefix(table, "v VIRTUAL TABLE") {
				scans = false // the rows are the list that the statement has as an argument
			}
			if table == "config_version" { // it has one row
				scans = false
			}
			sorts := strings.Contains(step, "TEMP B-TREE")
			whole := strings.Contains(step, "devices_nick") // a query with this index reads all devices of an owner
			if scans || sorts || whole {
				t.Errorf("%s: %s\nin\n%s", name, step, strings.Join(plan, "\n"))
			}
		}
		if strings.Contains(name, "short") && !strings.HasPrefix(name, "meta") && !fewInState(name) && !strings.Contains(plan[0], "COVERING INDEX") {
			t.Errorf("%s reads rows of devices: %s", name, plan)
		}
		if name == "by id" && !strings.Contains(plan[0], "(id>? AND id<?)") {
			t.Errorf("%s: %s", name, plan)
		}
	}
}

// fewInState reports whether the statement with this name reads the devices in a rare state, for
// example "failed". The statement uses an index of only these devices, but SQLite also reads the
// rows themselves, because it checks the condition of the index again.
func fewInState(name string) bool {
	for _, state := range []string{store.StateBootChanged, store.StateUpdating, store.StateFailed, store.StateCloned} {
		if strings.HasPrefix(name, "state "+state) {
			return true
		}
	}
	return false
}

// steps returns what all read connections together have done since the previous call: the
// operations of SQLite's virtual machine, the rows that table scans read, and the sorts.
func (s *Store) steps(t *testing.T) (operations, scanned, sorted int32) {
	t.Helper()
	for range s.readers.connections() {
		c, err := s.readers.take(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.readers.give(c)
		o, n, m := c.steps()
		operations, scanned, sorted = operations+o, scanned+n, sorted+m
	}
	return operations, scanned, sorted
}

func (c *conn) steps() (operations, scanned, sorted int32) {
	for _, st := range c.stmts {
		if st == 0 {
			continue
		}
		operations += sqlite3.Xsqlite3_stmt_status(c.tls, st, sqlite3.SQLITE_STMTSTATUS_VM_STEP, 1)
		scanned += sqlite3.Xsqlite3_stmt_status(c.tls, st, sqlite3.SQLITE_STMTSTATUS_FULLSCAN_STEP, 1)
		sorted += sqlite3.Xsqlite3_stmt_status(c.tls, st, sqlite3.SQLITE_STMTSTATUS_SORT, 1)
	}
	return operations, scanned, sorted
}

// withOwner opens a new store with one account, and closes it when the test ends.
func withOwner(t *testing.T) (*Store, store.Account) {
	t.Helper()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	owner := storetest.Account("ada")
	if err := s.CreateAccount(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	return s, owner
}

// The work for a query has an upper bound that does not depend on the number of devices.
func TestFleetQuestionsTouchBoundedRows(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	s, owner := withOwner(t)
	// The words, the metadata and the model in the searches below match each device of the owner.
	// One device in a hundred is quiet. No two devices have the same firmware.
	const fleet = 10_000
	if err := s.writer.do(t.Context(), func(c *conn) error {
		if _, err := c.Exec(manyOwned, owner.ID, int64(fleet)); err != nil {
			return err
		}
		if _, err := c.Exec(manyFirmwares); err != nil {
			return err
		}
		_, err := c.Exec(forgetIndex)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.IndexAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask := map[string]func(ctx context.Context) error{
		"counts":   func(ctx context.Context) error { _, err := s.FleetCounts(ctx, owner.ID); return err },
		"arrivals": func(ctx context.Context) error { _, err := s.Arrivals(ctx, owner.ID, time.Unix(0, 0), 366); return err },
		"facets": func(ctx context.Context) error {
			_, _, err := s.Facets(ctx, owner.ID, store.FieldFirmware, 10)
			return err
		},
	}
	term := func(field store.SearchField, key, value string) store.SearchTerm {
		return store.SearchTerm{Field: field, Key: key, Value: value}
	}
	for _, q := range []store.DeviceSearch{
		{}, {Words: []string{"forklift"}}, {Words: []string{"forklift", "nobody"}}, {Words: []string{"0"}}, {Words: []string{"forklift", "0", "1"}}, {Words: []string{"0000"}},
		{Terms: []store.SearchTerm{term(store.FieldMeta, "site", "oslo")}},
		{Terms: []store.SearchTerm{term(store.FieldMeta, "site", "oslo"), term(store.FieldMeta, "odd", "1")}},
		{Terms: []store.SearchTerm{term(store.FieldModel, "", ""), term(store.FieldState, "", "quiet")}},
		{Terms: []store.SearchTerm{term(store.FieldState, "", "active")}, Words: []string{"9"}},
		{Terms: []store.SearchTerm{term(store.FieldMeta, "odd", "0"), term(store.FieldMeta, "odd", "1"), term(store.FieldMaker, "", "")}},
		{Terms: []store.SearchTerm{term(store.FieldID, "", "0000")}},
	} {
		q.Owner = owner.ID
		ask[fmt.Sprintf("count %+v", q)] = func(ctx context.Context) error { _, err := s.CountSearch(ctx, q); return err }
		for _, key := range []store.SortKey{store.SortNick, store.SortCreated, store.SortLastSeen, store.SortModel} {
			for _, down := range []bool{false, true} {
				q.Sort, q.Descending = key, down
				ask[fmt.Sprintf("search %+v", q)] = func(ctx context.Context) error { _, err := s.SearchDevices(ctx, q); return err }
			}
		}
	}
	for name, question := range ask {
		s.steps(t)
		if err := question(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// SQLite needs about 30 operations to read a row for a search, and about 10 to check the
		// row's metadata. A search reads at most 1000 rows in succession.
		if operations, scanned, sorted := s.steps(t); operations > 60*(1000+2*store.MaxCount) || scanned > 0 || sorted > 0 {
			t.Errorf("%s: %d operations, %d rows scanned, %d sorts", name, operations, scanned, sorted)
		}
	}
}

var (
	manyOwned = sqlstore.ForSQLite(`INSERT INTO devices (id, nick, owner, token, deleted, created, activated, last_seen, last_seen_addr, user_meta, device_meta, quiet)
		WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
		SELECT printf('%024x', i), printf('forklift-%06d', i), ?1, 'tok', 0, i, i, i, '', '{"odd":' || i % 2 || ',"site":"oslo"}', '{}', i % 100 = 0 FROM n`)
	manyFirmwares = sqlstore.ForSQLite(`UPDATE device_search SET firmware = nick`)
	forgetIndex   = sqlstore.ForSQLite(`DELETE FROM settings WHERE name = 'search-index'`)
)
