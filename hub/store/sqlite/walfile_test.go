package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gangway/hub/store"
	"gangway/hub/store/sqlstore"
	"gangway/hub/store/storetest"
)

var (
	synchronous  = sqlstore.ForSQLite(`PRAGMA synchronous`)
	integrity    = sqlstore.ForSQLite(`PRAGMA integrity_check`)
	manyMessages = sqlstore.ForSQLite(`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
		INSERT INTO events (time, kind, code, owner, device, token, addr, message) SELECT i, 'k', '', '', '', '', '', hex(randomblob(400)) FROM n`)
	changeMessages = sqlstore.ForSQLite(`UPDATE events SET message = message || time`)
	sumMessages    = sqlstore.ForSQLite(`SELECT count(*), sum(substr(message, 801) = CAST(time AS TEXT)) FROM events`)
)

// Without "synchronous = FULL", SQLite does not sync the log at a commit, and a walFile could still
// hold pages that other connections already look for in the log.
func TestWriterSyncsEachCommit(t *testing.T) {
	t.Parallel()
	s := open(t)
	if err := s.writer.do(t.Context(), func(c *conn) error {
		return c.EachColumns(synchronous, func(r sqlstore.Columns) (bool, error) {
			if full := r.Int64(0); full != 2 {
				t.Errorf("synchronous is %d", full)
			}
			return true, nil
		})
	}); err != nil {
		t.Fatal(err)
	}
}

// A transaction that is larger than SQLite's cache writes pages to the log before the commit, reads
// them again, and writes them to the same place a second time. A rolled back transaction leaves
// such pages in the log.
func TestTransactionLargerThanTheCache(t *testing.T) {
	t.Parallel()
	s := open(t)
	if err := s.writer.do(t.Context(), func(c *conn) error { return c.pragma("cache_size = 10") }); err != nil {
		t.Fatal(err)
	}
	const rows = 3000
	fails := errors.New("roll back")
	for _, result := range []error{fails, nil} {
		err := s.writer.do(t.Context(), func(c *conn) error {
			if err := c.Do(manyMessages, int64(rows)); err != nil {
				return err
			}
			if err := c.Do(changeMessages); err != nil {
				return err
			}
			if got := messages(t, c); got != fmt.Sprint(rows, " ", rows) {
				t.Errorf("in the transaction: %s messages", got)
			}
			return result
		})
		if !errors.Is(err, result) {
			t.Fatal(err)
		}
	}
	checkMessages(t, s, fmt.Sprint(rows, " ", rows))
}

// checkMessages checks that the database is intact, and that a reader finds the messages `want`.
func checkMessages(t *testing.T, s *Store, want string) {
	t.Helper()
	if err := s.readers.do(t.Context(), func(c *conn) error {
		if got := messages(t, c); got != want {
			t.Errorf("after the commit: %s messages, want %s", got, want)
		}
		return c.EachColumns(integrity, func(r sqlstore.Columns) (bool, error) {
			if text := r.Text(0, "ok"); text != "ok" {
				t.Error(text)
			}
			return true, nil
		})
	}); err != nil {
		t.Fatal(err)
	}
}

// messages returns the number of events, and the number of events whose message was changed.
func messages(t *testing.T, c *conn) (found string) {
	t.Helper()
	if err := c.EachColumns(sumMessages, func(r sqlstore.Columns) (bool, error) {
		found = fmt.Sprint(r.Int64(0), " ", r.Int64(1))
		return true, nil
	}); err != nil {
		t.Error(err)
	}
	return found
}

// The disk is full while one operation of a transaction writes more than SQLite's cache can hold. The
// database then has either all rows of the other operations or, if SQLite rolls the whole transaction
// back, none. In particular, it has the pages that an earlier operation has passed to the log, and
// that were still waiting in memory.
func TestFullDiskInTheMiddleOfATransaction(t *testing.T) {
	t.Parallel()
	for _, rows := range []int64{1000, 1010, 1020, 1030} { // the waiting bytes differ
		t.Run(fmt.Sprint(rows), func(t *testing.T) {
			t.Parallel()
			dir := smallDisk(t, "16m")
			s, err := Open(t.Context(), filepath.Join(dir, "hub.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := s.writer.do(t.Context(), func(c *conn) error { return c.pragma("cache_size = 10") }); err != nil {
				t.Fatal(err)
			}
			ballast := filepath.Join(dir, "ballast")
			many := func(c sqlstore.Conn) error { return c.Do(manyMessages, rows) }
			jobs := []*sqlstore.Job{{Run: many}, {Run: func(c sqlstore.Conn) error {
				if err := os.WriteFile(ballast, make([]byte, 16<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("fill the disk: %v", err)
				}
				return c.Do(manyMessages, 10*rows)
			}}, {Run: func(c sqlstore.Conn) error { return errors.Join(os.Remove(ballast), many(c)) }}}
			// The goroutine of the writer has nothing to do.
			want := 2 * rows
			if _, err = s.writer.apart(jobs); err == nil {
				err = s.writer.conn.control(commit)
			}
			if !errors.Is(jobs[1].Err, store.ErrNoSpace) {
				t.Errorf("the operation on the full disk: %v", jobs[1].Err)
			}
			if err != nil {
				_ = s.writer.conn.control(rollback)
				_ = os.Remove(ballast)
				if err := s.writer.do(t.Context(), func(c *conn) error { return many(c) }); err != nil {
					t.Fatal(err)
				}
				want = rows
			}
			checkMessages(t, s, fmt.Sprint(want, " 0"))
		})
	}
}

// smallDisk returns the folder of a new disk of this size.
func smallDisk(t *testing.T, size string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size+",mode=700"); err != nil {
		t.Skipf("a small disk cannot be mounted here (%v): needs root", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// If the disk is full, a commit fails although its writes to the log only waited in memory. As soon
// as the disk has free space, the next commit succeeds, and the failed one has left no trace.
func TestCommitFailsOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "4m")
	s, err := Open(t.Context(), filepath.Join(dir, "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.CreateAccount(t.Context(), storetest.Account("ada")); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 4<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	event := func(kind string) error {
		return s.AppendEvent(t.Context(), store.Event{Time: storetest.Epoch, Kind: kind, Message: strings.Repeat("m", 100_000)})
	}
	// The file of the log may be longer than its valid content, so the first writes may succeed.
	written := 0
	for err = event("early"); err == nil; err = event("early") {
		written++
	}
	if !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("with a full disk: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := event("late"); err != nil {
		t.Fatalf("with free space: %v", err)
	}
	events, err := s.Events(t.Context(), store.EventFilter{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != written+1 || events[0].Kind != "late" {
		t.Errorf("%d events after %d successful writes", len(events), written+1)
	}
}
