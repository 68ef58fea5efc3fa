package postgres_test

import (
	"regexp"
	"strings"
	"testing"

	"gangway/hub/store/postgres"
	"gangway/hub/store/postgres/pgtest"
	"gangway/hub/store/sqlstore"

	"github.com/jackc/pgx/v5/pgconn"
)

var hint = regexp.MustCompile(`INDEXED BY (\w+)`)

// PostgreSQL's statistics about a table may be out of date, or missing, for example after a
// restore. The searches must use the same indexes in all cases, for which SQLite has the clause
// INDEXED BY, but PostgreSQL has nothing. The test also checks generic plans, which PostgreSQL
// makes without knowing the arguments of the statement.
func TestPlansDoNotDependOnStatistics(t *testing.T) {
	t.Parallel()
	fill, _, _ := strings.Cut(fillForPlans, "ANALYZE")
	for name, statistics := range map[string]string{
		"none":      ``,
		"all alike": alike + `; ANALYZE`,
		// When the statistics were made, all devices were alike.
		"old": alike + `; ANALYZE; UPDATE device_search SET quiet = 0, boot = '', status = 'DONE', clone = '', token = nick, model = nick, maker = nick, firmware = nick`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if server == nil {
				t.Skip(pgtest.ErrMissing)
			}
			pg, err := pgconn.Connect(t.Context(), server.URL(server.NewDatabase(t)))
			if err != nil {
				t.Fatal(err)
			}
			defer pg.Close(t.Context())
			if _, err := pg.Exec(t.Context(), fill+statistics).ReadAll(); err != nil {
				t.Fatal(err)
			}
			for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
				if _, err := pg.Exec(t.Context(), "SET plan_cache_mode = "+mode+"; "+postgres.BeginSearch).ReadAll(); err != nil {
					t.Fatal(err)
				}
				for what, s := range sqlstore.FleetStatements() {
					want := hint.FindStringSubmatch(s.SQLite)
					if want == nil || !strings.Contains(s.SQLite, "device_search") {
						continue
					}
					plan := explain(t, pg, s)
					if text := strings.Join(plan, "\n"); !strings.Contains(text, " using "+want[1]+" ") || strings.Contains(text, "Sort") {
						t.Errorf("%s, %s: the plan does not use %s only\n%s\n%s", what, mode, want[1], s.Postgres(), text)
					}
				}
				if _, err := pg.Exec(t.Context(), "COMMIT").ReadAll(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// alike is SQL that gives all devices the same owner and the same values.
const alike = `; UPDATE device_search SET owner = 'owner1', seen = 9223372036854775807, quiet = 1, boot = 'changed', status = 'ERROR', clone = 'noted',
	token = 'owner1', model = 'owner1', maker = 'owner1', firmware = 'owner1' WHERE owner <> 'owner1'`

// explain returns the plan of a statement.
func explain(t *testing.T, pg *pgconn.PgConn, s *sqlstore.Statement) (plan []string) {
	t.Helper()
	description, err := pg.Prepare(t.Context(), "plan", s.Postgres(), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := "EXPLAIN EXECUTE plan"
	if len(description.ParamOIDs) > 0 {
		text += "(" + arguments(description.ParamOIDs) + ")"
	}
	results, err := pg.Exec(t.Context(), text).ReadAll()
	if err != nil {
		t.Fatal(err, s.Postgres())
	}
	for _, row := range results[0].Rows {
		plan = append(plan, string(row[0]))
	}
	if _, err := pg.Exec(t.Context(), `DEALLOCATE plan`).ReadAll(); err != nil {
		t.Fatal(err)
	}
	return plan
}
