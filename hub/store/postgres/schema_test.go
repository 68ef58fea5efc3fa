package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"gangway/hub/store"
	"gangway/hub/store/postgres"
	"gangway/hub/store/storetest"
	"gangway/wire/trail"
)

// blank returns the address of a new database without a schema.
func blank(t *testing.T) string {
	t.Helper()
	address := database(t) // skips the test if there is no server
	name := nameOf(address) + "_blank"
	if _, err := server.Query(t.Context(), "postgres", "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := server.Query(context.Background(), "postgres", fmt.Sprintf("DROP DATABASE %s WITH (FORCE)", name)); err != nil {
			t.Error(err)
		}
	})
	return server.URL(name)
}

// If several hubs start on a new database at the same moment, each of them must succeed, and the
// schema is made only once.
func TestSeveralHubsStartAtOnce(t *testing.T) {
	t.Parallel()
	address := blank(t)
	var starts sync.WaitGroup
	for range 6 {
		starts.Go(func() {
			s, err := postgres.Open(context.Background(), postgres.Config{URL: address})
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	starts.Wait()
	if n, err := server.Query(t.Context(), nameOf(address), `SELECT count(*) FROM schema_versions`); err != nil || n != fmt.Sprint(len(files(t))) {
		t.Errorf("%s migrations ran, %v", n, err)
	}
}

func files(t *testing.T) fstest.MapFS {
	t.Helper()
	all := fstest.MapFS{}
	names, err := fs.Glob(postgres.Migrations(), "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(postgres.Migrations(), name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = &fstest.MapFile{Data: text}
	}
	return all
}

// The function `with` returns the migrations of a later version, which has one more migration than
// this version: `text`.
func with(t *testing.T, text string) fstest.MapFS {
	all := files(t)
	all[fmt.Sprintf("%04d_later.sql", len(all)+1)] = &fstest.MapFile{Data: []byte(text)}
	return all
}

// During an upgrade, hubs of two versions use the same database. The older hub keeps working after
// the migration, and can even restart.
func TestOlderHubGoesOnAfterAnUpgrade(t *testing.T) {
	t.Parallel()
	address := blank(t)
	config := postgres.Config{URL: address}
	older := open(t, config)
	account := storetest.Account("anne")
	if err := older.CreateAccount(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	later, err := postgres.OpenWith(t.Context(), config, with(t, fmt.Sprintf(`-- usable from %d
		ALTER TABLE accounts ADD COLUMN berth bigint NOT NULL DEFAULT 0; CREATE INDEX accounts_berth ON accounts (berth)`, len(files(t)))))
	if err != nil {
		t.Fatal(err)
	}
	defer later.Close()
	again := open(t, config) // a hub of the older version restarts
	for i, s := range []*postgres.Store{older, later, again} {
		name := fmt.Sprint("account", i)
		if err := s.CreateAccount(t.Context(), storetest.Account(name)); err != nil {
			t.Error(err)
		}
		for _, reader := range []*postgres.Store{older, later, again} {
			if _, err := reader.AccountByNickOrEmail(t.Context(), name); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestRefusesASchemaFromTheFuture(t *testing.T) {
	t.Parallel()
	address := blank(t)
	config := postgres.Config{URL: address}
	later, err := postgres.OpenWith(t.Context(), config, with(t, `ALTER TABLE accounts RENAME COLUMN email TO mail`))
	if !errors.Is(err, nil) {
		t.Fatal(err)
	}
	later.Close()
	if s, err := postgres.Open(t.Context(), config); !errors.Is(err, postgres.ErrNewerSchema) {
		if err == nil {
			s.Close()
		}
		t.Errorf("opened: %v", err)
	}
}

// A migration that fails changes nothing.
func TestFailedMigrationLeavesNothing(t *testing.T) {
	t.Parallel()
	address := blank(t)
	config := postgres.Config{URL: address}
	open(t, config)
	if s, err := postgres.OpenWith(t.Context(), config, with(t, `CREATE TABLE half (id bigint); SELECT 1 / 0`)); err == nil {
		s.Close()
		t.Fatal("a migration that fails is taken for done")
	}
	if half, err := server.Query(t.Context(), nameOf(address), `SELECT to_regclass('half') IS NULL`); err != nil || half != "t" {
		t.Errorf("half of the migration is there: %v", err)
	}
	open(t, config)
}

// Open refuses a database whose encoding is not UTF8, because such a database could lose text.
func TestRefusesAnEncodingThatLosesText(t *testing.T) {
	t.Parallel()
	name := nameOf(database(t)) + "_ascii"
	if _, err := server.Query(t.Context(), "postgres", "CREATE DATABASE "+name+" TEMPLATE template0 ENCODING 'SQL_ASCII'"); err != nil {
		t.Fatal(err)
	}
	defer server.Query(context.Background(), "postgres", "DROP DATABASE "+name)
	s, err := postgres.Open(t.Context(), postgres.Config{URL: server.URL(name)})
	if err == nil {
		s.Close()
		t.Fatal("opened")
	}
	if !strings.Contains(err.Error(), "UTF8") {
		t.Error(err)
	}
}

// While the disk is full, a write fails with store.ErrNoSpace. As soon as the disk has free space
// again, the store works again. Here, a trigger raises the error of a full disk.
func TestFullDiskIsReported(t *testing.T) {
	t.Parallel()
	address := blank(t)
	s := open(t, postgres.Config{URL: address})
	full := `CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$;
		CREATE TRIGGER full_disk BEFORE INSERT ON events EXECUTE FUNCTION full_disk()`
	if _, err := server.Query(t.Context(), nameOf(address), full); err != nil {
		t.Fatal(err)
	}
	event := store.Event{Time: storetest.Epoch, Kind: "k"}
	if err := s.AppendEvent(t.Context(), event); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("a write to a full disk: %v", err)
	}
	if _, err := server.Query(t.Context(), nameOf(address), `DROP TRIGGER full_disk ON events`); err != nil {
		t.Fatal(err)
	}
	if err := s.AppendEvent(t.Context(), event); err != nil {
		t.Error(err)
	}
}

// The engine must not lose what a TPM or a device reports, even if it is not valid text.
func TestTextsThatAreNoTextAreKept(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.Config{URL: database(t)})
	for i, text := range []string{"a\x00b", "\xff\xfe", "ü\xc3", "\U0010FFFD", "\U0010FFFDff", "\uFFFD", "", "plain", "\x00"} {
		kind := fmt.Sprint("k", i)
		if err := s.AppendEvent(t.Context(), store.Event{Time: storetest.Epoch, Kind: kind, Message: text}); err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		events, err := s.Events(t.Context(), store.EventFilter{Kind: kind})
		if err != nil || len(events) != 1 || events[0].Message != text {
			t.Errorf("%q is read as %+v, %v", text, events, err)
		}
	}
}

// An empty argument is stored as an empty text or blob and not as NULL, even if it is the first
// argument that a connection sends.
func TestEmptyArgumentsAreNotNull(t *testing.T) {
	t.Parallel()
	address := database(t)
	s := open(t, postgres.Config{URL: address})
	if err := s.PutPolicy(t.Context(), store.Policy{Owner: store.HubWide, Text: "p", Updated: storetest.Epoch}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		fresh := open(t, postgres.Config{URL: address, Readers: 4})
		for range 8 {
			if _, err := fresh.Policy(t.Context(), store.HubWide); err != nil {
				t.Error(err)
			}
		}
	}
}

// A caller that needs only the first of many large rows does not have to wait for the others, and
// the store still works afterwards.
func TestLargeRowsThatNobodyNeedsAreNotRead(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.Config{URL: database(t), Readers: 1})
	now, state := storetest.Epoch, make([]byte, 1<<20)
	first := store.Revision{Device: "d", Owner: "o", Status: trail.StatusNew, Posted: now, Modified: now, State: state, Progress: []byte("{}"), Meta: []byte("{}")}
	if _, _, err := s.CreateTrail(t.Context(), first, 1<<40); err != nil {
		t.Fatal(err)
	}
	first.Rev = -1
	for range 8 {
		if _, err := s.AddRevision(t.Context(), first, 1<<40); err != nil {
			t.Fatal(err)
		}
	}
	before := s.Work().Rows
	for range 3 {
		list, err := s.Revisions(t.Context(), store.RevisionFilter{Device: "d", After: -1, Statuses: []trail.Status{trail.StatusNew}, Bytes: 1})
		if err != nil || len(list) != 1 || len(list[0].State) != len(state) {
			t.Fatalf("%d revisions, %v", len(list), err)
		}
	}
	if rows := s.Work().Rows - before; rows != 3 {
		t.Errorf("%d rows were used", rows)
	}
	if _, err := s.Trail(t.Context(), "d"); err != nil {
		t.Error(err)
	}
}

// Bytes that PostgreSQL does not accept count as one byte each, both when log entries are added and
// when they are removed. If the two counts differed, a device could store more bytes of log than
// its limit, or the stored count could become negative.
func TestUsageOfLogsStaysExact(t *testing.T) {
	t.Parallel()
	address := database(t)
	s := open(t, postgres.Config{URL: address})
	entry := store.LogEntry{Level: "INFO", Message: strings.Repeat("\x00\xff", 500)}
	for range 20 {
		if err := s.AppendLogs(t.Context(), "d", "o", []store.LogEntry{entry, entry}, store.LogBounds{Rows: 7, Bytes: 1 << 20}, storetest.Epoch); err != nil {
			t.Fatal(err)
		}
	}
	want := fmt.Sprint(7 * (1000 + 4 + 64))
	if got, err := server.Query(t.Context(), nameOf(address), `SELECT bytes FROM log_usage`); err != nil || got != want {
		t.Errorf("%s bytes of logs, %v; want %s", got, err, want)
	}
	if n, err := s.ExpireLogs(t.Context(), storetest.Epoch.AddDate(0, 0, 1), 100); err != nil || n != 7 {
		t.Errorf("%d expired, %v", n, err)
	}
	if got, err := server.Query(t.Context(), nameOf(address), `SELECT bytes FROM log_usage`); err != nil || got != "0" {
		t.Errorf("%s bytes of no logs, %v", got, err)
	}
}
