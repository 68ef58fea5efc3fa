package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/postgres"
	"gangway/hub/store/postgres/pgtest"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/storetest"
	"gangway/hub/store/transfer"
	"gangway/internal/race"
	"gangway/wire/trail"
)

var server *pgtest.Server

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if server, err = pgtest.Start(false); err != nil && !errors.Is(err, pgtest.ErrMissing) {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer server.Stop()
		return m.Run()
	}())
}

// target makes an empty database.
func target(t *testing.T, name string) postgres.Config {
	t.Helper()
	if server == nil {
		t.Skip(pgtest.ErrMissing)
	}
	if _, err := server.Query(t.Context(), "postgres", "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	return postgres.Config{URL: server.URL(name)}
}

// hub makes a SQLite database with rows of most kinds, among them texts that PostgreSQL does not
// accept, and keys that differ only in case.
func hub(t *testing.T, events int) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "hub.db")
	s, err := sqlite.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, now := t.Context(), storetest.Epoch
	for _, nick := range []string{"anne", "Bob", "carla"} {
		must(s.CreateAccount(ctx, storetest.Account(nick)))
	}
	owner := storetest.Account("anne")
	token := storetest.JoinToken(owner.ID, "fleet", 0)
	must(s.CreateJoinToken(ctx, token))
	for i := range 30 {
		e, err := s.BeginEnrolment(ctx, storetest.Machine{Name: fmt.Sprint(i)}.Enrolment(owner.ID, token.ID), now)
		must(err)
		if i%5 == 0 {
			continue
		}
		d, err := s.Activate(ctx, store.Activation{IDevIDHash: e.IDevIDHash, Nick: fmt.Sprint("Otter", i), Now: now})
		must(err)
		must(s.PatchUserMeta(ctx, owner.ID, d.ID, map[string]any{"berth": i, "ü": "é"}))
		_, _, err = s.CreateTrail(ctx, store.Revision{Device: d.ID, Owner: owner.ID, Status: trail.StatusDone, Posted: now, Modified: now, State: []byte("{}"), Progress: []byte("{}"), Meta: []byte("{}")}, 1<<30)
		must(err)
		must(s.AppendLogs(ctx, d.ID, owner.ID, []store.LogEntry{{Level: "INFO", Message: "a\x00b\xff"}}, store.LogBounds{Rows: 9, Bytes: 1 << 20}, now))
	}
	for i, name := range []string{"zulu", "Alpha", "beta"} {
		must(s.PutSavedView(ctx, store.SavedView{Owner: owner.ID, Name: name, Query: fmt.Sprint(i), Created: now}))
	}
	must(s.PutPolicy(ctx, store.Policy{Owner: owner.ID, Text: "policy", Updated: now}))
	must(s.SetURLs(ctx, []string{"https://hub.example"}))
	var list []store.Event
	for i := range events {
		list = append(list, store.Event{Time: now, Kind: "test.many", Code: fmt.Sprint(i), Owner: owner.ID})
	}
	must(s.AppendCounted(ctx, list))
	must(s.Close())
	return file
}

// A transfer is interrupted and continued. After that, a hub works with the PostgreSQL database as
// it did with the file.
func TestTransferAndGoOn(t *testing.T) {
	t.Parallel()
	to := target(t, "whole")
	file := hub(t, 4500)

	// Interrupt the transfer in the middle of a table.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	counts := map[string][]int64{}
	stop := true
	o := transfer.Options{File: file, To: to, Hub: "hubname", Progress: func(table string, rows int64) {
		counts[table] = append(counts[table], rows)
		if table == "events" && stop {
			cancel()
		}
	}}
	if err := transfer.Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatal("the interrupted transfer:", err)
	}
	s, err := postgres.Open(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	if name, err := s.Hub(t.Context()); err != nil || name != "" {
		t.Errorf("after half of a transfer, the database belongs to %q, %v", name, err)
	}
	s.Close()
	stop, counts = false, map[string][]int64{}
	if err := transfer.Run(t.Context(), o); err != nil {
		t.Fatal("the second part:", err)
	}
	if got := counts["events"]; len(got) != 2 || got[0] <= 2000 {
		t.Errorf("the second part copied the events in the portions %v: it did not go on after the first", got)
	}

	before, err := sqlite.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	after, err := postgres.Open(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	// Until a hub uses the database, the last step can be done again.
	if err := after.EndTransfer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := transfer.Run(t.Context(), o); !errors.Is(err, transfer.ErrUsed) {
		t.Error("a third transfer:", err)
	}
	owner := storetest.Account("anne")
	for what, ask := range map[string]func(s storetest.Engine) (any, error){
		"accounts": func(s storetest.Engine) (any, error) { return s.Accounts(t.Context(), "", 0) },
		"devices":  func(s storetest.Engine) (any, error) { return s.Devices(t.Context(), owner.ID, "", 0) },
		"counts":   func(s storetest.Engine) (any, error) { return s.FleetCounts(t.Context(), owner.ID) },
		"numbers":  func(s storetest.Engine) (any, error) { return s.HubCounts(t.Context()) },
		"events": func(s storetest.Engine) (any, error) {
			return s.Events(t.Context(), store.EventFilter{Limit: 1000})
		},
		"logs":  func(s storetest.Engine) (any, error) { return s.Logs(t.Context(), store.LogFilter{Owner: owner.ID}) },
		"views": func(s storetest.Engine) (any, error) { return s.SavedViews(t.Context(), owner.ID) },
		"search": func(s storetest.Engine) (any, error) {
			return s.SearchDevices(t.Context(), store.DeviceSearch{Owner: owner.ID, Words: []string{"otter"}})
		},
		"URLs": func(s storetest.Engine) (any, error) { return s.URLs(t.Context()) },
	} {
		a, err1 := ask(before)
		b, err2 := ask(after)
		if err := errors.Join(err1, err2); err != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("%s: %v\nbefore %.300v\nafter  %.300v", what, err, a, b)
		}
	}

	// After the transfer, the hub must work as before: new ids must follow the last used one, and
	// the triggers must run.
	token := storetest.JoinToken(owner.ID, "fleet", 0)
	e, err := after.BeginEnrolment(t.Context(), storetest.Machine{Name: "later"}.Enrolment(owner.ID, token.ID), storetest.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := after.Activate(t.Context(), store.Activation{IDevIDHash: e.IDevIDHash, Nick: "later", Now: storetest.Epoch.Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	n, err := after.FleetCounts(t.Context(), owner.ID)
	if err != nil || n.Total != 25 {
		t.Errorf("%d devices, %v; want 25", n.Total, err)
	}
}

// Each row is compared after the copy, so a row that differs from the original stops the transfer.
func TestDifferencesAreFound(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	for i, c := range []struct{ change, says string }{
		{`UPDATE devices SET user_meta = '{}' WHERE nick = 'Otter1'`, "user_meta"},
		{`DELETE FROM log_usage WHERE device = (SELECT min(device) FROM log_usage)`, "log_usage"},
		{`INSERT INTO told (device, mark) VALUES ('~', '\x00')`, "only in PostgreSQL"},
	} {
		name := fmt.Sprint("changed", i)
		to := target(t, name)
		changed := false
		err := transfer.Run(t.Context(), transfer.Options{File: hub(t, 0), To: to, Hub: "h", Progress: func(table string, _ int64) {
			if table != "hub_counts" || changed { // the last table
				return
			}
			changed = true
			if _, err := server.Query(t.Context(), name, "SET session_replication_role = replica; "+c.change); err != nil {
				t.Error(err)
			}
		}})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.change, err)
		}
	}
}

// A table that a migration adds must be transferred too.
func TestEveryTableIsTransferred(t *testing.T) {
	t.Parallel()
	to := target(t, "tables")
	// These tables are not transferred: the tables of the PostgreSQL engine itself, and the tables
	// of replicas, because a hub whose database is a file has no replicas.
	seen := map[string]bool{
		"schema_versions": true, "write_marks": true, "write_turn": true,
		"leases": true, "replica_messages": true, "temporary_values": true, "move_state": true,
	}
	if err := transfer.Run(t.Context(), transfer.Options{File: hub(t, 0), To: to, Hub: "h", Progress: func(table string, _ int64) { seen[table] = true }}); err != nil {
		t.Fatal(err)
	}
	list, err := server.Query(t.Context(), "tables", `SELECT string_agg(tablename, ' ') FROM pg_tables WHERE schemaname = 'public'`)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range strings.Fields(list) {
		if !seen[table] {
			t.Errorf("the table %s is not transferred", table)
		}
	}
}
