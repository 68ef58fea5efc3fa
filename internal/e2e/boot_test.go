package e2e_test

import (
	"context"
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
	more := eventlog.Event{PCR: 4, Type: eventlog.EFIBootApplication, Data: []byte("another image")}
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

// The log of another boot beside a real TPM's quote.
func TestRealTPMWithTheLogOfAnotherBootIsRefused(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	dir := t.TempDir()
	logFile := filepath.Join(dir, "log")
	if err := eventlog.Boot(true, "evil", "quiet").Extend(tpm.ExtendPCR); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(logFile, eventlog.Boot(true, "linux 1", "quiet").Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := onboard(t, tpm, h.Token(t, h.Owner, nil), filepath.Join(dir, "state")); err != nil {
		t.Fatal(err)
	}
	h.Policy(t, h.Owner.ID, "version: 1\nmeasured_boot: require\n")
	ada := signIn(t, h)
	stop := running(t, agent.Config{TPM: tpm.Address(), StateDir: filepath.Join(dir, "state"), EventLog: logFile})
	defer stop()
	for range 200 {
		if strings.Contains(ada.events(), "does not hold") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	says(t, ada.events(), "sent a measurement that does not hold. The event log does not explain PCR 4")
	if seen := h.Devices(t, h.Owner)[0]; seen.LastSeen.After(seen.Activated) {
		t.Error("the device was admitted")
	}
}
