package qemu_test

import (
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/internal/hubtest"
	"gangway/internal/qemu"
	"gangway/internal/swtpm"
	"gangway/wire"
)

// A machine boots and onboards without a person's help. After another boot, even with another
// interface to the TPM, the machine is the same device, and its PCRs have the same values, which
// follow from the firmware's event log.
func TestMachineComesAboardByItself(t *testing.T) {
	t.Parallel()
	need(t)
	tpm := newTPM(t, swtpm.P384)
	h := hubtest.New(t, tpm.Roots(), []*x509.Certificate{tpm.Issuer()})
	tok := guestToken(t, h)
	disk := guest{token: tok, cmdline: "gangway.show=boot"}.disk(t)
	dir := t.TempDir()
	var first store.Device
	var firstPCRs [16]string
	for _, crb := range []bool{false, true} {
		m, ctx := boot(t, qemu.Config{Dir: dir, TPM: tpm, CRB: crb, Disks: []qemu.Disk{{Path: disk, ReadOnly: true}}})
		waitFor(t, ctx, m, `^Connected to https://10.0.2.2:\d+ as `)
		m.Stop()
		times(t, m)
		devices := h.Devices(t, h.Owner)
		if len(devices) != 1 {
			t.Fatalf("devices: %+v", devices)
		}
		pcrs := explained(t, m)
		if !crb {
			first, firstPCRs = devices[0], pcrs
		}
		if kernel := devices[0].DeviceMeta["gangway.kernel"]; kernel == nil || !strings.HasPrefix(kernel.(string), "6.") {
			t.Errorf("the device reports the kernel %v", kernel)
		}
		if devices[0].ID != first.ID {
			t.Errorf("the same machine is first the device %s, then %s", first.ID, devices[0].ID)
		}
		if b, m, changes := latestBoot(t, h); b.State != "matches" || !slices.Equal(m.PCRs, pcrs[:]) || !m.Log || m.SecureBoot != "off" {
			t.Errorf("the hub's boot state is %s (%q); want matches; the measurement is %.300s", b.State, changes, fmt.Sprintf("%+v", m))
		}
		if pcrs != firstPCRs {
			t.Errorf("the same machine measured first %v, then %v", firstPCRs, pcrs)
		}
	}
	if n := h.Uses(t, tok); n != 1 {
		t.Errorf("the token was used %d times; want 1", n)
	}
}

// guestToken makes a token file for emulated machines, which reach the hub at a different address
// than the test does.
func guestToken(t *testing.T, h *hubtest.Hub) *wire.TokenFile {
	t.Helper()
	tok := h.Token(t, h.Owner, nil)
	tok.Hub = strings.Replace(tok.Hub, "127.0.0.1", "10.0.2.2", 1)
	return tok
}

// The function `explained` returns the PCR values that a machine printed. It first checks that
// tpm2_eventlog computes the same values from the event log that the machine printed.
func explained(t *testing.T, m *qemu.Machine) (pcrs [16]string) {
	t.Helper()
	_, match := waitFor(t, t.Context(), m, `: event log ([A-Za-z0-9+/=]+)$`)
	log, err := base64.StdEncoding.DecodeString(match[1])
	if err != nil {
		t.Fatal(err)
	}
	for i := range pcrs {
		_, match := waitFor(t, t.Context(), m, fmt.Sprintf(`: PCR %d ([0-9a-f]{64})$`, i))
		pcrs[i] = match[1]
	}
	if _, err := exec.LookPath("tpm2_eventlog"); err != nil {
		t.Log("the log is not replayed: tpm2_eventlog is not installed (apt-get install tpm2-tools)")
		return pcrs
	}
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, log, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tpm2_eventlog", file).Output()
	if err != nil {
		t.Fatalf("tpm2_eventlog: %v", err)
	}
	_, computed, ok := strings.Cut(string(out), "\npcrs:\n  sha256:\n")
	if !ok {
		t.Fatalf("tpm2_eventlog prints no PCRs: %.500s", out)
	}
	n := 0
	for l := range strings.Lines(computed) {
		index, value, _ := strings.Cut(l, ":")
		i, err := strconv.Atoi(strings.TrimSpace(index))
		if err != nil || i >= len(pcrs) {
			t.Fatalf("tpm2_eventlog prints %q", l)
		}
		n++
		if strings.TrimSpace(value) != "0x"+pcrs[i] {
			t.Errorf("PCR %d is %s, but the log gives %s", i, pcrs[i], value)
		}
	}
	t.Logf("event log of %d bytes; it explains %d PCRs", len(log), n)
	if n < 9 {
		t.Errorf("the log explains only %d PCRs; want at least 9", n)
	}
	return pcrs
}

// times logs how many seconds each phase of a boot took.
func times(t *testing.T, m *qemu.Machine) {
	t.Helper()
	ctx := t.Context()
	up, match := waitFor(t, ctx, m, `gangway-init \[([0-9.]+)\]: up`)
	kernel, err := strconv.ParseFloat(match[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Duration(kernel * float64(time.Second))
	network, _ := waitFor(t, ctx, m, `gangway-init .*: network`)
	onboarded, _ := waitFor(t, ctx, m, `gangway-init .*: onboarded`)
	s := func(d time.Duration) float64 { return d.Seconds() }
	t.Logf("onboarded %.1f s after power-on: firmware %.1f, kernel %.1f, modules and network %.1f, onboarding %.1f",
		s(onboarded.At), s(up.At-took), s(took), s(network.At-up.At), s(onboarded.At-network.At))
}
