package evidence

import (
	"errors"
	"testing"
	"time"

	"gangway/internal/makercerts"
)

// Every CA certificate of a real maker satisfies the constraints of the CAs above it.
func TestMakersOwnChainsKeepTheirConstraints(t *testing.T) {
	t.Parallel()
	links := makercerts.Read(t, makercerts.Intermediates)
	trust, err := NewTrust(makercerts.Read(t, makercerts.Roots), links)
	if err != nil {
		t.Fatal(err)
	}
	good := 0
	for _, c := range links {
		_, err := trust.verifyCA(newCandidate(c), nil, c.NotBefore.Add(24*time.Hour))
		var broken *constraintError
		if errors.As(err, &broken) {
			t.Errorf("%s: %v", c.Subject, err)
		}
		if err == nil {
			good++
		}
	}
	if good < 130 {
		t.Errorf("%d of %d chains lead to a root", good, len(links))
	}
}
