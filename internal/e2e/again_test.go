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
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
	"gangway/wire"
)

// fleetOfOne is a hub, a TPM that is aboard, and its state folder.
type fleetOfOne struct {
	h     *hubtest.Hub
	tpm   *swtpm.TPM
	tok   *wire.TokenFile
	state string
	first *agent.State
}

func aboard(t *testing.T) *fleetOfOne {
	t.Helper()
	f := &fleetOfOne{tpm: newTPM(t, swtpm.P384), state: filepath.Join(t.TempDir(), "state")}
	f.h = newHub(t, f.tpm)
	f.tok = f.h.Token(t, f.h.Owner, nil)
	var err error
	if f.first, err = onboard(t, f.tpm, f.tok, f.state); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fleetOfOne) delete(t *testing.T, id string) {
	t.Helper()
	if err := f.h.Store.DeleteDevice(t.Context(), f.h.Owner.ID, id, f.h.Now()); err != nil {
		t.Fatal(err)
	}
}

// again is what 'gangway-agent onboard --again' does.
func (f *fleetOfOne) again(t *testing.T, tok *wire.TokenFile, state string) (*agent.State, error) {
	t.Helper()
	return onboardWith(t, agent.Config{Token: tok, TPM: f.tpm.Address(), StateDir: state, Again: true})
}

// staysOut checks that the agent refuses, by the hub's code, and says why.
func staysOut(t *testing.T, err error, why, code string) {
	t.Helper()
	var removed *agent.Removed
	var refused *agent.Refused
	if !errors.As(err, &removed) || removed.Why != why || !errors.As(err, &refused) || refused.Code != code || !strings.Contains(err.Error(), "--again") {
		t.Errorf("it is %v; %s was expected", err, why)
	}
}

// copyOf is a backup of a state folder.
func copyOf(t *testing.T, state string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(to, os.DirFS(state)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestDeletedDeviceStaysOutUntilAPersonBringsItBack(t *testing.T) {
	t.Parallel()
	f := aboard(t)
	f.delete(t, f.first.DeviceID)
	for range 3 {
		_, err := onboard(t, f.tpm, f.tok, f.state)
		staysOut(t, err, "revoked", "certificate-not-active")
	}
	if n, uses := len(f.h.Devices(t, f.h.Owner)), f.h.Uses(t, f.tok); n != 0 || uses != 1 {
		t.Errorf("%d devices, %d uses of the token", n, uses)
	}
	s, err := agent.ReadState(f.state)
	if err != nil || s.Phase != agent.PhaseRemoved || s.Removed != "revoked" || s.RemovedAt.IsZero() || !strings.Contains(s.Waiting, "--again") {
		t.Errorf("status: %+v (%v)", s, err)
	}
	back, err := f.again(t, f.tok, f.state)
	if err != nil {
		t.Fatal(err)
	}
	if back.DeviceID == f.first.DeviceID || back.Removed != "" || back.Waiting != "" {
		t.Errorf("it came back as %+v", back)
	}
	if n, uses := len(f.h.Devices(t, f.h.Owner)), f.h.Uses(t, f.tok); n != 1 || uses != 2 {
		t.Errorf("%d devices, %d uses of the token", n, uses)
	}
}

// The command never prints success without having asked, and status tells the
// truth.
func TestCommandsTellTheTruthAboutADeletedDevice(t *testing.T) {
	t.Parallel()
	f := aboard(t)
	file := filepath.Join(t.TempDir(), "token.json")
	text, err := json.Marshal(f.tok)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	call := func(args ...string) (string, string, int) {
		var stdout, stderr bytes.Buffer
		c := exec.CommandContext(t.Context(), agentBinary, append(args, "--tpm", f.tpm.Address(), "--state", f.state)...)
		c.Stdout, c.Stderr = &stdout, &stderr
		err := c.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return stdout.String(), stderr.String(), c.ProcessState.ExitCode()
	}
	if _, said, code := call("onboard", "--token-file", file); code != 0 || !strings.Contains(said, "already onboarded") {
		t.Errorf("a device that is aboard: code %d\n%s", code, said)
	}
	if out, _, code := call("status", "--ask"); code != 0 || !strings.Contains(out, "The hub accepts the device.") {
		t.Errorf("status --ask: code %d\n%s", code, out)
	}
	f.delete(t, f.first.DeviceID)
	if out, _, _ := call("status", "--ask"); !strings.Contains(out, "The owner deleted this device") {
		t.Errorf("status --ask:\n%s", out)
	}
	if out, said, code := call("onboard", "--token-file", file); code != 3 || out != "" || !strings.Contains(said, "The owner deleted this device") || !strings.Contains(said, "onboard --again") {
		t.Errorf("a device that was deleted: code %d\n%s%s", code, out, said)
	}
	if out, _, _ := call("status"); !strings.Contains(out, "phase      removed") || !strings.Contains(out, "removed    revoked, known since") {
		t.Errorf("status:\n%s", out)
	}
	if out, said, code := call("onboard", "--again", "--token-file", file); code != 0 || !strings.Contains(out, "phase      active") {
		t.Errorf("--again: code %d\n%s%s", code, out, said)
	}
}

// A state folder that was restored from a backup: the TPM has onboarded again
// since. It comes back once a day; a second machine with the same TPM's state
// would else take the device from the first for ever.
func TestRestoredStateFolderComesBackOnceADay(t *testing.T) {
	t.Parallel()
	f := aboard(t)
	backup := copyOf(t, f.state)
	if _, err := f.again(t, f.tok, f.state); err != nil {
		t.Fatal(err)
	}
	s, err := onboard(t, f.tpm, f.tok, backup)
	if err != nil || s.DeviceID != f.first.DeviceID || s.Returned.IsZero() {
		t.Fatalf("%+v, %v", s, err)
	}
	if _, err := onboard(t, f.tpm, f.tok, f.state); err != nil { // the other one
		t.Fatal(err)
	}
	for range 2 {
		_, err = onboard(t, f.tpm, f.tok, backup)
		staysOut(t, err, "superseded", "certificate-not-active")
	}
	if n, uses := len(f.h.Devices(t, f.h.Owner)), f.h.Uses(t, f.tok); n != 1 || uses != 1 {
		t.Errorf("%d devices, %d uses of the token", n, uses)
	}
	// Without a token it says what to do.
	_, err = onboardWith(t, agent.Config{TPM: f.tpm.Address(), StateDir: backup})
	staysOut(t, err, "superseded", "certificate-not-active")
}

// An old backup does not get round the owner's deletion.
func TestRestoredStateFolderOfADeletedDeviceStaysOut(t *testing.T) {
	t.Parallel()
	t.Run("of an earlier certificate", func(t *testing.T) {
		f := aboard(t)
		backup := copyOf(t, f.state)
		if _, err := f.again(t, f.tok, f.state); err != nil {
			t.Fatal(err)
		}
		f.delete(t, f.first.DeviceID)
		_, err := onboard(t, f.tpm, f.tok, backup)
		staysOut(t, err, "revoked", "certificate-not-active")
	})
	t.Run("in the middle of onboarding", func(t *testing.T) {
		f := &fleetOfOne{tpm: newTPM(t, swtpm.P384), state: filepath.Join(t.TempDir(), "state")}
		f.h = newHub(t, f.tpm)
		f.tok = f.h.Token(t, f.h.Owner, nil)
		ctx, cancel := context.WithCancel(t.Context())
		a, err := agent.New(agent.Config{Token: f.tok, TPM: f.tpm.Address(), StateDir: f.state, Progress: func(s agent.Progress) {
			if s.Name == "open" {
				cancel()
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Onboard(ctx); err == nil {
			t.Fatal("it was not stopped")
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		backup := copyOf(t, f.state)
		s, err := onboard(t, f.tpm, f.tok, f.state)
		if err != nil {
			t.Fatal(err)
		}
		f.delete(t, s.DeviceID)
		for range 2 {
			_, err = onboard(t, f.tpm, f.tok, backup)
			staysOut(t, err, "revoked", "device-revoked")
		}
		if n, uses := len(f.h.Devices(t, f.h.Owner)), f.h.Uses(t, f.tok); n != 0 || uses != 1 {
			t.Errorf("%d devices, %d uses of the token", n, uses)
		}
		if _, err := f.again(t, f.tok, backup); err != nil {
			t.Error(err)
		}
	})
}

// run, as a service: it does not end, and goes on when a person has brought the
// device back, in the same state folder.
func TestRunningAgentOfADeletedDeviceWaitsToBeBroughtBack(t *testing.T) {
	t.Parallel()
	f := aboard(t)
	a, err := agent.New(agent.Config{Token: f.tok, TPM: f.tpm.Address(), StateDir: f.state, ReportEvery: 50 * time.Millisecond})
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
				t.Fatalf("it ended: %v", err)
			default:
			}
			if time.Now().After(deadline) {
				t.Fatalf("it does not happen: %s", what)
			}
		}
	}
	seen := func() bool {
		d := f.h.Devices(t, f.h.Owner)
		return len(d) == 1 && d[0].DeviceMeta["gangway.arch"] != nil
	}
	until("a report", seen)
	f.delete(t, f.first.DeviceID)
	until("it notices", func() bool {
		s, err := agent.ReadState(f.state)
		return err == nil && s.Phase == agent.PhaseRemoved && strings.Contains(s.Waiting, "--again")
	})
	var back *agent.State
	until("the state folder is free", func() bool {
		back, err = f.again(t, f.tok, f.state)
		return !errors.Is(err, agent.ErrInUse)
	})
	if err != nil {
		t.Fatal(err)
	}
	until("a report of the new device", seen)
	if d := f.h.Devices(t, f.h.Owner); d[0].ID != back.DeviceID {
		t.Errorf("device %s reports, %s was expected", d[0].ID, back.DeviceID)
	}
	cancel()
	if err := <-stayed; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestRefusedOnboardingAgainLosesNothing(t *testing.T) {
	t.Parallel()
	f := aboard(t)
	bad := f.h.Token(t, f.h.Owner, func(tok *store.JoinToken) { tok.Disabled = true })
	var refused *agent.Refused
	if _, err := f.again(t, bad, f.state); !errors.As(err, &refused) || refused.Code != "token-unusable" {
		t.Fatalf("%v", err)
	}
	s, err := agent.ReadState(f.state)
	if err != nil || s.Phase != agent.PhaseActive || s.DeviceID != f.first.DeviceID || s.TokenID != f.tok.ID {
		t.Fatalf("%+v, %v", s, err)
	}
	runUntilSeen(t, f.h, agent.Config{TPM: f.tpm.Address(), StateDir: f.state, ReportEvery: 50 * time.Millisecond})

	// A device that was deleted stays that: a refusal does not make it new.
	f.delete(t, f.first.DeviceID)
	_, err = onboard(t, f.tpm, f.tok, f.state)
	staysOut(t, err, "revoked", "certificate-not-active")
	if _, err := f.again(t, bad, f.state); !errors.As(err, &refused) || refused.Code != "token-unusable" {
		t.Fatalf("%v", err)
	}
	_, err = onboard(t, f.tpm, f.tok, f.state)
	staysOut(t, err, "revoked", "certificate-not-active")
}

func TestStoppedOnboardingAgainLosesNothing(t *testing.T) {
	t.Parallel()
	f := aboard(t)
	ctx, cancel := context.WithCancel(t.Context())
	a, err := agent.New(agent.Config{Token: f.tok, TPM: f.tpm.Address(), StateDir: f.state, Again: true, Progress: func(s agent.Progress) {
		if s.Name == "request" {
			cancel()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Onboard(ctx); err == nil {
		t.Fatal("it was not stopped")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	// Without the token it is what it was; with it, it would go on.
	s, err := onboardWith(t, agent.Config{TPM: f.tpm.Address(), StateDir: f.state})
	if err != nil || s.Phase != agent.PhaseActive || s.DeviceID != f.first.DeviceID || s.Former != nil {
		t.Fatalf("%+v, %v", s, err)
	}
	runUntilSeen(t, f.h, agent.Config{TPM: f.tpm.Address(), StateDir: f.state, ReportEvery: 50 * time.Millisecond})
}

// A proxy does not go on with the certificate that the device had before.
func TestProxyEndsWhenItsDeviceOnboardsAgain(t *testing.T) {
	t.Parallel()
	f := aboard(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- agent.Proxy(ctx, agent.ProxyConfig{TPM: f.tpm.Address(), StateDir: f.state, TCP: "127.0.0.1:0", Ready: func(addr string) { ready <- addr }})
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	if _, err := f.again(t, f.tok, f.state); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, agent.ErrOnboardedAgain) {
		t.Errorf("it ends with %v", err)
	}
}

// A hub that was restored from a backup has no record of the devices that came
// aboard since; those that have their token come back by themselves.
func TestDeviceComesBackToAHubRestoredFromABackup(t *testing.T) {
	t.Parallel()
	f := aboard(t)
	db, err := sql.Open("sqlite", filepath.Join(f.h.Data(), "gangway.db"))
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
	_, err = onboardWith(t, agent.Config{TPM: f.tpm.Address(), StateDir: f.state})
	staysOut(t, err, "unknown", "certificate-not-active")
	s, err := onboard(t, f.tpm, f.tok, f.state)
	if err != nil {
		t.Fatal(err)
	}
	if s.DeviceID != f.first.DeviceID || s.Returned.IsZero() {
		t.Errorf("it came back as %+v", s)
	}
	if n, uses := len(f.h.Devices(t, f.h.Owner)), f.h.Uses(t, f.tok); n != 1 || uses != 1 {
		t.Errorf("%d devices, %d uses of the token", n, uses)
	}
}
