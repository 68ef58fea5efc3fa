package postgres_test

import (
	"testing"

	"gangway/hub/store/postgres"
	"gangway/hub/store/postgres/pgtest"
	"gangway/hub/store/storetest"
)

// While the hubs of a database are upgraded one after the other, an older hub reads what a newer
// hub writes. So for an hour, a newer hub writes evidence in the form that older hubs know.
func TestEvidenceStaysReadableDuringAnUpgrade(t *testing.T) {
	t.Parallel()
	if server == nil {
		t.Skip(pgtest.ErrMissing)
	}
	const zstd, s2 = "e1", "e2"
	for _, c := range []struct {
		name, setUp, form string
	}{
		{"a database that this version made", "", s2},
		{"the upgrade has just begun", `UPDATE schema_versions SET applied = applied - interval '1 day' WHERE version < 13`, zstd},
		{"the upgrade began 50 minutes ago", `UPDATE schema_versions SET applied = applied - CASE WHEN version < 13 THEN interval '1 day' ELSE interval '50 minutes' END`, zstd},
		{"the upgrade began 70 minutes ago", `UPDATE schema_versions SET applied = applied - CASE WHEN version < 13 THEN interval '1 day' ELSE interval '70 minutes' END`, s2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			name := server.NewDatabase(t)
			config := postgres.Config{URL: server.URL(name)}
			if err := postgres.Create(t.Context(), config, 0); err != nil {
				t.Fatal(err)
			}
			if c.setUp != "" {
				if _, err := server.Query(t.Context(), name, c.setUp); err != nil {
					t.Fatal(err)
				}
			}
			s := open(t, config)
			owner := storetest.Account("harbourmaster")
			token := storetest.JoinToken(owner.ID, "fleet", 0)
			if err := s.CreateAccount(t.Context(), owner); err != nil {
				t.Fatal(err)
			}
			if err := s.CreateJoinToken(t.Context(), token); err != nil {
				t.Fatal(err)
			}
			e := storetest.Machine{Name: "otter"}.Enrolment(owner.ID, token.ID)
			if _, err := s.BeginEnrolment(t.Context(), e, storetest.Epoch); err != nil {
				t.Fatal(err)
			}
			if form, err := server.Query(t.Context(), name, `SELECT encode(substr(request, 1, 1), 'hex') FROM enrolments`); err != nil || form != c.form {
				t.Errorf("the evidence has the form %q (%v), want %q", form, err, c.form)
			}
			if is, err := s.Enrolment(t.Context(), e.RequestHash); err != nil || string(is.Request) != string(e.Request) {
				t.Errorf("the request is not the stored one (%v)", err)
			}
		})
	}
}
