package sqlite_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gangway/hub/store/sqlite"
	"gangway/hub/store/sqlite/sqlitetest"
	"gangway/hub/store/storetest"
	"gangway/internal/race"
)

// newStore opens a store with an empty database.
func newStore(t *testing.T) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(sqlitetest.Folder(t), "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestModel(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	storetest.Model(t, newStore(t))
}

func TestFleetModel(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	storetest.FleetModel(t, newStore(t))
}

func TestSuite(t *testing.T) {
	t.Parallel()
	// paths maps each store to the path of its database, so that reopen can open the database
	// again. Because Close may be called twice, the cleanup may close a store that reopen has
	// already closed.
	var paths sync.Map
	at := func(t *testing.T, path string) storetest.Engine {
		if err := sqlitetest.CopyEmpty(path); err != nil {
			t.Fatal(err)
		}
		s, err := sqlite.Open(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		paths.Store(s, path)
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	storetest.Run(t,
		func(t *testing.T) storetest.Engine {
			return at(t, filepath.Join(sqlitetest.Folder(t), "hub.db"))
		},
		func(t *testing.T, s storetest.Engine) storetest.Engine {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			path, _ := paths.Load(s)
			return at(t, path.(string))
		})
}

// Only the user that runs the hub can read the files of a database.
func TestFilesAreTheOwnersAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hub.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	harbour(t, path)
	files, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 3 {
		t.Errorf("only %v: is there no log?", files)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %o", filepath.Base(file), mode)
		}
	}
}

func TestRefusesToOpen(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	file := filepath.Join(folder, "prose")
	if err := os.WriteFile(file, []byte(strings.Repeat("This is no database. ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, path, says string }{
		{"NoFolder", filepath.Join(folder, "missing", "hub.db"), "does not exist"},
		{"FolderIsAFile", filepath.Join(file, "hub.db"), "not a folder"},
		{"FileIsAFolder", folder, "directory"},
		{"FileIsProse", file, "not a database"},
		{"Memory", ":memory:", "must survive a restart"},
		{"NoPath", "", "must survive a restart"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := sqlite.Open(context.Background(), c.path)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error %q does not say %q", err, c.says)
			}
		})
	}
}

func TestOpensPathsThatLookLikeURIs(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	for _, name := range []string{"a?mode=memory", "50%20", "#1", "file:x", "äöü and spaces"} {
		path := filepath.Join(t.TempDir(), name)
		harbour(t, path)
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Errorf("%q: %v, %v", name, info, err)
		}
	}
}

func TestJournalAndPragmas(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hub.db")
	harbour(t, path)
	if mode := query(t, path, `PRAGMA journal_mode`); mode != "wal" {
		t.Errorf("journal mode is %q", mode)
	}
}

func TestClosedStoreRefuses(t *testing.T) {
	t.Parallel()
	s, token := harbour(t, filepath.Join(t.TempDir(), "hub.db"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := s.Close(); err != nil {
		t.Error("closing twice:", err)
	}
	if err := s.Ping(ctx); err == nil {
		t.Error("it still reads")
	}
	if err := s.DisableJoinToken(ctx, token.Owner, token.ID); err == nil {
		t.Error("it still writes")
	}
	if err := s.MarkDeviceSeen(ctx, "", "", storetest.Epoch); err == nil {
		t.Error("it still takes sightings")
	}
}

// The store writes what MarkDeviceSeen records to the database only later, but every read returns
// it at once.
func TestSightingsAreReadBeforeTheyAreFlushed(t *testing.T) {
	t.Parallel()
	s, token := harbour(t, filepath.Join(t.TempDir(), "hub.db"))
	e := storetest.Machine{Name: "one"}.Enrolment(token.Owner, token.ID)
	d := activate(t, s, e, "otter")
	ctx := context.Background()
	d.LastSeen, d.LastSeenAddr = storetest.Epoch.AddDate(0, 0, 1), "192.0.2.9:9"
	if err := s.MarkDeviceSeen(ctx, d.ID, d.LastSeenAddr, d.LastSeen); err != nil {
		t.Fatal(err)
	}
	one, err := s.DeviceByCertificate(ctx, e.IDevIDHash)
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.Devices(ctx, token.Owner, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range append(list, one) {
		if !got.LastSeen.Equal(d.LastSeen) || got.LastSeenAddr != d.LastSeenAddr {
			t.Errorf("seen at %s from %s", got.LastSeen, got.LastSeenAddr)
		}
	}
}

// query runs the SQL in `line` on the database file, without the store. It returns the first column
// of the first row, or "" if there is no row.
func query(t *testing.T, path, line string) string {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(line)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var answer string
	if rows.Next() {
		if err := rows.Scan(&answer); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return answer
}

// Several processes, such as the hub and the operator's first command, may open a new database at
// the same moment. Each of them must succeed.
func TestSeveralStartOnANewFileAtOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gangway.db")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s, err := sqlite.Open(context.Background(), path)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
