package sqlite_test

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/sqlite"
	"gangway/internal/race"
)

// A migration must not change after hubs have run it, and a new migration must have a higher
// number.
func TestLandedMigrationsStay(t *testing.T) {
	t.Parallel()
	list, err := os.Open("migrations/landed.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	var landed []string
	for lines := bufio.NewScanner(list); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		sum, name, _ := strings.Cut(lines.Text(), "  ")
		if n := len(landed); n > 0 && name[:4] <= landed[n-1][:4] {
			t.Errorf("%s comes after %s: a new migration has a higher number than all that landed", name, landed[n-1])
		}
		landed = append(landed, name)
		text, err := os.ReadFile(filepath.Join("migrations", name))
		if err != nil {
			t.Errorf("%v: a landed migration is never removed", err)
		} else if got := fmt.Sprintf("%x", sha256.Sum256(text)); got != sum {
			t.Errorf("%s was changed (SHA-256 %s): put it back, and make a new migration", name, got)
		}
	}
	files, err := filepath.Glob("migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if name := filepath.Base(file); !slices.Contains(landed, name) {
			t.Errorf("%s is not in migrations/landed.txt: append its line", name)
		}
	}
}

// After the migrations, a database of any older version has the same schema as a new database.
func TestOldDatabasesGetTheSchemaOfANewOne(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new.db")
	harbour(t, path)
	want := schema(t, path)
	old, err := filepath.Glob("../../../internal/e2e/testdata/hubs/*.tar.gz")
	if err != nil || len(old) < 6 {
		t.Fatalf("%d old hubs, %v", len(old), err)
	}
	for _, archive := range old {
		t.Run(strings.TrimSuffix(filepath.Base(archive), ".tar.gz"), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "hub.db")
			extract(t, archive, "./hub/gangway.db", path)
			for range 2 { // the second Open must change nothing
				s, err := sqlite.Open(t.Context(), path)
				if err != nil {
					t.Fatal(err)
				}
				if n := query(t, path, `SELECT count(*) FROM devices WHERE deleted = 0`); n != "2" {
					t.Errorf("%s devices, want 2", n)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if got := schema(t, path); got != want {
				t.Errorf("the schema differs from a new database's:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// extract copies the file with the given name from a gzipped tar archive to path.
func extract(t *testing.T, archive, name, path string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%s in %s: %v", name, archive, err)
		}
		if h.Name != name {
			continue
		}
		text, err := io.ReadAll(r)
		if err == nil {
			err = os.WriteFile(path, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
}

// schema returns one line for each column, index and migration, in sorted order, because the order
// of the columns depends on the order in which the migrations ran.
func schema(t *testing.T, path string) string {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(`
		SELECT m.name || '.' || c.name || ' ' || c.type || ' notnull=' || c."notnull" || ' pk=' || c.pk || ' default=' || ifnull(c.dflt_value, '-')
		FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'
		UNION ALL SELECT sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL
		UNION ALL SELECT 'migration ' || version_id FROM goose_db_version`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.ReplaceAll(line, "IF NOT EXISTS ", ""))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestRefusesASchemaFromTheFuture(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hub.db")
	s, _ := harbour(t, path)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	query(t, path, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`)
	query(t, path, `DELETE FROM goose_db_version WHERE version_id = 11`)
	s, err := sqlite.Open(t.Context(), path)
	if err == nil {
		s.Close()
		t.Fatal("opened")
	}
	if !errors.Is(err, sqlite.ErrNewerSchema) {
		t.Errorf("the error is %q", err)
	}
	if n := query(t, path, `SELECT count(*) FROM goose_db_version WHERE version_id = 11`); n != "0" {
		t.Error("an older program migrated a newer database")
	}
}

// In an older hub, the count of an owner's usage could overflow. The migration recomputes it from
// the owner's objects.
func TestUsageThatOverflowedIsCountedAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hub.db")
	extract(t, "../../../internal/e2e/testdata/hubs/2026-11-26-3900b35.tar.gz", "./hub/gangway.db", path)
	for _, line := range []string{
		`INSERT INTO objects (owner, sum, size, stored, created, modified, name, mime) VALUES
			('ada', x'01', 9223372036854775807, 0, 0, 0, '', ''), ('ada', x'02', 1000, 1, 0, 0, '', ''), ('ada', x'03', 1000, 0, 0, 0, '', '')`,
		`INSERT INTO usage (owner, bytes) VALUES ('ada', -9223372036854775000)`,
	} {
		query(t, path, line)
	}
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n, err := s.Usage(t.Context(), "ada"); err != nil || n != 1000+2*512 {
		t.Errorf("usage %d, %v", n, err)
	}
}

// After the migrations, the log lines of an older database can be read, count towards the limits,
// and come before new lines.
func TestOldLogLinesStay(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hub.db")
	extract(t, "../../../internal/e2e/testdata/hubs/2026-11-26-3900b35.tar.gz", "./hub/gangway.db", path)
	query(t, path, `INSERT INTO logs (seq, device, owner, created, sec, nano, level, source, plat, rev, message) VALUES
		(70, 'dd', 'oo', 1000000, 9007199254740993, -1, 'INFO', '/a', 'p', '3', 'one "quoted" \ '||char(10)||char(0)||'é'),
		(71, 'dd', 'oo', 2000000, 0, 0, '', '', '', '', '')`)
	query(t, path, `INSERT INTO log_usage (device, rows, bytes) SELECT device, count(*), sum(64 + length(CAST(level || source || plat || rev || message AS BLOB))) FROM logs WHERE device = 'dd'`)
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	at := time.UnixMicro(3000000).UTC()
	if err := s.AppendLogs(t.Context(), "dd", "oo", []store.LogEntry{{Message: "new"}}, store.LogBounds{Rows: 10, Bytes: 1000}, at); err != nil {
		t.Fatal(err)
	}
	want := []store.LogEntry{
		{Seq: 70, Device: "dd", Owner: "oo", Created: time.UnixMicro(1000000).UTC(), Sec: 9007199254740993, Nano: -1, Level: "INFO", Source: "/a", Platform: "p", Rev: "3", Message: "one \"quoted\" \\ \n\x00é"},
		{Seq: 71, Device: "dd", Owner: "oo", Created: time.UnixMicro(2000000).UTC()},
		{Seq: 72, Device: "dd", Owner: "oo", Created: at, Message: "new"},
	}
	list, err := s.Logs(t.Context(), store.LogFilter{Owner: "oo"})
	if err != nil || !slices.Equal(list, want) {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := s.Disagreements(t.Context(), 9); err != nil || slices.ContainsFunc(list, func(d store.Disagreement) bool { return d.Rule == "log-count" }) {
		t.Errorf("%+v, %v", list, err)
	}
	if n, err := s.ExpireLogs(t.Context(), at, 9); err != nil || n != 2 {
		t.Errorf("%d expired, %v", n, err)
	}
}

// After the migrations, the devices of an older database can be searched, sorted and counted.
func TestOldDevicesJoinTheFleet(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hub.db")
	extract(t, "../../../internal/e2e/testdata/hubs/2026-11-26-3900b35.tar.gz", "./hub/gangway.db", path)
	owner := query(t, path, `SELECT owner FROM devices WHERE deleted = 0 AND owner <> '' LIMIT 1`)
	const device = `INSERT INTO devices (id, nick, owner, token, deleted, created, activated, last_seen, last_seen_addr, user_meta, device_meta) VALUES `
	for _, line := range []string{
		device + `('aa0000000000000000000001', 'ferry-1', '` + owner + `', 'tok', 0, 86400000000, 0, 5, '', '{"site":"Oslo"}', '{"up":"x"}')`,
		device + `('aa0000000000000000000002', 'ferry-2', '` + owner + `', 'tok', 0, 86400000000, 0, 6, '', '{}', 'no JSON')`,
		device + `('aa0000000000000000000003', 'ferry-3', '` + owner + `', 'tok', 1, 86400000000, 0, 6, '', '{}', '{}')`,
		device + `('aa0000000000000000000004', 'ferry-4', '', '', 0, 86400000000, 0, 6, '', '{}', '{}')`,
		`INSERT INTO boot_devices (device, state, requested) VALUES ('aa0000000000000000000001', 'changed', 0)`,
		`INSERT INTO trails (device, owner, rev, reported, created, touched) VALUES ('aa0000000000000000000001', '` + owner + `', 1, 0, 0, 0)`,
		`INSERT INTO steps (device, owner, rev, status, step_time, progress_time, modified, state_sum, committer, commit_msg, progress, meta, state)
			VALUES ('aa0000000000000000000001', '` + owner + `', 0, 'DONE', 0, 0, 0, x'', '', '', x'', x'', x''), ('aa0000000000000000000001', '` + owner + `', 1, 'ERROR', 0, 0, 0, x'', '', '', x'', x'', x'')`,
	} {
		query(t, path, line)
	}
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before, err := s.CountDevices(t.Context(), owner)
	if err != nil {
		t.Fatal(err)
	}
	n, err := s.FleetCounts(t.Context(), owner)
	if err != nil || n.Total != before || before < 3 || n.ByState[store.StateBootChanged] != 1 || n.ByState[store.StateFailed] != 1 {
		t.Errorf("%+v, %v; %d devices", n, err, before)
	}
	sums, err := s.HubCounts(t.Context())
	accounts, err2 := s.CountAccounts(t.Context())
	if of := query(t, path, `SELECT count(*) FROM devices WHERE deleted = 0 AND owner <> ''`); err != nil || err2 != nil || fmt.Sprint(sums.Devices) != of || sums.Accounts != accounts || accounts == 0 ||
		fmt.Sprint(sums.Bytes) != query(t, path, `SELECT coalesce(sum(bytes), 0) FROM usage`) {
		t.Errorf("sums %+v, of %s devices and %d accounts: %v, %v", sums, of, accounts, err, err2)
	}
	top, _, err := s.Facets(t.Context(), owner, store.FieldToken, 9)
	if err != nil || !slices.Contains(top, store.FacetCount{Value: "tok", N: 2}) {
		t.Errorf("%+v, %v", top, err)
	}
	for _, q := range []struct {
		store.DeviceSearch
		want int
	}{
		{store.DeviceSearch{Words: []string{"ferry"}}, 2},
		{store.DeviceSearch{Terms: []store.SearchTerm{{Field: store.FieldMeta, Key: "site", Value: "oslo"}}}, 1},
		{store.DeviceSearch{Terms: []store.SearchTerm{{Field: store.FieldState, Value: store.StateFailed}}, Sort: store.SortCreated}, 1},
	} {
		q.Owner = owner
		page, err := s.SearchDevices(t.Context(), q.DeviceSearch)
		if err != nil || len(page.Rows) != q.want {
			t.Errorf("%+v: %d rows, %v", q, len(page.Rows), err)
		}
	}
	arrived, err := s.Arrivals(t.Context(), owner, time.UnixMicro(86400000000), 1)
	if err != nil || arrived[0] != 2 {
		t.Errorf("arrivals %v, %v", arrived, err)
	}
}
