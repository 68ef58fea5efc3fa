package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/hub/api"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
	"gangway/wire"

	"github.com/google/go-tpm/tpm2"
)

// agentCommand runs gangway-agent with one TPM, one state folder and one working folder.
type agentCommand struct {
	t          *testing.T
	tpm        *swtpm.TPM
	dir, state string
}

func newAgentCommand(t *testing.T, tpm *swtpm.TPM) *agentCommand {
	return &agentCommand{t, tpm, t.TempDir(), filepath.Join(t.TempDir(), "state")}
}

func (p *agentCommand) file(name string, content []byte) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

func (p *agentCommand) token(tok *wire.TokenFile) string {
	p.t.Helper()
	b, err := json.Marshal(tok)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.file("token.json", b)
}

func (p *agentCommand) start(args ...string) (*exec.Cmd, *strings.Builder) {
	said := new(strings.Builder)
	c := exec.CommandContext(p.t.Context(), agentBinary, append(args, "--tpm", p.tpm.Address(), "--state", p.state)...)
	c.Stdout, c.Stderr = said, said
	return c, said
}

func (p *agentCommand) call(args ...string) (said string, code int) {
	c, out := p.start(args...)
	_ = c.Run() // the error is not needed: the exit code is returned
	return out.String(), c.ProcessState.ExitCode()
}

// If the TPM's endorsement hierarchy has a password, the agent reports the cause and the remedy.
// Every command that uses the keys has a flag for the password.
func TestTPMWithAnEndorsementPassword(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	const password = "their endorsement password"
	if err := tpm.SetPassword(tpm2.TPMRHEndorsement, password); err != nil {
		t.Fatal(err)
	}
	p := newAgentCommand(t, tpm)
	token, auth := p.token(h.Token(t, h.Owner, nil)), p.file("auth", []byte(password+"\n"))
	for _, args := range [][]string{
		{"onboard", "--token-file", token},
		{"run", "--token-file", token},
	} {
		said, code := p.call(args...)
		if code != 1 || !strings.Contains(said, "has a password.") || !strings.Contains(said, "--endorsement-auth-file") || !strings.Contains(said, "tpm-endorsement-password") {
			t.Errorf("%s: exit code %d\n%s", args[0], code, said)
		}
	}
	if said, _ := p.call("status"); !strings.Contains(said, "waiting    ") || !strings.Contains(said, "--endorsement-auth-file") {
		t.Errorf("status:\n%s", said)
	}
	if said, code := p.call("onboard", "--token-file", token, "--endorsement-auth-file", p.file("wrong", []byte("mine"))); code != 1 || !strings.Contains(said, "tpm-endorsement-password-wrong") {
		t.Errorf("exit code %d\n%s", code, said)
	}
	if said, code := p.call("onboard", "--token-file", token, "--endorsement-auth-file", auth); code != 0 || strings.Contains(said, password) {
		t.Fatalf("exit code %d\n%s", code, said)
	}
	if said, code := p.call("status", "--ask", "--endorsement-auth-file", auth); code != 0 || !strings.Contains(said, "The hub accepts the device.") {
		t.Errorf("status --ask: exit code %d\n%s", code, said)
	}
	if said, code := p.call("export", "--out", filepath.Join(p.dir, "out"), "--endorsement-auth-file", auth); code != 0 {
		t.Errorf("export: exit code %d\n%s", code, said)
	}
	runUntilReport(t, h, agent.Config{TPM: tpm.Address(), StateDir: p.state, EndorsementAuth: []byte(password), ReportEvery: 50 * time.Millisecond})
}

// onlyWaitingDevice waits until exactly one device waits for the hub's owner, and returns it.
func onlyWaitingDevice(t *testing.T, h *hubtest.Hub) api.WaitingView {
	t.Helper()
	ada := signIn(t, h)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var list []api.WaitingView
		ada.call("GET", "/devices/waiting", nil, &list)
		if len(list) == 1 {
			return list[0]
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d devices wait for the owner, want 1", len(list))
		}
	}
}

// The owner's page and the machine's screen give the same reason why the EK certificate is missing.
// The machine onboards after the owner approves it.
func TestOwnerIsToldWhyTheCertificateIsMissing(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*swtpm.TPM) error
		// `option` is the flag that the agent needs, or "" if it needs none. `refused` is the code
		// with which the hub refuses the device without the flag; "" means that the device waits
		// for its owner. `words` is the text that the owner's page and the machine's screen show.
		option, refused, words string
	}{
		{"new endorsement seed", (*swtpm.TPM).ChangeEPS, "--without-ek-certificate", "ek-key-mismatch",
			"NV index 0x01C00002 of the TPM contains the certificate of a key that this TPM does not have: the TPM's endorsement seed was changed (TPM2_ChangeEPS), or the certificate belongs to another TPM."},
		{"certificate that cannot be read", func(tpm *swtpm.TPM) error { return tpm.WriteNV(0x01C00002, []byte("what is this")) }, "", "",
			"NV index 0x01C00002 of the TPM contains data that are not an EK certificate."},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tpm := newTPM(t, swtpm.RSA2048)
			h := newHub(t, tpm)
			if err := c.spoil(tpm); err != nil {
				t.Fatal(err)
			}
			p := newAgentCommand(t, tpm)
			args := []string{"onboard", "--token-file", p.token(h.Token(t, h.Owner, nil))}
			if c.refused != "" {
				said, code := p.call(args...)
				if code != 3 || !strings.Contains(said, c.refused) || !strings.Contains(said, c.option) {
					t.Fatalf("exit code %d\n%s", code, said)
				}
				wantSentences(t, signIn(t, h).events(), "this TPM's endorsement seed has been changed since the certificate was issued")
			}
			if c.option != "" {
				args = append(args, c.option)
			}
			cmd, said := p.start(args...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w := onlyWaitingDevice(t, h)
			wantSentences(t, w.Verdict.Checks[1].Detail, c.words)
			wantSentences(t, signIn(t, h).events(), c.words)
			var decided api.WaitingView
			signIn(t, h).call("POST", "/devices/"+w.ID+"/approve", map[string][]string{"questions": w.Questions}, &decided)
			if err := cmd.Wait(); err != nil {
				t.Fatalf("gangway-agent onboard: %v\n%s", err, said)
			}
			wantSentences(t, said.String(), c.words)
			if d := h.Devices(t, h.Owner); len(d) != 1 || fmt.Sprintf("%x", d[0].EK) != w.EK {
				t.Errorf("devices %s, want one with the EK %s", brief.Of(d), w.EK)
			}
		})
	}
}
