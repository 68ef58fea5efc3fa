package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"gangway/hub/store/postgres"
	"gangway/hub/store/storetest"
)

func TestDamageIsFound(t *testing.T) {
	t.Parallel()
	address := database(t)
	s := open(t, postgres.Config{URL: address})
	storetest.Damage(t, s, `'\x'`, func(damage string) {
		if _, err := server.Query(t.Context(), nameOf(address), "SET session_replication_role = replica; "+damage); err != nil {
			t.Fatal(damage, err)
		}
	})
}

// PackEvidence packs the enrolments that an earlier version of the hub stored.
func TestEarlierEnrolmentsArePacked(t *testing.T) {
	t.Parallel()
	address := database(t)
	s := open(t, postgres.Config{URL: address})
	query := func(sql string) string {
		answer, err := server.Query(t.Context(), nameOf(address), sql)
		if err != nil {
			t.Fatal(sql, err)
		}
		return strings.TrimSpace(answer)
	}
	storetest.Pack(t, s, func(b []byte) string { return fmt.Sprintf(`'\x%x'`, b) }, func(sql string) { query(sql) }, query)
}
