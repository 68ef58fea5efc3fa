package postgres_test

import (
	"context"
	"testing"

	"gangway/hub/store/postgres"
	"gangway/hub/store/postgres/pgtest"
	"gangway/hub/store/storetest"
)

// With two hubs on the same database, the tests of races in package storetest have the same results
// even though the operations alternate between the hubs.
func TestTwoHubsRace(t *testing.T) {
	t.Parallel()
	for _, group := range []string{"Races", "Cancelled", "Clones", "Replicas"} {
		storetest.RunGroup(t, func(t *testing.T) storetest.Engine {
			p, err := postgres.NewPair(context.Background(), postgres.Config{URL: database(t), Readers: 2})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			})
			return p
		}, group)
	}
}

// Two hubs share a database through PgBouncer in transaction mode, in which each transaction may
// get another connection to the server.
func TestTwoHubsBehindPgBouncer(t *testing.T) {
	t.Parallel()
	if server == nil {
		t.Skip(pgtest.ErrMissing)
	}
	pooled := server.PgBouncer(t, 3)
	t.Run("pair", func(t *testing.T) {
		for _, group := range []string{"Races", "Logs", "Replicas"} {
			storetest.RunGroup(t, func(t *testing.T) storetest.Engine {
				p, err := postgres.NewPair(context.Background(), postgres.Config{URL: pooled(nameOf(database(t))), Readers: 2})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := p.Close(); err != nil {
						t.Error(err)
					}
				})
				return p
			}, group)
		}
	})
}
