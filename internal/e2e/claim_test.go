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
	"gangway/internal/swtpm"
	"gangway/wire"
)

// unclaimed is a machine without a join token.
type unclaimed struct {
	t     *testing.T
	state string
	proc  *exec.Cmd
	log   lockedBuffer
}

func (u *unclaimed) start(tpm *swtpm.TPM, hubFile string) {
	u.t.Helper()
	u.proc = exec.Command(agentBinary, "onboard", "--hub-file", hubFile, "--tpm", tpm.Address(), "--state", u.state)
	u.proc.Stderr = &u.log
	if err := u.proc.Start(); err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(u.kill)
}

func (u *unclaimed) kill() {
	u.proc.Process.Kill()
	u.proc.Wait()
}

// code waits until the machine shows one that is another than the last.
func (u *unclaimed) code(last string) (code string) {
	u.t.Helper()
	eventually(u.t, "the machine shows a code", func() bool {
		s, err := agent.ReadState(u.state)
		_, code, _ = strings.Cut(s.Claim, "/claim/")
		return err == nil && code != "" && code != last
	})
	return code
}

// A machine without a token shows a code, and is the device of who takes it to
// the hub; nothing that it shows or writes lets another in.
func TestMachineWithoutATokenIsClaimedByItsCode(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	ada := signInAs(t, h, h.Owner.Nick)
	file := filepath.Join(t.TempDir(), "hub.json")
	b, err := json.Marshal(wire.HubFile{Hub: h.URL, HubName: h.CA.HubName(), HubCA: string(h.CA.RootPEM())})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	u := &unclaimed{t: t, state: filepath.Join(t.TempDir(), "state")}
	u.start(tpm, file)
	first := u.code("")
	if n := len(h.Devices(t, h.Owner)); n != 0 {
		t.Errorf("%d devices before anybody claimed it", n)
	}
	// Switched off and on, it shows another: there was nothing on its disk to go
	// on with.
	u.kill()
	u.start(tpm, file)
	code := u.code(first)
	ada.claims(code)
	if err := u.proc.Wait(); err != nil {
		t.Fatalf("%v: %s", err, u.log.String())
	}
	devices := h.Devices(t, h.Owner)
	if len(devices) != 1 {
		t.Fatalf("devices: %+v", devices)
	}
	s, err := agent.ReadState(u.state)
	if err != nil || s.Phase != agent.PhaseActive || s.Claim != "" || s.OwnerNick != h.Owner.Nick {
		t.Errorf("%+v, %v", s, err)
	}
	// The words on the screen are those of the page.
	page, err := ada.client.Get(h.URL + "/claim/" + code)
	if err != nil {
		t.Fatal(err)
	}
	defer page.Body.Close()
	var text bytes.Buffer
	text.ReadFrom(page.Body)
	if words := wire.ClaimWords(code); !strings.Contains(text.String(), words) || !strings.Contains(u.log.String(), words) {
		t.Errorf("%s is not on both", words)
	}
}

// claims takes a machine by its code.
func (o *owner) claims(code string) {
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
		o.t.Fatalf("%s", resp.Status)
	}
}

// A machine that is switched off after somebody took its code goes on, or shows
// another one; in the end it is one device.
func TestClaimedMachineIsKilledAtAnyInstant(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	ada := signInAs(t, h, h.Owner.Nick)
	file := filepath.Join(t.TempDir(), "hub.json")
	b, err := json.Marshal(wire.HubFile{Hub: h.URL, HubName: h.CA.HubName(), HubCA: string(h.CA.RootPEM())})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	u := &unclaimed{t: t, state: filepath.Join(t.TempDir(), "state")}
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
				ada.claims(code)
			}
			select {
			case <-ended:
				done = true
			case <-time.After(20 * time.Millisecond):
			}
			// It asks every three seconds; then all goes quickly.
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
		t.Errorf("devices: %+v", devices)
	}
}
