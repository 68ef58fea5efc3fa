package sqlite

import (
	"context"
	"errors"
	"strings"
	"testing"

	"gangway/hub/store"
	"gangway/hub/store/sqlstore"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

var (
	putValue = sqlstore.ForSQLite(`INSERT INTO settings (name, value) VALUES ('test', ?)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value`)
	getValue = sqlstore.ForSQLite(`SELECT value FROM settings WHERE name = 'test'`)
)

func put(s *Store, value string) error {
	return s.writer.do(context.Background(), func(c *conn) error { return c.Do(putValue, value) })
}

// get reads the value through a new connection, which sees only what is in the files.
func get(t *testing.T, s *Store) string {
	t.Helper()
	c, err := openConn(s.path, "query_only = ON")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	text := ""
	if err := c.EachColumns(getValue, func(r sqlstore.Columns) (bool, error) {
		text = r.Text(0, "")
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	return text
}

// Each commit must be in the file of the write-ahead log before the caller gets its answer, also if
// the transaction is larger than the buffer, and if SQLite writes pages before the commit because
// its page cache is full.
func TestCommitLeavesNothingInTheWALBuffer(t *testing.T) {
	s := open(t)
	for i, value := range []string{"a", strings.Repeat("b", 3*walBufferSize), "c", strings.Repeat("d", 20<<20), "e"} {
		if err := put(s, value); err != nil {
			t.Fatal(err)
		}
		if n := s.writer.conn.wal.length; n != 0 {
			t.Errorf("write %d: %d bytes are still in the buffer", i, n)
		}
		if got := get(t, s); got != value {
			t.Errorf("write %d: another connection reads %d bytes of %d", i, len(got), len(value))
		}
	}
}

// If the disk is full, the callers of the transaction get the error, and no later transaction writes
// the refused pages.
func TestWALBufferForgetsARefusedTransaction(t *testing.T) {
	s := open(t)
	if err := put(s, "before"); err != nil {
		t.Fatal(err)
	}
	b := s.writer.conn.wal
	works := b.old.FxWrite
	b.old.FxWrite = b.function(func(*libc.TLS, uintptr, uintptr, int32, int64) int32 { return sqlite3.SQLITE_FULL })
	for _, value := range []string{"small", strings.Repeat("large", walBufferSize)} {
		if err := put(s, value); !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("%d bytes on a full disk: %v", len(value), err)
		}
		if n := b.length; n != 0 {
			t.Errorf("%d bytes on a full disk: %d bytes are still in the buffer", len(value), n)
		}
	}
	if got := get(t, s); got != "before" {
		t.Errorf("after refused writes: %.20q", got)
	}
	b.old.FxWrite = works
	if err := put(s, "after"); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s); got != "after" {
		t.Errorf("after a write: %.20q", got)
	}
}
