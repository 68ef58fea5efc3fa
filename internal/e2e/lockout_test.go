package e2e_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"

	"github.com/google/go-tpm/tpm2"
)

// runUntilReport runs the agent until the hub has accepted a report.
func runUntilReport(t *testing.T, h *hubtest.Hub, cfg agent.Config) {
	t.Helper()
	before, err := agent.ReadState(cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	since := h.Devices(t, h.Owner)[0].LastSeen
	a, err := agent.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ran := make(chan error, 1)
	go func() { ran <- a.Run(ctx) }()
	for !h.Devices(t, h.Owner)[0].LastSeen.After(since) {
		select {
		case err := <-ran:
			t.Fatalf("the agent of %s ended: %v", before.DeviceID, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
}

// Power cuts while the agent runs do not put the TPM into dictionary attack lockout.
func TestPowerCutsDoNotKeepTheAgentOut(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	state := filepath.Join(t.TempDir(), "state")
	if _, err := onboard(t, tpm, h.Token(t, h.Owner, nil), state); err != nil {
		t.Fatal(err)
	}
	for range 5 { // swtpm enters lockout after three failed authorisations
		runUntilReport(t, h, agent.Config{TPM: tpm.Address(), StateDir: state, ReportEvery: 50 * time.Millisecond})
		if err := tpm.PowerCut(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := tpm.FailedTries(); n != 0 || err != nil {
		t.Errorf("the TPM counts %d failed tries (%v), want none", n, err)
	}
}

// hideCertificateInLockout gives the NV index of the EK certificate a password and dictionary
// attack protection. So the TPM refuses to read this index during a lockout.
func hideCertificateInLockout(t *testing.T, tpm *swtpm.TPM) {
	t.Helper()
	out, err := exec.Command("tpm2_nvread", "-T", tpm.TCTI(), "-C", "o", "0x01C00002").Output()
	if err != nil {
		t.Skipf("needs tpm2-tools: %v", err)
	}
	if err := tpm.DeleteNV(0x01C00002); err != nil {
		t.Fatal(err)
	}
	if err := tpm.DefineNV(0x01C00002, out, tpm2.TPMANV{AuthRead: true, PPWrite: true, PlatformCreate: true}); err != nil {
		t.Fatal(err)
	}
}

// If the TPM is in lockout, and the lockout hierarchy has no password, the agent lifts the lockout
// and reads the EK certificate.
func TestAgentLiftsALockoutThatHasNoPassword(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.RSA2048)
	h := newHub(t, tpm)
	hideCertificateInLockout(t, tpm)
	if err := tpm.EnterLockout(); err != nil {
		t.Fatal(err)
	}
	s, err := onboard(t, tpm, h.Token(t, h.Owner, nil), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if s.TPM.Manufacturer == "" {
		t.Error("the device onboarded without the EK certificate that lockout had hidden")
	}
}

// If the lockout hierarchy has a password, the agent cannot lift the lockout. It says so, waits
// until the lockout ends, and then onboards.
func TestAgentWaitsUntilALockoutEnds(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.RSA2048)
	h := newHub(t, tpm)
	hideCertificateInLockout(t, tpm)
	if err := tpm.SetPassword(tpm2.TPMRHLockout, "theirs"); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tpm2_dictionarylockout", "-T", tpm.TCTI(), "--setup-parameters", "--max-tries=3", "--recovery-time=3", "--lockout-recovery-time=3", "--auth=theirs").CombinedOutput()
	if err != nil {
		t.Fatalf("tpm2_dictionarylockout: %v\n%s", err, out)
	}
	if err := tpm.EnterLockout(); err != nil {
		t.Fatal(err)
	}
	var said []string
	state := t.TempDir()
	a, err := agent.New(agent.Config{TPM: tpm.Address(), StateDir: state, Token: h.Token(t, h.Owner, nil), Progress: func(s agent.Progress) { said = append(said, s.Name+": "+s.Detail) }})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	s, err := a.Onboard(ctx)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(said, "\n")
	if !strings.Contains(all, "waiting: The TPM is in lockout") || !strings.Contains(all, "the lockout ends within 3s") {
		t.Errorf("the agent did not report when the lockout ends:\n%s", all)
	}
	if s.TPM.Manufacturer == "" || s.Waiting != "" {
		t.Errorf("state %s", brief.Of(s))
	}
}
