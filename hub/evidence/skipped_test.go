package evidence_test

import (
	"testing"
	"time"

	"gangway/hub/evidence"
	"gangway/internal/fleet"
)

// A check that had nothing to examine is not shown as passed: for example, the chain check without
// a certificate, the EK list check without a list, or rules about makers if the TPM's maker is not
// known.
func TestStepThatWasNotExaminedIsNotPassed(t *testing.T) {
	t.Parallel()
	byMaker := []evidence.Layer{{Name: "the hub's policy", Rules: []evidence.Rule{{Maker: "IFX", Then: evidence.Refuse}}}}
	byAny := []evidence.Layer{{Name: "the hub's policy", Rules: []evidence.Rule{{FirmwareBelow: 1, Then: evidence.Refuse}}}}
	none := []evidence.Layer{{Name: "the hub's policy", Rules: []evidence.Rule{{Maker: "none", Then: evidence.Accept}}}}
	for name, c := range map[string]struct {
		without bool // no EK certificate
		policy  evidence.Policy
		listing evidence.Listing
		skipped map[string]bool // by check
	}{
		"a certificate, no list, no rules": {skipped: map[string]bool{"ek-list": true, "policy": true}},
		"a certificate, a list, a rule":    {policy: evidence.Policy{Layers: byMaker}, listing: evidence.Listing{Kept: true, ByKey: true}},
		"no certificate":                   {without: true, skipped: map[string]bool{"ek-chain": true, "hardware": true, "ek-list": true, "policy": true}},
		"no certificate, a list":           {without: true, listing: evidence.Listing{Kept: true, ByKey: true}, skipped: map[string]bool{"ek-chain": true, "hardware": true, "policy": true}},
		"no certificate, a rule on makers": {without: true, policy: evidence.Policy{Layers: byMaker}, skipped: map[string]bool{"ek-chain": true, "hardware": true, "ek-list": true, "policy": true}},
		"no certificate, a rule on all":    {without: true, policy: evidence.Policy{Layers: byAny}, skipped: map[string]bool{"ek-chain": true, "hardware": true, "ek-list": true}},
		"no certificate, a rule on none":   {without: true, policy: evidence.Policy{Layers: none}, skipped: map[string]bool{"ek-chain": true, "hardware": true, "ek-list": true}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			d := s.victim
			if c.without {
				copied := *d
				copied.EKCert = copied.EK.Public.Raw // sent in place of a certificate
				d = &copied
			}
			p := evidence.DefaultPolicy()
			p.Software, p.Layers = []string{"FAKE"}, c.policy.Layers
			r, err := evidence.Parse(s.request(t, d, fleet.RequestChange{}))
			if err != nil {
				t.Fatal(err)
			}
			v := new(evidence.Verdict)
			evidence.Verify(v, r, &evidence.Input{Trust: s.trust, Policy: p, Listing: c.listing, Now: time.Now()})
			if v.Refusal != nil {
				t.Fatal(v.Refusal)
			}
			for _, step := range v.Checks {
				asked := c.without && step.Check == "ek-certificate"
				if step.Skipped != c.skipped[step.Check] || step.OK != (!step.Skipped && !asked) {
					t.Errorf("%+v", step)
				}
			}
			if len(v.Checks) != 10 || v.Passed("ek-chain") == c.without || v.Failed("ek-chain") {
				t.Errorf("%+v", v.Checks)
			}
		})
	}
}
