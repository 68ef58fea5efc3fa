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
	"gangway/internal/brief"
	"gangway/internal/eventlog"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
)

// runAgent starts the agent of an onboarded machine. The function `stop` ends the agent.
func runAgent(t *testing.T, cfg agent.Config) (stop func()) {
	t.Helper()
	return runAgentWith(t, cfg, func(agent.Progress) {})
}

// runAgentWith does the same as runAgent, and calls the function `look` at each step of the agent.
func runAgentWith(t *testing.T, cfg agent.Config, look func(agent.Progress)) (stop func()) {
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

// waitForBoot waits until the hub tells the owner that the device's boot has this state.
func (o *owner) waitForBoot(id, state string) api.BootView {
	o.t.Helper()
	var v api.BootView
	for range 200 {
		if o.call("GET", "/devices/"+id+"/boot", nil, &v); v.State == state {
			return v
		}
		time.Sleep(50 * time.Millisecond)
	}
	o.t.Fatalf("the boot is %q, want %q: %s", v.State, state, brief.Of(v.Changes))
	return v
}

// waitForEvent waits until an event of the owner contains the sentence. The hub stores the event of
// a boot measurement shortly after the measurement.
func (o *owner) waitForEvent(sentence string) {
	o.t.Helper()
	var events string
	for range 200 {
		if events = o.events(); strings.Contains(events, sentence) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	o.t.Fatalf("no event contains %q:\n%s", sentence, events)
}

// The test measures a boot into a software TPM, as firmware does, and the agent sends this boot
// measurement to the hub. If a later boot has another measurement, the hub reports it as changed.
func TestRealTPMShowsWhatWasBooted(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	ada := signIn(t, h)
	dir := t.TempDir()
	state, logFile := filepath.Join(dir, "state"), filepath.Join(dir, "log")
	measure := func(l eventlog.Log) {
		t.Helper()
		if err := l.Extend(tpm.ExtendPCR); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(logFile, l.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	usual := eventlog.Boot(true, "linux 1", "quiet")
	measure(usual)
	s, err := onboard(t, tpm, h.Token(t, h.Owner, nil), state)
	if err != nil {
		t.Fatal(err)
	}
	cfg := agent.Config{TPM: tpm.Address(), StateDir: state, EventLog: logFile}
	stop := runAgent(t, cfg)
	defer stop()
	v := ada.waitForBoot(s.DeviceID, "matches")
	if v.Reference.From != "the first boot" || v.Latest.SecureBoot != "on" || len(v.Latest.Unexplained) != 0 {
		t.Errorf("got %s", brief.Of(v))
	}
	stop()
	// Measure one more digest, as if another image had been started.
	image := sha256.Sum256([]byte("another image"))
	more := eventlog.Event{PCR: 4, Type: eventlog.EFIBootApplication, Data: make([]byte, 32), Digest: image[:]}
	if err := (eventlog.Log{more}).Extend(tpm.ExtendPCR); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(logFile, append(usual, more).Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	stop = runAgent(t, cfg)
	v = ada.waitForBoot(s.DeviceID, "changed")
	if len(v.Changes) != 1 || !strings.HasPrefix(v.Changes[0].Words, "Boot image 2 was measured, but is not in the reference of ") {
		t.Errorf("got %s", brief.Of(v.Changes))
	}
	ada.waitForEvent("changed. Boot image 2 was measured")
	// If the policy requires a boot that matches, the hub refuses the device until the owner
	// accepts the new boot.
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

// bootedMachine onboards a machine whose firmware measured a boot into the TPM and wrote this event
// log.
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

// An attacker cannot hide a changed boot by sending the event log of another boot: the hub finds
// the change in the PCR values of the quote.
func TestRealTPMWithTheLogOfAnotherBootIsChanged(t *testing.T) {
	t.Parallel()
	tpm, h, s, cfg := bootedMachine(t, eventlog.Boot(true, "linux 1", "quiet"))
	ada := signIn(t, h)
	stop := runAgent(t, cfg)
	ada.waitForBoot(s.DeviceID, "matches")
	stop()
	h.Policy(t, h.Owner.ID, "version: 1\nmeasured_boot: require\n")
	evil := sha256.Sum256([]byte("evil"))
	if err := tpm.ExtendPCR(4, evil[:]); err != nil { // change a PCR but not the event log
		t.Fatal(err)
	}
	before := h.Devices(t, h.Owner)[0].LastSeen
	stop = runAgent(t, cfg)
	defer stop()
	v := ada.waitForBoot(s.DeviceID, "changed")
	if len(v.Changes) != 1 || !strings.HasPrefix(v.Changes[0].Words, "PCR 4 differs from the reference of ") || !strings.HasSuffix(v.Changes[0].Words, "the event log no longer explains it.") {
		t.Errorf("got %s", brief.Of(v.Changes))
	}
	if h.Devices(t, h.Owner)[0].LastSeen.After(before) {
		t.Error("the device was admitted")
	}
}

// waitForReport waits until the hub has accepted one more report of the owner's only device.
func waitForReport(t *testing.T, h *hubtest.Hub) {
	t.Helper()
	before := h.Devices(t, h.Owner)[0].LastSeen
	for range 200 {
		if h.Devices(t, h.Owner)[0].LastSeen.After(before) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("the hub accepted no further report of the device")
}

// A device whose event log is too large or unreadable can still use the hub, even with the policy
// `measured_boot: require`, because the hub then compares the PCR values.
func TestDeviceStaysOnTheHubWithoutItsEventLog(t *testing.T) {
	t.Parallel()
	for _, c := range []string{"a folder", "too large", "no log"} {
		t.Run(c, func(t *testing.T) {
			t.Parallel()
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
			stop := runAgent(t, agent.Config{TPM: tpm.Address(), StateDir: state, EventLog: logFile})
			defer stop()
			if v := ada.waitForBoot(s.DeviceID, "matches"); v.Latest.Log {
				t.Errorf("got %s", brief.Of(v.Latest))
			}
			waitForReport(t, h)
			h.Policy(t, h.Owner.ID, "version: 1\nmeasured_boot: require\n")
			waitForReport(t, h)
			stop()
		})
	}
}

// An owner whose policy requires a matching boot can accept a change that systemd causes. Here, an
// update brings systemd 261, which extends a separator into PCRs. The hub describes this change to
// the owner and, once the owner accepts it, accepts the device's requests again.
func TestOwnerAcceptsTheSeparatorOfSystemdOfARealTPM(t *testing.T) {
	t.Parallel()
	tpm, h, s, cfg := bootedMachine(t, eventlog.Boot(true, "linux 1", "quiet"))
	ada := signIn(t, h)
	stop := runAgent(t, cfg)
	ada.waitForBoot(s.DeviceID, "matches")
	h.Policy(t, h.Owner.ID, "version: 1\nmeasured_boot: require\n")
	stop()
	word := sha256.Sum256([]byte("os-separator"))
	for _, pcr := range []uint32{0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14} {
		if err := tpm.ExtendPCR(pcr, word[:]); err != nil {
			t.Fatal(err)
		}
	}
	stop = runAgent(t, cfg)
	defer stop()
	v := ada.waitForBoot(s.DeviceID, "changed")
	if len(v.Changes) != 1 || !strings.HasPrefix(v.Changes[0].Words, "PCR 0 to 7, 9 and 12 to 14: extended by systemd's os-separator") || v.Latest.SecureBoot != "on" {
		t.Errorf("changes %s, Secure Boot %s", brief.Of(v.Changes), v.Latest.SecureBoot)
	}
	ada.call("POST", "/devices/"+s.DeviceID+"/boot/reference", map[string]any{"from": "latest", "measurement": v.Number}, &v)
	waitForReport(t, h)
	ada.waitForBoot(s.DeviceID, "matches")
	stop()
}

// If the firmware measures nothing into the TPM, the hub reports this to the owner, and accepts the
// device as long as no policy requires a measured boot.
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
	stop := runAgent(t, agent.Config{TPM: tpm.Address(), StateDir: state, EventLog: filepath.Join(state, "none")})
	defer stop()
	if v := ada.waitForBoot(s.DeviceID, "nothing-measured"); v.Reference != nil {
		t.Errorf("got %s", brief.Of(v.Reference))
	}
	ada.waitForEvent("The firmware measured nothing at the boot of")
	waitForReport(t, h)
	stop()
}

// If a device's report is so large that the hub refuses it, the device stays connected, because it
// can use the hub without these reports. The agent prints the cause once.
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
	for n := range 17 { // 17 values of 16 KiB are 272 KiB; the hub accepts 256 KiB
		cfg.ReportFiles[fmt.Sprintf("file-%d", n)] = file
	}
	var mu sync.Mutex
	reported := 0
	stop := runAgentWith(t, cfg, func(s agent.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(s.Detail, "refuses this machine's report") {
			reported++
		}
	})
	defer stop()
	waitForReport(t, h)
	waitForReport(t, h)
	stop()
	if reported != 1 {
		t.Errorf("the agent says %d times that the report was refused, want once", reported)
	}
}
