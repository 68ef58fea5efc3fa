package postgres_test

import (
	"context"
	"fmt"
	"testing"

	"gangway/hub/search"
	"gangway/hub/store"
	"gangway/hub/store/postgres"
	"gangway/hub/store/postgres/pgtest"
	"gangway/hub/store/sqlstore"
	"gangway/internal/race"
)

// The work for a query has an upper bound that does not depend on the number of devices, although
// PostgreSQL has no statistics about the rows.
func TestFleetQuestionsTouchBoundedRows(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	const owner, fleet = "aaaaaaaaaaaaaaaaaaaaaaaa", 12_000
	url := database(t)
	if err := pgtest.FillFleet(t.Context(), url, owner, fleet); err != nil {
		t.Fatal(err)
	}
	var scanned, statements float64
	var most string
	s, stop, err := postgres.NewExplaining(t.Context(), postgres.Config{URL: url}, func(s *sqlstore.Statement, rows float64) {
		scanned += rows
		statements++
		if rows > 1500 {
			most += fmt.Sprintf("\n%.0f rows: %s", rows, s.Postgres())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	ask := map[string]func(ctx context.Context) error{
		"counts": func(ctx context.Context) error { _, err := s.FleetCounts(ctx, owner); return err },
		"facets": func(ctx context.Context) error {
			_, _, err := s.Facets(ctx, owner, store.FieldFirmware, 10)
			return err
		},
	}
	for _, text := range []string{
		"", "forklift", "forklift nobody", "sn nuc ifx", `"nuc 1"`, "0", `model:"NUC 1"`, "maker:STM", "firmware:7.85", "token:000000000000000000000007",
		`meta.kernel=6.12`, `meta.site="site 7" meta.kernel=6.12`, `maker:STM meta.kernel=6.12 nuc sn state:active`, "state:active", "state:quiet",
		"state:updating firmware:7.85", "state:failed", "state:boot-changed forklift", "id:0f3a", `model:"NUC 1" model:"NUC 0"`,
	} {
		q, err := search.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		q.Owner = owner
		ask["count "+text] = func(ctx context.Context) error { _, err := s.CountSearch(ctx, q); return err }
		for i, key := range []store.SortKey{store.SortNick, store.SortCreated, store.SortLastSeen, store.SortModel} {
			q.Sort, q.Descending = key, i%2 == 1
			ask[fmt.Sprintf("search %s, by %s", text, key)] = func(ctx context.Context) error { _, err := s.SearchDevices(ctx, q); return err }
		}
	}
	for name, question := range ask {
		scanned, statements, most = 0, 0, ""
		if err := question(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// For each condition, a search first reads at most 1001 rows of words or terms. Then it
		// examines at most 1000 devices, and looks up each of them once per condition on metadata.
		if scanned > 4*(store.MaxCount+1) || statements > 20 {
			t.Errorf("%s: %.0f statements that read %.0f rows%s", name, statements, scanned, most)
		}
	}
}
