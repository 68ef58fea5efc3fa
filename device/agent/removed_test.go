package agent

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"gangway/wire"
)

// If the hub no longer accepts a device, the device may onboard again by itself, at most once a
// day. If the owner deleted the device, it must not onboard again by itself.
func TestOnlyWhatNobodyDecidedBringsADeviceBackByItself(t *testing.T) {
	t.Parallel()
	token, hub := new(wire.TokenFile), new(wire.HubFile)
	for _, c := range []struct {
		name        string
		code        string
		certificate string // the state of the certificate in the hub's refusal; "": the refusal of an older hub, which has no such state
		cfg         Config
		claims      bool
		returned    time.Duration // time since the device last onboarded again by itself; 0: never
		why         string        // what the function `removal` must return; "": the refusal does not mean a removal
		comes       bool
	}{
		{"deleted, with a token", "certificate-not-active", "revoked", Config{Token: token}, false, 0, "revoked", false},
		{"deleted, by an older hub", "certificate-not-active", "", Config{Token: token}, false, 0, "revoked", false},
		{"deleted since the request", "device-revoked", "", Config{Token: token}, false, 0, "revoked", false},
		{"deleted, and a person's word", "certificate-not-active", "revoked", Config{Token: token, Again: true}, false, 0, "revoked", true},
		{"deleted, a machine that shows a code", "certificate-not-active", "revoked", Config{Hub: hub}, false, 0, "revoked", false},
		{"replaced, a machine that shows a code", "certificate-not-active", "superseded", Config{Hub: hub}, false, 0, "superseded", false},
		{"deleted since its claim", "device-revoked", "", Config{Hub: hub}, true, 0, "revoked", true},
		{"replaced", "certificate-not-active", "superseded", Config{Token: token}, false, 0, "superseded", true},
		{"replaced, without a token", "certificate-not-active", "superseded", Config{}, false, 0, "superseded", false},
		{"replaced for the second time in a day", "certificate-not-active", "superseded", Config{Token: token}, false, time.Hour, "superseded", false},
		{"replaced for the second time in two days", "certificate-not-active", "superseded", Config{Token: token}, false, 25 * time.Hour, "superseded", true},
		{"the hub lost its record", "certificate-not-active", "unknown", Config{Token: token}, false, 0, "unknown", true},
		{"the hub lost the activation", "certificate-not-active", "pending", Config{Token: token}, false, 0, "unknown", true},
		{"a word that a newer hub has", "certificate-not-active", "eaten", Config{Token: token}, false, 0, "revoked", false},
		{"another refusal", "device-denied", "", Config{Token: token}, false, 0, "", false},
	} {
		no := &Refused{Status: 403, Code: c.code, Certificate: c.certificate}
		if why := removal(fmt.Errorf("wrapped: %w", no)); why != c.why {
			t.Errorf("%s: %q", c.name, why)
		}
		if c.why == "" {
			continue
		}
		a := &Agent{cfg: c.cfg}
		if c.returned > 0 {
			a.state.Returned = time.Now().Add(-c.returned)
		}
		removed := a.checkReturn(c.why, no, c.claims)
		if (removed == nil) != c.comes {
			t.Errorf("%s: %v", c.name, removed)
		}
		if removed != nil && !errors.Is(removed, no) {
			t.Errorf("%s: the hub's refusal is lost", c.name)
		}
	}
	if removal(nil) != "" || removal(errors.New("no network")) != "" {
		t.Error("what the hub did not say is a removal")
	}
}
