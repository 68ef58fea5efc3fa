package doctor_test

import (
	"bytes"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/doctor"
	"gangway/hub/objects"
	"gangway/hub/store"
	"gangway/hub/store/sqlite/sqlitetest"
	"gangway/internal/finding"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/wire/trail"

	_ "modernc.org/sqlite" // the driver
)

// tablesOf reads the list of database columns under a heading of docs/fsck.md, by the name of their
// table.
func tablesOf(t *testing.T, heading string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/fsck.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "## "+heading+"\n")
	if !ok {
		t.Fatal(heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	list := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| ([^|]+) \\|").FindAllStringSubmatch(section, -1) {
		for _, column := range strings.Split(row[2], ", ") {
			list[row[1]] = append(list[row[1]], strings.Trim(column, "` "))
		}
	}
	return list
}

const (
	determined = "Columns that something determines"
	free       = "Columns that nothing determines"
)

// raw opens a database directly, without package store and without foreign key checks.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)&_pragma=foreign_keys(0)")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

// columns returns the values of a query with one column.
func columns(t *testing.T, db *sql.DB, query string, args ...any) (list []string) {
	t.Helper()
	rows, err := db.Query(query, args...)
	if err != nil {
		t.Fatal(query, err)
	}
	defer rows.Close()
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			t.Fatal(err)
		}
		list = append(list, v)
	}
	return list
}

// Each column of the database's schema is in exactly one of the two lists in docs/fsck.md.
func TestEachColumnIsListed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hub.db")
	if err := sqlitetest.CopyEmpty(path); err != nil {
		t.Fatal(err)
	}
	db := raw(t, path)
	found, not := tablesOf(t, determined), tablesOf(t, free)
	n := 0
	for _, table := range columns(t, db, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'goose_%'`) {
		for _, column := range columns(t, db, `SELECT name FROM pragma_table_info(?)`, table) {
			n++
			if a, b := slices.Contains(found[table], column), slices.Contains(not[table], column); a == b {
				t.Errorf("%s.%s: in the first table %t, in the second %t", table, column, a, b)
			}
		}
	}
	for _, list := range []map[string][]string{found, not} {
		for _, names := range list {
			n -= len(names)
		}
	}
	if n != 0 {
		t.Errorf("docs/fsck.md lists columns that do not exist, or lists a column twice (%d)", n)
	}
}

// populated returns a hub whose database has a row in each table that docs/fsck.md names. It also
// returns the database itself, opened by raw.
func populated(t *testing.T) (*hubtest.Hub, *sql.DB) {
	t.Helper()
	maker, err := fleet.NewMaker("Maker", fleet.MakerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := hubtest.NewIn(t, sqlitetest.MemoryDir(t), nil, maker.Roots(), maker.Intermediates())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	tok, second := h.Token(t, h.Owner, nil), h.Token(t, h.Owner, nil)
	hub, err := fleet.NewHub(tok)
	must(err)
	for i := range 2 {
		d, err := fleet.New(maker, "H-2")
		must(err)
		_, err = d.Onboard(ctx, hub, tok)
		must(err)
		if i == 0 {
			_, err = d.Onboard(ctx, hub, second)
			must(err)
		}
	}
	device := h.Devices(t, h.Owner)[0]
	content := []byte("content of an object")
	sum, now := sha256.Sum256(content), time.Now()
	_, err = h.Store.AnnounceObject(ctx, store.Object{Owner: h.Owner.ID, Sum: sum, Size: int64(len(content)), Name: "o", Created: now, Modified: now}, 1<<40)
	must(err)
	u := store.Upload{Owner: h.Owner.ID, Sum: sum, Place: objects.NewPlace()}
	_, err = h.Store.BeginUpload(ctx, u, now)
	must(err)
	_, err = h.Store.FinishUpload(ctx, u, "", int64(len(content)), 1<<40, now)
	must(err)
	state, err := trail.ParseState([]byte(`{"#spec":"pantavisor-service-system@1"}`))
	must(err)
	_, _, err = h.Store.CreateTrail(ctx, store.Revision{Device: device.ID, Owner: h.Owner.ID, Status: trail.StatusNew, Posted: now, Modified: now, StateSum: store.Hash(state.Sum()), State: state.JSON, Progress: []byte("{}"), Meta: []byte("{}"), Objects: []store.Hash{sum}}, 1<<30)
	must(err)
	must(h.Store.AppendLogs(ctx, device.ID, h.Owner.ID, []store.LogEntry{{Level: "INFO", Message: "line"}}, store.LogBounds{Rows: 9, Bytes: 1 << 20}, now))
	db := raw(t, filepath.Join(h.Data(), "gangway.db"))
	for _, name := range columns(t, db, `SELECT name FROM sqlite_master WHERE type = 'trigger'`) {
		_, err := db.Exec(`DROP TRIGGER "` + name + `"`)
		must(err)
	}
	der := []byte("a key")
	id := sha256.Sum256(der)
	for _, row := range [][]any{
		{`INSERT INTO boot_judged (device, owner, version, model, token, firmware, ran) VALUES (?, ?, 1, 'm', 't', 'f', x'')`, device.ID, h.Owner.ID},
		{`INSERT INTO boot_parts (device, owner, part, value, model, token, bad, firmware) VALUES (?, ?, 'system', 'v', 'm', 't', 1, 'f')`, device.ID, h.Owner.ID},
		{`INSERT INTO boot_versions (owner, part, value, model, firmware, n, n_bad) VALUES (?, 'system', 'v', 'm', 'f', 1, 1)`, h.Owner.ID},
		{`INSERT INTO boot_cohorts (owner, part, model, value, n, n_bad, first, words, cause, firmware) VALUES (?, 'system', 'm', 'v', 1, 1, 1, '', '', '')`, h.Owner.ID},
		{`INSERT INTO boot_cohorts (owner, part, model, value, n, n_bad, first, words, cause, firmware) VALUES (?, 'system', 'm', '', 1, 0, 1, '', '', '')`, h.Owner.ID},
		{`INSERT INTO manifest_keys (owner, id, name, der, added) VALUES (?, ?, 'k', ?, 1)`, h.Owner.ID, id[:], der},
		{`INSERT INTO manifests (owner, id, key, added, manifest, signed) VALUES (?, ?, x'', 1, x'', ?)`, h.Owner.ID, id[:], der},
		{`INSERT INTO trusted_certificates (fingerprint, kind, source, added, der) VALUES (?, 'root', 's', 1, ?)`, id[:], der},
		{`INSERT INTO sessions (token_hash, account, created, expires) VALUES (x'01', ?, 1, 1)`, h.Owner.ID},
		{`INSERT INTO api_tokens (hash, id, account, name, scopes, created, expires) VALUES (x'01', 'i', ?, 'n', 's', 1, 1)`, h.Owner.ID},
		{`INSERT INTO told (device, mark) VALUES (?, x'01')`, device.ID},
	} {
		_, err := db.Exec(row[0].(string), row[1:]...)
		must(err)
	}
	return h, db
}

// problems returns the codes of the problems that the checks find.
func problems(t *testing.T, h *hubtest.Hub) (list []string) {
	t.Helper()
	findings, err := doctor.Fsck(t.Context(), h.Store, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	more, err := doctor.Identities(t.Context(), h.Store, h.CA)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(findings, more...) {
		if f.Severity == finding.Problem {
			list = append(list, f.Code)
		}
	}
	return list
}

// changed returns another value of the same type.
func changed(r *rand.Rand, v any) any {
	switch v := v.(type) {
	case int64:
		return v + 1 + r.Int64N(3)
	case string:
		return v + string(rune('a'+r.IntN(26)))
	case []byte:
		bad := bytes.Clone(v)
		bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
		return bad
	}
	return nil
}

// corruption is a column in which a value is changed.
type corruption struct{ table, column string }

// corruptionSeed is the seed of the random corruptions.
const corruptionSeed = 23

// The test changes values in random columns whose values follow from other data, and fsck must find
// each change. 'make fsck-full' makes 200 changes; other runs make fewer, because all checks run
// after each change.
func TestEachCorruptionIsFound(t *testing.T) {
	if testing.Short() {
		t.Skip("each draw runs all checks")
	}
	t.Parallel()
	h, db := populated(t)
	if list := problems(t, h); len(list) > 0 {
		t.Fatal("before any corruption:", list)
	}
	var all []corruption
	tables := tablesOf(t, determined)
	var names []string
	for table := range tables {
		names = append(names, table)
	}
	slices.Sort(names)
	for _, table := range names {
		for _, column := range tables[table] {
			all = append(all, corruption{table, column})
		}
	}
	r := rand.New(rand.NewPCG(corruptionSeed, 0))
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	draws := 25
	if os.Getenv("GANGWAY_FSCK_FULL") == "yes" {
		draws = 200
	}
	done := 0
	for n := 0; done < draws && n < 10*draws; n++ {
		c := all[n%len(all)] // each column comes before any comes twice
		if corrupt(t, h, db, r, c) {
			done++
		}
	}
	if done < draws {
		t.Errorf("only %d corruptions were possible", done)
	}
}

// corrupt changes a value of a random row, checks that fsck finds the change, and restores the
// value. It returns false if the schema does not allow the change.
func corrupt(t *testing.T, h *hubtest.Hub, db *sql.DB, r *rand.Rand, c corruption) bool {
	t.Helper()
	where := fmt.Sprintf(`"%s" IS NOT NULL AND (typeof("%[1]s") <> 'blob' OR length("%[1]s") > 0)`, c.column)
	if c.table == "enrolments" {
		where += ` AND state = 'a'`
	}
	keys := columns(t, db, `SELECT group_concat('"' || name || '"', ', ') FROM (SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk)`, c.table)[0]
	var count int
	if err := db.QueryRow(`SELECT count(*) FROM ` + c.table + ` WHERE ` + where).Scan(&count); err != nil || count == 0 {
		t.Errorf("%s.%s: %d rows, %v", c.table, c.column, count, err)
		return false
	}
	at := r.IntN(count)
	// The updates select the row by its primary key, of which the changed value may be a part.
	var before any
	key := make([]any, strings.Count(keys, ",")+1)
	into := []any{&before}
	for i := range key {
		into = append(into, &key[i])
	}
	if err := db.QueryRow(fmt.Sprintf(`SELECT "%s", %s FROM %s WHERE %s ORDER BY %[2]s LIMIT 1 OFFSET %[5]d`, c.column, keys, c.table, where, at)).Scan(into...); err != nil {
		t.Fatal(c, err)
	}
	after := changed(r, before)
	set := func(to any, key []any) error {
		holes := strings.TrimSuffix(strings.Repeat("?, ", len(key)), ", ")
		_, err := db.Exec(fmt.Sprintf(`UPDATE %s SET "%s" = ? WHERE (%s) = (%s)`, c.table, c.column, keys, holes), append([]any{to}, key...)...)
		return err
	}
	if err := set(after, key); err != nil {
		return false // a constraint of the schema
	}
	now := slices.Clone(key)
	for i, name := range strings.Split(keys, ", ") {
		if strings.Trim(name, `"`) == c.column {
			now[i] = after
		}
	}
	if list := problems(t, h); len(list) == 0 {
		t.Errorf("%s.%s: %.60v became %.60v, and nothing is found", c.table, c.column, before, after)
	}
	if err := set(before, now); err != nil {
		t.Fatal(err)
	}
	return true
}
