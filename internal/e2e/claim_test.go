package e2e_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/locked"
	"gangway/internal/swtpm"
	"gangway/wire"
)

// unclaimedMachine is a machine without a join token.
type unclaimedMachine struct {
	t     *testing.T
	state string
	proc  *exec.Cmd
	log   locked.Buffer
}

func (u *unclaimedMachine) start(tpm *swtpm.TPM, hubFile string) {
	u.t.Helper()
	u.proc = exec.Command(agentBinary, "onboard", "--hub-file", hubFile, "--tpm", tpm.Address(), "--state", u.state)
	u.proc.Stderr = &u.log
	if err := u.proc.Start(); err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(u.kill)
}

func (u *unclaimedMachine) kill() {
	u.proc.Process.Kill()
	u.proc.Wait()
}

// nextCode waits until the machine displays a claim code other than `last`.
func (u *unclaimedMachine) nextCode(last string) (code string) {
	u.t.Helper()
	eventually(u.t, "the machine shows a claim code", func() bool {
		s, err := agent.ReadState(u.state)
		_, code, _ = strings.Cut(s.Claim, "/claim/")
		return err == nil && code != "" && code != last
	})
	return code
}

// hubFile writes a file that names the hub but no owner, and returns the file's path.
func hubFile(t *testing.T, h *hubtest.Hub) string {
	t.Helper()
	b, err := json.Marshal(wire.HubFile{Hub: h.URL, HubName: h.CA.HubName(), HubCA: string(h.CA.RootPEM())})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "hub.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A machine without a join token displays a claim code. If a person enters the code at the hub,
// that person's account becomes the machine's owner.
func TestMachineWithoutATokenIsClaimedByItsCode(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	ada := signInAs(t, h, h.Owner.Nick)
	file := hubFile(t, h)
	u := &unclaimedMachine{t: t, state: filepath.Join(t.TempDir(), "state")}
	u.start(tpm, file)
	first := u.nextCode("")
	if n := len(h.Devices(t, h.Owner)); n != 0 {
		t.Errorf("%d devices before the claim, want none", n)
	}
	// After a restart, the machine displays another code, because its disk contains nothing about
	// the first code.
	u.kill()
	u.start(tpm, file)
	code := u.nextCode(first)
	ada.claim(code)
	if err := u.proc.Wait(); err != nil {
		t.Fatalf("gangway-agent onboard: %v: %s", err, u.log.String())
	}
	devices := h.Devices(t, h.Owner)
	if len(devices) != 1 {
		t.Fatalf("%d devices, want 1", len(devices))
	}
	s, err := agent.ReadState(u.state)
	if err != nil || s.Phase != agent.PhaseActive || s.Claim != "" || s.OwnerNick != h.Owner.Nick {
		t.Errorf("state %s, error %v", brief.Of(s), err)
	}
	// The machine's screen and the hub's page have the same claim words, which the owner compares.
	page, err := ada.client.Get(h.URL + "/claim/" + code)
	if err != nil {
		t.Fatal(err)
	}
	defer page.Body.Close()
	var text bytes.Buffer
	text.ReadFrom(page.Body)
	if words := wire.ClaimWords(code); !strings.Contains(text.String(), words) || !strings.Contains(u.log.String(), words) {
		t.Errorf("the words %q are not on both the page and the screen", words)
	}
}

// claim claims a machine by its claim code.
func (o *owner) claim(code string) {
	o.t.Helper()
	req, err := http.NewRequestWithContext(o.t.Context(), http.MethodPost, o.url+"/claim/"+code, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+o.token)
	req.Header.Set("Accept", "application/json")
	resp, err := o.client.Do(req)
	if err != nil {
		o.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		o.t.Fatalf("claiming %s: %s", code, resp.Status)
	}
}

// If a machine loses power after its owner claimed it, it either continues after the restart or
// displays another code. At the end there is exactly one device.
func TestClaimedMachineIsKilledAtAnyInstant(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	ada := signInAs(t, h, h.Owner.Nick)
	file := hubFile(t, h)
	u := &unclaimedMachine{t: t, state: filepath.Join(t.TempDir(), "state")}
	last, kills := "", 0
	phase := func() agent.Phase {
		s, err := agent.ReadState(u.state)
		if err != nil {
			t.Fatal(err)
		}
		return s.Phase
	}
	for phase() != agent.PhaseActive {
		u.start(tpm, file)
		ended := make(chan struct{})
		go func() { u.proc.Wait(); close(ended) }()
		for done := false; !done; {
			s, err := agent.ReadState(u.state)
			if err != nil {
				t.Fatal(err)
			}
			if _, code, _ := strings.Cut(s.Claim, "/claim/"); code != "" && code != last {
				last = code
				ada.claim(code)
			}
			select {
			case <-ended:
				done = true
			case <-time.After(20 * time.Millisecond):
			}
			// Kill the agent only after it has noticed the claim, while it onboards. Before, it
			// polls every three seconds, so almost every kill would happen while it waits.
			if s.Claim == "" && s.Phase != agent.PhaseActive && last != "" && kills < 8 && rand.IntN(2) == 0 {
				kills++
				u.proc.Process.Kill()
				<-ended
				done = true
			}
		}
	}
	t.Logf("%d kills", kills)
	if devices := h.Devices(t, h.Owner); len(devices) != 1 {
		t.Errorf("%d devices, want 1", len(devices))
	}
}
