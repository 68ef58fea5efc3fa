package postgres_test

import (
	"testing"

	"gangway/hub/store"
	"gangway/hub/store/postgres"
	"gangway/hub/store/storetest"
)

// The first statement on a new connection has a single argument, the empty text, which is the owner
// of the hub's policy. If the store sent it as NULL, the hub would not find its policy, and would
// judge devices without it.
func TestNewConnectionFindsThePolicyOfTheHub(t *testing.T) {
	t.Parallel()
	config := postgres.Config{URL: database(t), Readers: 4}
	if err := open(t, config).PutPolicy(t.Context(), store.Policy{Owner: store.HubWide, Text: "version: 1\n", Updated: storetest.Epoch}); err != nil {
		t.Fatal(err)
	}
	another := open(t, config)
	for range 5 { // the connections take turns
		if p, err := another.Policy(t.Context(), store.HubWide); err != nil || p.Text != "version: 1\n" {
			t.Errorf("%q, %v", p.Text, err)
		}
	}
}
