package e2e_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/hub/api"
	"gangway/internal/eventlog"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
)

// running starts the agent of an onboarded machine and returns how to stop it.
func running(t *testing.T, cfg agent.Config) (stop func()) {
	t.Helper()
	return runningWith(t, cfg, func(agent.Progress) {})
}

// runningWith is running with a look at each step.
func runningWith(t *testing.T, cfg agent.Config, look func(agent.Progress)) (stop func()) {
	t.Helper()
	cfg.ReportEvery = 50 * time.Millisecond
	cfg.Progress = func(s agent.Progress) {
		t.Logf("%-9s %s", s.Name, s.Detail)
		look(s)
	}
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
func (o *owner) becomes(id, state string) api.BootView {
	o.t.Helper()
	var v api.BootView
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
	if len(v.Changes) != 1 || !strings.HasPrefix(v.Changes[0].Words, "Boot image 2 was measured, but is not in the reference of ") {
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

// bootedMachine is a machine aboard whose firmware measured a boot and logged it.
func bootedMachine(t *testing.T, l eventlog.Log) (tpm *swtpm.TPM, h *hubtest.Hub, s *agent.State, cfg agent.Config) {
	t.Helper()
	tpm = newTPM(t, swtpm.P384)
	h = newHub(t, tpm)
	dir := t.TempDir()
	cfg = agent.Config{TPM: tpm.Address(), StateDir: filepath.Join(dir, "state"), EventLog: filepath.Join(dir, "log")}
	if err := l.Extend(tpm.ExtendPCR); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.EventLog, l.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := onboard(t, tpm, h.Token(t, h.Owner, nil), cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	return tpm, h, s, cfg
}

// The log of another boot beside a real TPM's quote says nothing: what changed is
// told by the values.
func TestRealTPMWithTheLogOfAnotherBootIsChanged(t *testing.T) {
	t.Parallel()
	tpm, h, s, cfg := bootedMachine(t, eventlog.Boot(true, "linux 1", "quiet"))
	ada := signIn(t, h)
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
	if len(v.Changes) != 1 || !strings.HasPrefix(v.Changes[0].Words, "PCR 4 differs from the reference of ") || !strings.HasSuffix(v.Changes[0].Words, "the event log no longer explains it.") {
		t.Errorf("%+v", v.Changes)
	}
	if h.Devices(t, h.Owner)[0].LastSeen.After(before) {
		t.Error("the device was admitted")
	}
}

// seenAgain waits until the hub has taken another report of the owner's only
// device.
func seenAgain(t *testing.T, h *hubtest.Hub) {
	t.Helper()
	before := h.Devices(t, h.Owner)[0].LastSeen
	for range 200 {
		if h.Devices(t, h.Owner)[0].LastSeen.After(before) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("the device is off the hub")
}

// An event log that cannot be read, or is too large, costs a device nothing that
// its owner did not ask for; and with measured_boot: require the PCRs count.
func TestDeviceStaysOnTheHubWithoutItsEventLog(t *testing.T) {
	t.Parallel()
	for _, c := range []string{"a folder", "too large", "no log"} {
		t.Run(c, func(t *testing.T) {
			tpm := newTPM(t, swtpm.P384)
			h := newHub(t, tpm)
			ada := signIn(t, h)
			dir := t.TempDir()
			state, logFile := filepath.Join(dir, "state"), filepath.Join(dir, "log")
			if err := eventlog.Boot(true, "linux 1", "quiet").Extend(tpm.ExtendPCR); err != nil {
				t.Fatal(err)
			}
			var err error
			switch c {
			case "a folder":
				err = os.Mkdir(logFile, 0o700)
			case "too large":
				err = os.WriteFile(logFile, make([]byte, 1<<20+1), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			s, err := onboard(t, tpm, h.Token(t, h.Owner, nil), state)
			if err != nil {
				t.Fatal(err)
			}
			stop := running(t, agent.Config{TPM: tpm.Address(), StateDir: state, EventLog: logFile})
			defer stop()
			if v := ada.becomes(s.DeviceID, "matches"); v.Latest.Log {
				t.Errorf("%+v", v.Latest)
			}
			seenAgain(t, h)
			h.Policy(t, h.Owner.ID, "version: 1\nmeasured_boot: require\n")
			seenAgain(t, h)
			stop()
		})
	}
}

// A device aboard, whose boot must match, gets systemd 261: its owner is told
// what that is, accepts it, and the device is back.
func TestOwnerAcceptsTheSeparatorOfSystemdOfARealTPM(t *testing.T) {
	t.Parallel()
	tpm, h, s, cfg := bootedMachine(t, eventlog.Boot(true, "linux 1", "quiet"))
	ada := signIn(t, h)
	stop := running(t, cfg)
	ada.becomes(s.DeviceID, "matches")
	h.Policy(t, h.Owner.ID, "version: 1\nmeasured_boot: require\n")
	stop()
	word := sha256.Sum256([]byte("os-separator"))
	for _, pcr := range []uint32{0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14} {
		if err := tpm.ExtendPCR(pcr, word[:]); err != nil {
			t.Fatal(err)
		}
	}
	stop = running(t, cfg)
	defer stop()
	v := ada.becomes(s.DeviceID, "changed")
	if len(v.Changes) != 1 || !strings.HasPrefix(v.Changes[0].Words, "PCR 0 to 7, 9 and 12 to 14: extended by systemd's os-separator") || v.Latest.SecureBoot != "on" {
		t.Errorf("%+v, Secure Boot %s", v.Changes, v.Latest.SecureBoot)
	}
	ada.call("POST", "/devices/"+s.DeviceID+"/boot/reference", map[string]any{"from": "latest", "measurement": v.Number}, &v)
	seenAgain(t, h)
	ada.becomes(s.DeviceID, "matches")
	stop()
}

// A TPM into which the firmware measures nothing: the owner reads so, and a
// policy that requires a boot keeps the device out.
func TestRealTPMIntoWhichNothingIsMeasured(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	ada := signIn(t, h)
	state := filepath.Join(t.TempDir(), "state")
	s, err := onboard(t, tpm, h.Token(t, h.Owner, nil), state)
	if err != nil {
		t.Fatal(err)
	}
	stop := running(t, agent.Config{TPM: tpm.Address(), StateDir: state, EventLog: filepath.Join(state, "none")})
	defer stop()
	if v := ada.becomes(s.DeviceID, "nothing-measured"); v.Reference != nil {
		t.Errorf("%+v", v.Reference)
	}
	says(t, ada.events(), "The firmware measured nothing at the boot of")
	seenAgain(t, h)
	stop()
}

// What a device reports of itself is optional. Where it is more than the hub
// takes, the device stays, and says once what is wrong.
func TestReportThatDoesNotFitIsNotFatal(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	dir := t.TempDir()
	state, file := filepath.Join(dir, "state"), filepath.Join(dir, "report")
	if err := os.WriteFile(file, []byte(strings.Repeat("x", 16<<10)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := onboard(t, tpm, h.Token(t, h.Owner, nil), state); err != nil {
		t.Fatal(err)
	}
	cfg := agent.Config{TPM: tpm.Address(), StateDir: state, EventLog: filepath.Join(dir, "none"), ReportFiles: map[string]string{}}
	for n := range 17 { // 272 KiB, of 256
		cfg.ReportFiles[fmt.Sprintf("file-%d", n)] = file
	}
	var mu sync.Mutex
	told := 0
	stop := runningWith(t, cfg, func(s agent.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(s.Detail, "refuses this machine's report") {
			told++
		}
	})
	defer stop()
	seenAgain(t, h)
	seenAgain(t, h)
	stop()
	if told != 1 {
		t.Errorf("it is said %d times", told)
	}
}
