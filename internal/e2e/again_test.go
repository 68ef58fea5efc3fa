package e2e_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/swtpm"
	"gangway/wire"
)

// onboardAgain onboards in the same way as 'gangway-agent onboard --again'.
func (o *onboardedDevice) onboardAgain(t *testing.T, tok *wire.TokenFile, state string) (*agent.State, error) {
	t.Helper()
	return onboardWith(t, agent.Config{Token: tok, TPM: o.tpm.Address(), StateDir: state, Again: true})
}

// wantRemoved checks the error of an agent whose device was removed at the hub. The error must
// contain the cause, the hub's code, and the flag --again as the remedy.
func wantRemoved(t *testing.T, err error, why, code string) {
	t.Helper()
	var removed *agent.Removed
	var refused *agent.Refused
	if !errors.As(err, &removed) || removed.Why != why || !errors.As(err, &refused) || refused.Code != code || !strings.Contains(err.Error(), "--again") {
		t.Errorf("got the error %v, want removed for %q with the code %s", err, why, code)
	}
}

// copyState returns a copy of a state folder, as in a backup.
func copyState(t *testing.T, state string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(to, os.DirFS(state)); err != nil {
		t.Fatal(err)
	}
	return to
}

// An agent whose device was deleted does not onboard again by itself, even with a valid join token.
// It onboards as a new device only if a person uses the flag --again.
func TestDeletedDeviceStaysOutUntilAPersonBringsItBack(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.P384, "")
	o.deleteDevice(t, o.id)
	for range 3 {
		_, err := onboard(t, o.tpm, o.tok, o.state)
		wantRemoved(t, err, "revoked", "certificate-not-active")
	}
	o.wantDevicesAndUses(t, 0, 1)
	s, err := agent.ReadState(o.state)
	if err != nil || s.Phase != agent.PhaseRemoved || s.Removed != "revoked" || s.RemovedAt.IsZero() || !strings.Contains(s.Waiting, "--again") {
		t.Errorf("status: %s (%v)", brief.Of(s), err)
	}
	back, err := o.onboardAgain(t, o.tok, o.state)
	if err != nil {
		t.Fatal(err)
	}
	if back.DeviceID == o.id || back.Removed != "" || back.Waiting != "" {
		t.Errorf("onboarded again as %s", brief.Of(back))
	}
	o.wantDevicesAndUses(t, 1, 2)
}

// No command claims that a deleted device works: onboard prints success only after it has asked the
// hub, and status prints the hub's answer.
func TestCommandsTellTheTruthAboutADeletedDevice(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.P384, "")
	file := filepath.Join(t.TempDir(), "token.json")
	text, err := json.Marshal(o.tok)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	call := func(args ...string) (string, string, int) {
		var stdout, stderr bytes.Buffer
		c := exec.CommandContext(t.Context(), agentBinary, append(args, "--tpm", o.tpm.Address(), "--state", o.state)...)
		c.Stdout, c.Stderr = &stdout, &stderr
		err := c.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return stdout.String(), stderr.String(), c.ProcessState.ExitCode()
	}
	if _, said, code := call("onboard", "--token-file", file); code != 0 || !strings.Contains(said, "already onboarded") {
		t.Errorf("onboarding an active device: exit code %d\n%s", code, said)
	}
	if out, _, code := call("status", "--ask"); code != 0 || !strings.Contains(out, "The hub accepts the device.") {
		t.Errorf("status --ask: exit code %d\n%s", code, out)
	}
	o.deleteDevice(t, o.id)
	if out, _, _ := call("status", "--ask"); !strings.Contains(out, "The owner deleted this device") {
		t.Errorf("status --ask:\n%s", out)
	}
	if out, said, code := call("onboard", "--token-file", file); code != 3 || out != "" || !strings.Contains(said, "The owner deleted this device") || !strings.Contains(said, "onboard --again") {
		t.Errorf("onboarding a deleted device: exit code %d\n%s%s", code, out, said)
	}
	if out, _, _ := call("status"); !strings.Contains(out, "phase      removed") || !strings.Contains(out, "removed    revoked, known since") {
		t.Errorf("status:\n%s", out)
	}
	if out, said, code := call("onboard", "--again", "--token-file", file); code != 0 || !strings.Contains(out, "phase      active") {
		t.Errorf("--again: exit code %d\n%s%s", code, out, said)
	}
}

// A state folder is restored from a backup, after the TPM has onboarded again with another state
// folder. The agent with the restored folder may then onboard the device again, but only once a
// day. Without this limit, two machines with the same TPM state would take turns onboarding
// forever.
func TestRestoredStateFolderComesBackOnceADay(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.P384, "")
	backup := copyState(t, o.state)
	if _, err := o.onboardAgain(t, o.tok, o.state); err != nil {
		t.Fatal(err)
	}
	s, err := onboard(t, o.tpm, o.tok, backup)
	if err != nil || s.DeviceID != o.id || s.Returned.IsZero() {
		t.Fatalf("state %s, error %v", brief.Of(s), err)
	}
	if _, err := onboard(t, o.tpm, o.tok, o.state); err != nil { // this state folder was not restored
		t.Fatal(err)
	}
	for range 2 {
		_, err = onboard(t, o.tpm, o.tok, backup)
		wantRemoved(t, err, "superseded", "certificate-not-active")
	}
	o.wantDevicesAndUses(t, 1, 1)
	// If there is no join token, the error says what to do.
	_, err = onboardWith(t, agent.Config{TPM: o.tpm.Address(), StateDir: backup})
	wantRemoved(t, err, "superseded", "certificate-not-active")
}

// A thief cannot undo the owner's deletion of a device by restoring an old backup of the state
// folder.
func TestRestoredStateFolderOfADeletedDeviceStaysOut(t *testing.T) {
	t.Parallel()
	t.Run("of an earlier certificate", func(t *testing.T) {
		t.Parallel()
		o := newOnboarded(t, swtpm.P384, "")
		backup := copyState(t, o.state)
		if _, err := o.onboardAgain(t, o.tok, o.state); err != nil {
			t.Fatal(err)
		}
		o.deleteDevice(t, o.id)
		_, err := onboard(t, o.tpm, o.tok, backup)
		wantRemoved(t, err, "revoked", "certificate-not-active")
	})
	t.Run("in the middle of onboarding", func(t *testing.T) {
		t.Parallel()
		o := newDevice(t, swtpm.P384)
		ctx, cancel := context.WithCancel(t.Context())
		a, err := agent.New(agent.Config{Token: o.tok, TPM: o.tpm.Address(), StateDir: o.state, Progress: func(s agent.Progress) {
			if s.Name == "open" {
				cancel()
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Onboard(ctx); err == nil {
			t.Fatal("the cancelled onboarding succeeded")
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		backup := copyState(t, o.state)
		s, err := onboard(t, o.tpm, o.tok, o.state)
		if err != nil {
			t.Fatal(err)
		}
		o.deleteDevice(t, s.DeviceID)
		for range 2 {
			_, err = onboard(t, o.tpm, o.tok, backup)
			wantRemoved(t, err, "revoked", "device-revoked")
		}
		o.wantDevicesAndUses(t, 0, 1)
		if _, err := o.onboardAgain(t, o.tok, backup); err != nil {
			t.Error(err)
		}
	})
}

// 'gangway-agent run' does not end when the owner deletes the device, because it runs as a service.
// It continues after a person has onboarded the device again in the same state folder.
func TestRunningAgentOfADeletedDeviceWaitsToBeBroughtBack(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.P384, "")
	a, err := agent.New(agent.Config{Token: o.tok, TPM: o.tpm.Address(), StateDir: o.state, ReportEvery: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stayed := make(chan error, 1)
	go func() { stayed <- a.OnboardAndRun(ctx) }()
	until := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
			select {
			case err := <-stayed:
				t.Fatalf("the agent ended: %v", err)
			default:
			}
			if time.Now().After(deadline) {
				t.Fatalf("timeout waiting: %s", what)
			}
		}
	}
	seen := func() bool {
		d := o.hub.Devices(t, o.hub.Owner)
		return len(d) == 1 && d[0].DeviceMeta["gangway.arch"] != nil
	}
	until("a report", seen)
	o.deleteDevice(t, o.id)
	until("the agent notices that its device was deleted", func() bool {
		s, err := agent.ReadState(o.state)
		return err == nil && s.Phase == agent.PhaseRemoved && strings.Contains(s.Waiting, "--again")
	})
	var back *agent.State
	until("the state folder is free", func() bool {
		back, err = o.onboardAgain(t, o.tok, o.state)
		return !errors.Is(err, agent.ErrInUse)
	})
	if err != nil {
		t.Fatal(err)
	}
	until("a report of the new device", seen)
	if d := o.hub.Devices(t, o.hub.Owner); d[0].ID != back.DeviceID {
		t.Errorf("device %s reports, want %s", d[0].ID, back.DeviceID)
	}
	cancel()
	if err := <-stayed; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// If the hub refuses an onboarding with --again (here, because the join token is disabled), the
// agent keeps its active device and can still use it. If the device was deleted, the agent still
// remembers the deletion.
func TestRefusedOnboardingAgainLosesNothing(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.P384, "")
	bad := o.hub.Token(t, o.hub.Owner, func(tok *store.JoinToken) { tok.Disabled = true })
	var refused *agent.Refused
	if _, err := o.onboardAgain(t, bad, o.state); !errors.As(err, &refused) || refused.Code != "token-unusable" {
		t.Fatalf("got %v, want the code token-unusable", err)
	}
	s, err := agent.ReadState(o.state)
	if err != nil || s.Phase != agent.PhaseActive || s.DeviceID != o.id || s.TokenID != o.tok.ID {
		t.Fatalf("state %s, error %v", brief.Of(s), err)
	}
	runUntilReport(t, o.hub, agent.Config{TPM: o.tpm.Address(), StateDir: o.state, ReportEvery: 50 * time.Millisecond})

	// The agent remembers that its device was deleted, even after an attempt to onboard that the
	// hub refuses.
	o.deleteDevice(t, o.id)
	_, err = onboard(t, o.tpm, o.tok, o.state)
	wantRemoved(t, err, "revoked", "certificate-not-active")
	if _, err := o.onboardAgain(t, bad, o.state); !errors.As(err, &refused) || refused.Code != "token-unusable" {
		t.Fatalf("got %v, want the code token-unusable", err)
	}
	_, err = onboard(t, o.tpm, o.tok, o.state)
	wantRemoved(t, err, "revoked", "certificate-not-active")
}

// If an onboarding with --again is cancelled after it has made the new request, the agent's former
// device stays active, and the agent can still use it.
func TestStoppedOnboardingAgainLosesNothing(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.P384, "")
	ctx, cancel := context.WithCancel(t.Context())
	a, err := agent.New(agent.Config{Token: o.tok, TPM: o.tpm.Address(), StateDir: o.state, Again: true, Progress: func(s agent.Progress) {
		if s.Name == "request" {
			cancel()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Onboard(ctx); err == nil {
		t.Fatal("the cancelled onboarding succeeded")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	// Without a join token, the agent continues as the active device of its earlier onboarding. With
	// a join token, it would continue the interrupted onboarding.
	s, err := onboardWith(t, agent.Config{TPM: o.tpm.Address(), StateDir: o.state})
	if err != nil || s.Phase != agent.PhaseActive || s.DeviceID != o.id || s.Former != nil {
		t.Fatalf("state %s, error %v", brief.Of(s), err)
	}
	runUntilReport(t, o.hub, agent.Config{TPM: o.tpm.Address(), StateDir: o.state, ReportEvery: 50 * time.Millisecond})
}

// The command gangway-agent proxy ends when its device gets a new certificate, so that it does not
// use the old certificate.
func TestProxyEndsWhenItsDeviceOnboardsAgain(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.P384, "")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- agent.Proxy(ctx, agent.ProxyConfig{TPM: o.tpm.Address(), StateDir: o.state, TCP: "127.0.0.1:0", Ready: func(addr string) { ready <- addr }})
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	if _, err := o.onboardAgain(t, o.tok, o.state); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, agent.ErrOnboardedAgain) {
		t.Errorf("the proxy ended with %v, want %v", err, agent.ErrOnboardedAgain)
	}
}

// If devices onboard after a backup of the hub, and this backup is restored, the restored hub does
// not know these devices. A device that still has its join token then onboards again by itself.
func TestDeviceComesBackToAHubRestoredFromABackup(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.P384, "")
	db, err := sql.Open("sqlite", filepath.Join(o.hub.Data(), "gangway.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		"PRAGMA busy_timeout = 5000", "PRAGMA foreign_keys = OFF",
		"DELETE FROM devices", "DELETE FROM aiks", "DELETE FROM tpms", "DELETE FROM token_uses", "DELETE FROM enrolments", "UPDATE join_tokens SET uses = 0",
	} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = onboardWith(t, agent.Config{TPM: o.tpm.Address(), StateDir: o.state})
	wantRemoved(t, err, "unknown", "certificate-not-active")
	s, err := onboard(t, o.tpm, o.tok, o.state)
	if err != nil {
		t.Fatal(err)
	}
	if s.DeviceID != o.id || s.Returned.IsZero() {
		t.Errorf("onboarded again as %s", brief.Of(s))
	}
	o.wantDevicesAndUses(t, 1, 1)
}
