package api_test

import (
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/internal/hubtest"
)

// The other tests of this package hash passwords with less memory. A real hub uses 19 MiB and three
// passes for each hash, also when somebody signs in to an account that does not exist.
func TestPasswordsCostWhatTheyShould(t *testing.T) {
	t.Parallel()
	const cost = "$argon2id$v=19$m=19456,t=3,p=1$"
	hash, err := api.HashAtRealCost(hubtest.Password)
	if err != nil || !strings.HasPrefix(hash, cost) {
		t.Errorf("a hash is %s, %v; it should begin with %s", hash, err, cost)
	}
	decoy := newScene(t).Server.RealPasswordCost()
	if !strings.HasPrefix(decoy, cost) || len(decoy) != len(hash) {
		t.Errorf("for an account that does not exist, the hub checks %s", decoy)
	}
	for _, c := range []struct {
		password, hash string
		want           bool
	}{{hubtest.Password, hash, true}, {"correct horse", hash, false}, {hubtest.Password, decoy, false}} {
		if ok, err := api.VerifyPassword(c.password, c.hash); ok != c.want || err != nil {
			t.Errorf("%s for %s: %v, %v", c.password, c.hash, ok, err)
		}
	}
}
