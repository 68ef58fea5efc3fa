package qemu_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gangway/internal/hubtest"
	"gangway/internal/qemu"
	"gangway/internal/swtpm"
)

// A machine without a TPM boots from a stick and displays that the TPM is missing. A test can take
// a screenshot of the machine.
func TestMachineWithoutTPMSaysSo(t *testing.T) {
	t.Parallel()
	need(t)
	tpm := newTPM(t, swtpm.RSA2048)
	h := hubtest.New(t, tpm.Roots(), []*x509.Certificate{tpm.Issuer()})
	stick := guest{token: guestToken(t, h), cmdline: "gangway.poweroff=exit"}.disk(t)
	dir := t.TempDir()
	m, ctx := boot(t, qemu.Config{Dir: dir, Screen: true, Disks: []qemu.Disk{{Path: stick, Bus: qemu.USB}}})
	waitFor(t, ctx, m, `BdsDxe: starting`)
	shot := filepath.Join(dir, "screen.png")
	if err := m.Screenshot(ctx, shot); err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(read(t, shot)))
	if err != nil || picture.Bounds().Dx() < 640 {
		t.Errorf("the screenshot cannot be decoded, or is too small: %v", err)
	}
	waitFor(t, ctx, m, `^gangway-agent: identity: no TPM at /dev/tpmrm0: switch it on in the firmware setup`)
	waitFor(t, ctx, m, `^gangway-init .*: the agent ended with code 1$`)
	if err := m.WaitOff(ctx); err != nil {
		t.Fatal(err)
	}
	if log := string(read(t, filepath.Join(dir, "console.log"))); !strings.Contains(log, "the agent ended with code 1") {
		t.Errorf("console.log lacks the agent's exit code; it ends\n%s", log[max(0, len(log)-500):])
	}
}

// A test can type on a machine: with an empty disk the firmware's shell starts, finds the disk, and
// switches the machine off on command.
func TestTypeToTheFirmware(t *testing.T) {
	t.Parallel()
	need(t)
	disk := filepath.Join(t.TempDir(), "a disk, empty")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	m, ctx := boot(t, qemu.Config{Dir: t.TempDir(), Offline: true, Disks: []qemu.Disk{{Path: disk, Bus: qemu.NVMe}}})
	waitFor(t, ctx, m, `^Shell> ?$`)
	for _, keys := range []string{"map\r", "reset -s\r"} {
		if err := m.Type(keys); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, ctx, m, `/NVMe\(0x1,`)
	if err := m.WaitOff(ctx); err != nil {
		t.Fatal(err)
	}
}

// WaitFor returns an error when its context ends, and Stop ends a machine.
func TestMachineEndsWhenItIsTold(t *testing.T) {
	t.Parallel()
	need(t)
	m, err := qemu.Start(t.Context(), qemu.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, _, err := m.WaitFor(ctx, regexp.MustCompile("never")); err == nil || !strings.Contains(err.Error(), "did not print") {
		t.Errorf("waiting for a line that is never printed: %v", err)
	}
	if err := m.WaitOff(ctx); err == nil || !strings.Contains(err.Error(), "still on") {
		t.Errorf("waiting for the machine's end: %v", err)
	}
	m.Stop()
	m.Stop()
	if _, _, err := m.WaitFor(t.Context(), regexp.MustCompile("never")); err == nil || !strings.Contains(err.Error(), "ended without") {
		t.Errorf("waiting for a line after the machine's end: %v", err)
	}
	if err := m.Reset(t.Context()); err == nil {
		t.Error("resetting a machine that is off succeeds")
	}
	ctx, cancel = context.WithCancel(t.Context())
	m, err = qemu.Start(ctx, qemu.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-m.Off
}

// If Config.Reboot is false, Machine.Reset switches the machine off.
func TestResetMachine(t *testing.T) {
	t.Parallel()
	need(t)
	for _, reboot := range []bool{false, true} {
		m, ctx := boot(t, qemu.Config{Dir: t.TempDir(), Reboot: reboot})
		if err := m.Reset(ctx); err != nil {
			t.Fatal(err)
		}
		if reboot {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
			defer cancel()
		}
		if err := m.WaitOff(ctx); (err != nil) != reboot {
			t.Errorf("reboot %v: %v", reboot, err)
		}
	}
}

// A machine with a disk on an unknown bus does not start, and a machine with a disk image that does
// not exist ends with an error.
func TestMachineRefusesWhatIsNotThere(t *testing.T) {
	t.Parallel()
	need(t)
	if _, err := qemu.Start(t.Context(), qemu.Config{Dir: t.TempDir(), Disks: []qemu.Disk{{Path: "x", Bus: "floppy"}}}); err == nil {
		t.Error("a floppy is accepted")
	}
	m, err := qemu.Start(t.Context(), qemu.Config{Dir: t.TempDir(), Disks: []qemu.Disk{{Path: "/nowhere,readonly=on"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.WaitOff(t.Context()); err == nil || !strings.Contains(err.Error(), "/nowhere,readonly=on") {
		t.Errorf("a disk that does not exist: %v", err)
	}
}
