package e2e_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/hub/clone"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
	"gangway/wire"
)

// cloneTPM copies a TPM's state into another TPM, as the cloning of a virtual machine does, and
// starts both TPMs.
func cloneTPM(t *testing.T, tpm *swtpm.TPM) (copied *swtpm.TPM) {
	t.Helper()
	tpm.Stop()
	dir, err := os.MkdirTemp("", "tpm") // the paths of Unix sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	from := filepath.Dir(strings.TrimPrefix(tpm.Address(), "unix:"))
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	copied, err = swtpm.New(t.Context(), dir, swtpm.Options{Maker: makers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(copied.Stop)
	if err := tpm.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	return copied
}

// cloneEvents lists the kinds of a device's events about clones, in the order of the events.
func cloneEvents(t *testing.T, h *hubtest.Hub, device string) (list []string) {
	t.Helper()
	events, err := h.Store.Events(t.Context(), store.EventFilter{Device: device, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range slices.Backward(events) {
		if strings.HasPrefix(e.Kind, "device.clone") || e.Kind == "device.tpm-went-backwards" {
			list = append(list, e.Kind)
		}
	}
	return list
}

// The hub detects two virtual machines that are clones, with the same disk and TPM state, while
// their agents use the same certificate at the same time. The hub reports the clone to the owner.
// The owner states that these are two machines, and later withdraws this statement.
func TestClonedMachinesRunAtOnce(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	states := []string{t.TempDir(), t.TempDir()}
	s, err := onboard(t, tpm, h.Token(t, h.Owner, nil), states[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(states[1], os.DirFS(states[0])); err != nil {
		t.Fatal(err)
	}
	copied := cloneTPM(t, tpm)
	if err := copied.Restart(t.Context()); err != nil { // one more start than the original TPM, so the TPMs' reset counters differ
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	running := 0
	defer func() {
		cancel()
		for range running {
			if err := <-ended; err != nil {
				t.Errorf("an agent ended: %v", err)
			}
		}
	}()
	for i, of := range []*swtpm.TPM{tpm, copied} {
		a, err := agent.New(agent.Config{TPM: of.Address(), StateDir: states[i], ReportEvery: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close() })
		running++
		go func() { ended <- a.Run(ctx) }()
		// The second agent starts only after the first agent is connected. At first, the hub cannot
		// distinguish the second machine from a restart of the first machine.
		eventually(t, "the machine has shown its boot", func() bool {
			k, err := h.Store.Clone(t.Context(), s.DeviceID)
			return err == nil && k.Version > int64(i)
		})
	}
	device := func() store.Device {
		d, err := h.Store.Device(t.Context(), s.DeviceID)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	defer func() {
		if t.Failed() {
			k, err := h.Store.Clone(context.Background(), s.DeviceID)
			t.Logf("version %d, %q: %s %v", k.Version, k.State, k.Record, err)
		}
	}()
	eventually(t, "the clone is certain", func() bool { return device().Clone == string(clone.Certain) })
	if got := cloneEvents(t, h, s.DeviceID); !slices.Equal(got, []string{"device.clone-suspected", "device.cloned"}) {
		t.Errorf("events for the owner: %q", got)
	}

	decide := func(d clone.Decision) {
		t.Helper()
		if _, err := h.Service.DecideClone(t.Context(), h.Owner, device(), d, nil, "192.0.2.1"); err != nil {
			t.Fatal(err)
		}
	}
	decide(clone.TwoMachines)
	for _, dir := range states {
		eventually(t, "both agents are refused, and wait", func() bool {
			text, err := os.ReadFile(filepath.Join(dir, "state.json"))
			return err == nil && strings.Contains(string(text), "several machines run with a copy of this TPM's state")
		})
	}
	seen := device().LastSeen
	decide(clone.OneMachine)
	eventually(t, "the device reports again", func() bool { return device().LastSeen.After(seen) })
}

// The hub suspects a clone if two machines onboard one device in turn. A second machine onboards
// with a join token, as the first machine's device. Then the first machine onboards again.
func TestClonedMachinesOnboardByTurns(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	copied := cloneTPM(t, tpm)
	tok := h.Token(t, h.Owner, nil)
	var id string
	for i, m := range []struct {
		tpm    *swtpm.TPM
		serial string
		found  bool
	}{{tpm, "VM-1", false}, {copied, "VM-2", true}, {tpm, "VM-1", true}} {
		s := onboardAs(t, m.tpm, tok, m.serial)
		if id == "" {
			id = s.DeviceID
		}
		d, err := h.Store.Device(t.Context(), s.DeviceID)
		if err != nil || s.DeviceID != id || (d.Clone == string(clone.Suspected)) != m.found {
			t.Errorf("onboarding %d: device %s, clone %q, %v", i, s.DeviceID, d.Clone, err)
		}
	}
	if got := cloneEvents(t, h, id); !slices.Equal(got, []string{"device.clone-suspected"}) {
		t.Errorf("events for the owner: %q", got)
	}
	if n := len(h.Devices(t, h.Owner)); n != 1 {
		t.Errorf("%d devices, want 1", n)
	}
}

// The hub does not report a clone if a TPM moves to a machine with a new serial number.
func TestReplacedBoardIsNotTakenForAClone(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	tok := h.Token(t, h.Owner, nil)
	s := onboardAs(t, tpm, tok, "BOARD-1")
	if err := tpm.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	onboardAs(t, tpm, tok, "BOARD-2")
	d, err := h.Store.Device(t.Context(), s.DeviceID)
	if err != nil || d.Clone != "" || d.ProdSerial != "BOARD-2" {
		t.Errorf("device %s, %v", brief.Of(d), err)
	}
	if got := cloneEvents(t, h, s.DeviceID); len(got) != 0 {
		t.Errorf("events for the owner: %q", got)
	}
}

func onboardAs(t *testing.T, tpm *swtpm.TPM, tok *wire.TokenFile, serial string) *agent.State {
	t.Helper()
	a, err := agent.New(agent.Config{Token: tok, TPM: tpm.Address(), StateDir: t.TempDir(), Model: "test machine", Serial: serial})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := a.Onboard(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
