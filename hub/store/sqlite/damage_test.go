package sqlite_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	"gangway/hub/store/sqlite"
	"gangway/hub/store/sqlite/sqlitetest"
	"gangway/hub/store/storetest"
)

// openTwice opens an empty database twice: as a store, and with database/sql, for the test's own
// statements.
func openTwice(t *testing.T) (*sqlite.Store, *sql.DB) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hub.db")
	if err := sqlitetest.CopyEmpty(path); err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return s, db
}

func TestDamageIsFound(t *testing.T) {
	t.Parallel()
	s, db := openTwice(t)
	dropped := false
	storetest.Damage(t, s, "x''", func(damage string) {
		for !dropped {
			var name string
			if err := db.QueryRow(`SELECT name FROM sqlite_master WHERE type = 'trigger'`).Scan(&name); err != nil {
				dropped = true
				break
			}
			if _, err := db.Exec("DROP TRIGGER " + name); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := db.Exec(damage); err != nil {
			t.Fatal(damage, err)
		}
	})
}

// PackEvidence packs the enrolments that an earlier version of the hub stored.
func TestEarlierEnrolmentsArePacked(t *testing.T) {
	t.Parallel()
	s, db := openTwice(t)
	run := func(text string) {
		if _, err := db.Exec(text); err != nil {
			t.Fatal(text, err)
		}
	}
	count := func(text string) (n string) {
		if err := db.QueryRow(text).Scan(&n); err != nil {
			t.Fatal(text, err)
		}
		return n
	}
	storetest.Pack(t, s, func(b []byte) string { return fmt.Sprintf("x'%x'", b) }, run, count)
}
