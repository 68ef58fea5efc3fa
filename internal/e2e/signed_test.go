package e2e_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"gangway/wire/trail/sig"
	"gangway/wire/trail/sig/sigtest"
)

// postState posts a state as a revision and returns the revision's number.
func (m *machine) postState(state sigtest.State) int {
	m.t.Helper()
	all := sigtest.State{"#spec": "pantavisor-service-system@1"}
	for name, value := range state {
		all[name] = value
	}
	var step struct{ Rev int }
	m.ada.call("POST", "/trails/"+m.id+"/steps", map[string]any{"rev": -1, "commit-msg": "signed", "state": all}, &step)
	return step.Rev
}

// Even if an attacker controls a real hub, its keys and the owner's account on this hub, the real
// agent, which pins the owner's key, installs only the revisions that the owner has signed. The
// owner can read the cause of each refusal on the hub.
func TestAttackerWithTheHubsKeysInstallsNothing(t *testing.T) {
	t.Parallel()
	key, attacker := sigtest.NewKey(t), sigtest.NewKey(t)
	m := newMachine(t)
	if err := os.WriteFile(m.path("owner.pem"), []byte(sigtest.PEM(t, key)), 0o600); err != nil {
		t.Fatal(err)
	}
	m.args = append(m.args, "--revision-key", m.path("owner.pem"))
	m.run()
	m.waitForTrail()
	state := func(content string, sequence int) sigtest.State {
		return sigtest.State{"app/root": m.object(content), sig.SequencePath: map[string]any{"sequence": sequence}}
	}
	old := sigtest.Sign(t, state("old", 1), "owner", key, sigtest.All())
	m.waitForStatus(m.postState(old), "DONE")
	m.waitForStatus(m.postState(sigtest.Sign(t, state("present", 2), "owner", key, sigtest.All())), "DONE")
	calls := m.calls()
	for code, evil := range map[sig.Code]sigtest.State{
		sig.CodeUnsigned:  state("evil", 3),
		sig.CodeSignature: sigtest.Sign(t, state("evil", 3), "owner", attacker, sigtest.All()),
		sig.CodeOld:       old,
	} {
		if p := m.waitForStatus(m.postState(evil), "WONTGO"); !strings.Contains(p.Message, string(code)) {
			t.Errorf("the progress message is %q, want the code %s", p.Message, code)
		}
	}
	m.stop()
	m.run() // the new process must read the latest sequence number from the disk
	if p := m.waitForStatus(m.postState(old), "WONTGO"); !strings.Contains(p.Message, string(sig.CodeOld)) {
		t.Errorf("after a restart of the agent: %q", p.Message)
	}
	if got := m.calls(); !slices.Equal(got, calls) {
		t.Errorf("the hook was called: %v", got[len(calls):])
	}
	if got := m.installed("app/root"); got != "present" {
		t.Errorf("installed: %q", got)
	}
}
