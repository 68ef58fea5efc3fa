package e2e_test

import (
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/agent"
	"gangway/hub"
	"gangway/internal/eventlog"
	"gangway/internal/swtpm"
)

// running starts the agent of an onboarded machine and returns how to stop it.
func running(t *testing.T, cfg agent.Config) (stop func()) {
	t.Helper()
	cfg.ReportEvery = 50 * time.Millisecond
	cfg.Progress = func(s agent.Step) { t.Logf("%-9s %s", s.Name, s.Detail) }
	a, err := agent.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		a.Close()
	})
}

// becomes waits until the owner reads a state of the device's boot.
func (o *owner) becomes(id, state string) hub.BootView {
	o.t.Helper()
	var v hub.BootView
	for range 200 {
		if o.call("GET", "/devices/"+id+"/boot", nil, &v); v.State == state {
			return v
		}
		time.Sleep(50 * time.Millisecond)
	}
	o.t.Fatalf("the boot is %q, %q was expected: %+v", v.State, state, v.Changes)
	return v
}

// A real TPM, into which a boot was measured as firmware does.
func TestRealTPMShowsWhatWasBooted(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	ada := signIn(t, h)
	dir := t.TempDir()
	state, logFile := filepath.Join(dir, "state"), filepath.Join(dir, "log")
	boots := func(l eventlog.Log) {
		t.Helper()
		if err := l.Extend(tpm.ExtendPCR); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(logFile, l.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	usual := eventlog.Boot(true, "linux 1", "quiet")
	boots(usual)
	s, err := onboard(t, tpm, h.Token(t, h.Owner, nil), state)
	if err != nil {
		t.Fatal(err)
	}
	cfg := agent.Config{TPM: tpm.Address(), StateDir: state, EventLog: logFile}
	stop := running(t, cfg)
	defer stop()
	v := ada.becomes(s.DeviceID, "matches")
	if v.Reference.From != "the first boot" || v.Latest.SecureBoot != "on" || len(v.Latest.Unexplained) != 0 {
		t.Errorf("%+v", v)
	}
	stop()
	// Something more is measured, as if another image had been started.
	image := sha256.Sum256([]byte("another image"))
	more := eventlog.Event{PCR: 4, Type: eventlog.EFIBootApplication, Data: make([]byte, 32), Digest: image[:]}
	if err := (eventlog.Log{more}).Extend(tpm.ExtendPCR); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(logFile, append(usual, more).Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	stop = running(t, cfg)
	v = ada.becomes(s.DeviceID, "changed")
	if len(v.Changes) != 1 || !strings.HasPrefix(v.Changes[0].Words, "Boot image 2 was measured and is not in the reference of ") {
		t.Errorf("%+v", v.Changes)
	}
	says(t, ada.events(), "changed. Boot image 2 was measured")
	// With a policy that wants it to match, its owner must accept it first.
	h.Policy(t, h.Owner.ID, "version: 1\nmeasured_boot: require\n")
	seen := func() time.Time { return h.Devices(t, h.Owner)[0].LastSeen }
	ada.call("POST", "/devices/"+s.DeviceID+"/boot/reference", map[string]any{"from": "latest", "lock": true}, &v)
	before := seen()
	for range 200 {
		if seen().After(before) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if !seen().After(before) {
		t.Error("the device is not admitted though its boot matches")
	}
	stop()
}

// The log of another boot beside a real TPM's quote says nothing: what changed is
// told by the values.
func TestRealTPMWithTheLogOfAnotherBootIsChanged(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	ada := signIn(t, h)
	dir := t.TempDir()
	logFile := filepath.Join(dir, "log")
	usual := eventlog.Boot(true, "linux 1", "quiet")
	if err := usual.Extend(tpm.ExtendPCR); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(logFile, usual.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := onboard(t, tpm, h.Token(t, h.Owner, nil), filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := agent.Config{TPM: tpm.Address(), StateDir: filepath.Join(dir, "state"), EventLog: logFile}
	stop := running(t, cfg)
	ada.becomes(s.DeviceID, "matches")
	stop()
	h.Policy(t, h.Owner.ID, "version: 1\nmeasured_boot: require\n")
	evil := sha256.Sum256([]byte("evil"))
	if err := tpm.ExtendPCR(4, evil[:]); err != nil { // and the log stays as it was
		t.Fatal(err)
	}
	before := h.Devices(t, h.Owner)[0].LastSeen
	stop = running(t, cfg)
	defer stop()
	v := ada.becomes(s.DeviceID, "changed")
	if len(v.Changes) != 1 || !strings.HasPrefix(v.Changes[0].Words, "PCR 4 differs from the reference of ") || !strings.HasSuffix(v.Changes[0].Words, "the event log does not explain it any more.") {
		t.Errorf("%+v", v.Changes)
	}
	if h.Devices(t, h.Owner)[0].LastSeen.After(before) {
		t.Error("the device was admitted")
	}
}
