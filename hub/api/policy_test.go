package api_test

import (
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
)

// The answer to PUT /policy names the rules of an owner's policy that have no effect because of the
// hub's policy.
func TestPolicyAnswerNamesWhatHasNoEffect(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, store.HubWide, "version: 1\nrules: [{maker: IFX, then: refuse}]\n")
	ada := s.person(t, "ada")
	const text = "version: 1\nrules: [{maker: IFX, then: ask}, {maker: Nuvoton, then: refuse}]\n"
	if status, body := ada.do("PUT", "/policy", text); status != 200 || !strings.Contains(string(body), "NTC (Nuvoton)") {
		t.Fatalf("%d %s", status, body)
	}
	view := want[api.PolicyView](ada, "GET", "/policy", nil, 200)
	if len(view.Warnings) != 2 || !strings.Contains(view.Warnings[0], "NTC (Nuvoton)") || !strings.Contains(view.Warnings[1], "rule 1 of the hub's policy says refuse") {
		t.Errorf("%s", brief.Of(view.Warnings))
	}
	s.Policy(t, s.Owner.ID, "version: 1\nrules: [{maker: NTC, then: refuse}]\n")
	if view := want[api.PolicyView](ada, "GET", "/policy", nil, 200); len(view.Warnings) != 0 {
		t.Errorf("%s", brief.Of(view.Warnings))
	}
}

// The verdict about a waiting machine without an EK certificate must not list a passed check of a
// certificate chain that the machine does not have.
func TestWaitingMachineShowsNoTickForAChainThatIsNotThere(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	w := waits(t, s.post(t, s.request(t, s.uncertified(t))), "ek-certificate-none")
	seen := 0
	for _, waiting := range want[[]api.WaitingView](ada, "GET", "/devices/waiting", nil, 200) {
		for _, step := range waiting.Verdict.Checks {
			switch step.Check {
			case "ek-chain", "hardware", "ek-list", "policy":
				seen++
				if step.OK || step.Ask || !step.Skipped {
					t.Errorf("%s", brief.Of(step))
				}
			case "ek-certificate":
				seen++
				if step.OK || !step.Ask || step.Skipped {
					t.Errorf("%s", brief.Of(step))
				}
			default:
				if !step.OK || step.Skipped {
					t.Errorf("%s", brief.Of(step))
				}
			}
		}
	}
	if seen != 5 {
		t.Errorf("%d of 5 checks of %s were made", seen, w.DeviceID)
	}
}
