package postgres_test

import (
	"context"
	"testing"

	"gangway/hub/store/postgres"
	"gangway/hub/store/postgres/pgtest"
)

// pgtest.FillFleet writes the rows with the words and terms for searches, and the counters, without
// the help of triggers. These rows must be equal to those that the triggers and IndexAgain write
// for the same devices.
func TestFilledFleetIsIndexedAsAnother(t *testing.T) {
	t.Parallel()
	if server == nil {
		t.Skip(pgtest.ErrMissing)
	}
	ctx, name := t.Context(), server.Database(t)
	const owner, n = "aaaaaaaaaaaaaaaaaaaaaaaa", 700
	if err := pgtest.FillFleet(ctx, server.URL(name), owner, n); err != nil {
		t.Fatal(err)
	}
	sums := func() (list [4]string) {
		for i, table := range []string{"device_words", "device_meta_terms", "fleet_counts", "hub_counts"} {
			sum, err := server.Query(ctx, name, `SELECT count(*) || ' ' || md5(string_agg(t::text, ';' ORDER BY t::text COLLATE "C")) FROM `+table+` t WHERE t::text NOT LIKE '%,0)'`)
			if err != nil {
				t.Fatal(err)
			}
			list[i] = sum
		}
		return list
	}
	filled := sums()
	// Empty the tables of the search index, and insert the devices again, so that the triggers run
	// for each of them.
	if _, err := server.Query(ctx, name, `CREATE TABLE kept AS SELECT * FROM devices; TRUNCATE device_search, fleet_counts, fleet_arrivals;
		DELETE FROM hub_counts WHERE field = 'maker'; UPDATE hub_counts SET n = 0 WHERE field IN ('devices', 'quiet');
		DELETE FROM settings WHERE name = 'search-index'; ALTER TABLE devices DISABLE TRIGGER device_is_removed; DELETE FROM devices;
		ALTER TABLE devices ENABLE TRIGGER device_is_removed; INSERT INTO devices SELECT * FROM kept; DROP TABLE kept`); err != nil {
		t.Fatal(err)
	}
	s, err := postgres.Open(context.Background(), postgres.Config{URL: server.URL(name)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if again := sums(); again != filled {
		t.Errorf("words, terms, counters of the fleet and of the hub are\n%q, and\n%q after the devices joined again", filled, again)
	}
}
