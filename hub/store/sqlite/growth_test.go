package sqlite

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/sqlstore"
	"gangway/hub/store/storetest"
)

// Statements that remove rows, or count rows to enforce a limit, find them by an index, so that
// their cost does not grow with the number of devices.
func TestRemovalsCostNoMoreInALargeFleet(t *testing.T) {
	t.Parallel()
	db := emptyDatabase(t)
	for name, st := range sqlstore.RemovalStatements() {
		args := make([]any, strings.Count(st.SQLite, "?"))
		for i := range args {
			args[i] = 1
		}
		for n := 9; n > 0; n-- { // a numbered parameter that occurs several times has one argument
			if strings.Contains(st.SQLite, fmt.Sprint("?", n)) {
				args = args[:n]
				break
			}
		}
		rows, err := db.Query("EXPLAIN QUERY PLAN "+st.SQLite, args...)
		if err != nil {
			t.Fatalf("%s: %v", st.SQLite, err)
		}
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			if name == "forget unproven" && strings.Contains(detail, "events_age") {
				t.Errorf("strangers' events are looked for among all: %s", detail)
			}
			if strings.HasPrefix(name, "revoke pending") && !strings.Contains(detail, "enrolments_pending_ek") {
				t.Errorf("%s reads the pending enrolments of other TPMs: %s", name, detail)
			}
			// The subqueries of this statement have at most 64 rows.
			if name == "push out enrolments" && (detail == "SCAN oldest" || detail == "SCAN summed" || strings.HasPrefix(detail, "SCAN (subquery-")) {
				continue
			}
			// A scan of a partial index is allowed, because that index contains only the rows that
			// the statement needs.
			if strings.HasPrefix(detail, "SCAN ") && !strings.Contains(detail, "USING COVERING INDEX enrolments_expired") && detail != "SCAN chain" && detail != "SCAN c" {
				t.Errorf("%s:\n%s", st.SQLite, detail)
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	// When SQLite deletes a row, it searches other tables for rows that refer to it. Each foreign
	// key needs an index, without which SQLite would read the whole table.
	rows, err := db.Query(`SELECT m.name, f."from" FROM sqlite_schema m, pragma_foreign_key_list(m.name) f
		WHERE m.type = 'table' AND NOT EXISTS (SELECT 1 FROM pragma_index_list(m.name) i, pragma_index_info(i.name) c
		WHERE c.seqno = 0 AND c.name = f."from")`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var table, column string
		if err := rows.Scan(&table, &column); err != nil {
			t.Fatal(err)
		}
		t.Errorf("%s.%s refers to another table, and no index begins with it", table, column)
	}
}

// BeginEnrolment takes no more work if the owner has many pending enrolments, because the store
// looks for enrolments to remove only when those of the owner exceed MaxPending bytes.
func TestEnrolmentCostsNoMoreWithManyPending(t *testing.T) {
	t.Parallel()
	s, owner := withOwner(t)
	token := storetest.JoinToken(owner.ID, "token", 0)
	if err := s.CreateJoinToken(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	begun := 0
	begin := func() {
		t.Helper()
		begun++
		if _, err := s.BeginEnrolment(t.Context(), storetest.Machine{Name: fmt.Sprint(begun)}.Enrolment(owner.ID, token.ID), storetest.Epoch); err != nil {
			t.Fatal(err)
		}
	}
	cost := func() int32 {
		s.writer.conn.steps()
		begin()
		operations, _, _ := s.writer.conn.steps()
		return operations
	}
	for range 5 {
		begin()
	}
	few := cost()
	for range 300 {
		begin()
	}
	if many := cost(); few == 0 || many > few+few/4 {
		t.Errorf("an enrolment needs %d operations with 6 pending enrolments, %d with 306", few, many)
	}
}

// New rows use the space of removed ones, so the file does not grow: an attacker who makes
// enrolments and events cannot fill the disk.
func TestForgottenRowsLeaveTheirRoom(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hub.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	owner := storetest.Account("ada")
	if err := s.CreateAccount(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	now := storetest.Epoch
	var first int64
	for round := range 4 {
		var writes sync.WaitGroup
		for i := range 300 {
			writes.Go(func() { // concurrent calls, so that several writes share one flush to disk
				e := storetest.Machine{Name: fmt.Sprint(round, i)}.Enrolment(owner.ID, "")
				e.Created, e.Expires = now, now.Add(time.Hour)
				if _, err := s.BeginEnrolment(t.Context(), e, now); err != nil {
					t.Error(err)
				}
				if err := s.AppendEvent(t.Context(), store.Event{Time: now, Kind: "enrolment.refused", Unproven: true, Message: strings.Repeat("m", 200)}); err != nil {
					t.Error(err)
				}
			})
		}
		writes.Wait()
		now = now.Add(48 * time.Hour)
		for what, remove := range map[string]func() (int, error){
			"pending enrolments": func() (int, error) { return s.ExpireEnrolments(t.Context(), now, 1000) },
			"events":             func() (int, error) { return s.RemoveEvents(t.Context(), now, time.Time{}, 1000) },
		} {
			if n, err := remove(); err != nil || n != 300 {
				t.Fatalf("%s: %d %v", what, n, err)
			}
		}
		if n, err := s.RemoveExpiredEnrolments(t.Context(), now, 0, 1000); err != nil || n != 300 {
			t.Fatalf("expired enrolments: %d %v", n, err)
		}
		var pages int64
		if err := s.readers.do(t.Context(), func(c *conn) error {
			return c.EachColumns(pageCount, func(r sqlstore.Columns) (bool, error) {
				pages = r.Int64(0)
				return false, nil
			})
		}); err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			first = pages
		} else if pages > first+16 {
			t.Errorf("round %d: %d pages, %d after the first", round, pages, first)
		}
	}
}

// The limit on devices without an owner is checked in the same transaction that writes such a
// device, so that concurrent requests cannot exceed it.
func TestUnclaimedDevicesAreBoundedWhereTheyAreWritten(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.writer.do(t.Context(), func(c *conn) error {
		_, err := c.Exec(manyUnclaimed, int64(store.MaxUnclaimed-3))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	answers := make(chan error)
	for i := range 8 { // concurrently
		go func() {
			d := store.Device{ID: storetest.ID(fmt.Sprint(i)), Nick: fmt.Sprint("d", i), Created: storetest.Epoch}
			_, err := s.CreateDevice(t.Context(), d, storetest.Hash("secret"))
			answers <- err
		}()
	}
	made := 0
	for range 8 {
		switch err := <-answers; {
		case err == nil:
			made++
		case !errors.Is(err, store.ErrFull):
			t.Error(err)
		}
	}
	if made != 3 {
		t.Errorf("%d devices were made where there was room for 3", made)
	}
	// Devices with an owner do not count towards the limit.
	owner := storetest.Account("ada")
	if err := s.CreateAccount(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateDevice(t.Context(), store.Device{ID: storetest.ID("hers"), Nick: "hers", Owner: owner.ID, Created: storetest.Epoch}, storetest.Hash("secret")); err != nil {
		t.Error(err)
	}
}

var manyUnclaimed = sqlstore.ForSQLite(`INSERT INTO devices (id, nick, owner, token, deleted, created, activated, last_seen, last_seen_addr, user_meta, device_meta)
	WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
	SELECT 'many' || i, 'many' || i, '', '', 0, 0, 0, 0, '', '{}', '{}' FROM n`)

var pageCount = sqlstore.ForSQLite(`PRAGMA page_count`)
