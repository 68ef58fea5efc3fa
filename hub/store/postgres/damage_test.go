package postgres_test

import (
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
