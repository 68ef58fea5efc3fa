package postgres_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"

	"gangway/hub/store/postgres"
	"gangway/hub/store/postgres/pgtest"
	"gangway/hub/store/sqlstore"
	"gangway/hub/store/storetest"
	"gangway/internal/race"

	"github.com/jackc/pgx/v5/pgconn"
)

// server is the server for all tests of this package, or nil if PostgreSQL is not installed.
var server *pgtest.Server

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests that compare the store with a model make only as few checks as in short mode,
	// because each operation is a request to a server.
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("20"); err != nil {
			panic(err)
		}
	}
	os.Exit(func() int {
		var err error
		server, err = pgtest.Start(false)
		if err == nil {
			defer server.Stop()
			err = server.MakeTemplate(context.Background())
		}
		if err != nil && !errors.Is(err, pgtest.ErrMissing) {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// database returns the address of an empty database.
func database(t testing.TB) string {
	t.Helper()
	if server == nil {
		t.Skip(pgtest.ErrMissing)
	}
	return server.URL(server.Database(t))
}

func open(t testing.TB, config postgres.Config) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStoreSuite(t *testing.T) {
	race.Skip(t) // TestTwoHubsRace has the tests of the suite that do several things at once
	t.Parallel()
	var addresses sync.Map // address of each store's database
	at := func(t *testing.T, address string) storetest.Engine {
		s := open(t, postgres.Config{URL: address, Writers: 1, Readers: 2})
		addresses.Store(s, address)
		return s
	}
	storetest.Run(t,
		func(t *testing.T) storetest.Engine { return at(t, database(t)) },
		func(t *testing.T, s storetest.Engine) storetest.Engine {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			address, _ := addresses.Load(s)
			return at(t, address.(string))
		})
}

func TestModel(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	storetest.Model(t, open(t, postgres.Config{URL: database(t)}))
}

func TestFleetModel(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	storetest.FleetModel(t, open(t, postgres.Config{URL: database(t)}))
}

// The server knows every table, column and function of every statement.
func TestEachStatementCanBePrepared(t *testing.T) {
	t.Parallel()
	pg, err := pgconn.Connect(t.Context(), database(t))
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(t.Context())
	for _, s := range sqlstore.Statements() {
		if s.Postgres() == "" {
			continue
		}
		if _, err := pg.Prepare(t.Context(), "", s.Postgres(), nil); err != nil {
			t.Errorf("%s:\n%v", s.Postgres(), err)
		}
	}
}
