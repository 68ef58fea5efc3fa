package qemu_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"gangway/device/install"
	"gangway/device/install/luks"
	"gangway/image/stick"
	"gangway/internal/qemu"
)

// A stick that was built with --reset-only makes an encrypted installation unreadable. Afterwards
// the recovery key does not open the disk, and the TPM does not even open an earlier copy of it.
// The firmware has no boot entry for the disk any more, and the machine's other disks are
// unchanged. After a new installation the machine is the same device, because its endorsement key
// does not change.
func TestResetStick(t *testing.T) {
	t.Parallel()
	long(t)
	s := newSite(t, stick.Config{})
	m, ctx := boot(t, s.with(true))
	recovery := chooseAutoTPM(t, ctx, m)
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	m.Stop()
	s.listed(t)
	id := s.hub.Devices(t, s.hub.Owner)[0].ID
	at, err := install.Look(filepath.Dir(s.disk), filepath.Base(s.disk))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := luks.Open(bytes.NewReader(s.data(t)), []byte(recovery)); err != nil {
		t.Fatalf("before the wipe, the recovery key does not open the disk: %v", err)
	}
	if !s.firmwareNames(t, "Gangway") {
		t.Error("before the wipe, firmware has no entry of the system")
	}
	old := filepath.Join(t.TempDir(), "copy.img")
	if out, err := exec.Command("cp", "--sparse=always", s.disk, old).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %.300s", err, out)
	}

	parts := s.parts(t)
	wipe := filepath.Join(t.TempDir(), "reset.img")
	if _, err := stick.BuildReset(&parts, nil, wipe); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other.img")
	if err := os.WriteFile(other, bytes.Repeat([]byte("somebody else's "), 2<<20/16), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(other, diskSize); err != nil {
		t.Fatal(err)
	}
	others := read(t, other)
	reset := s.cfg
	reset.Disks = []qemu.Disk{{Path: wipe, Bus: qemu.USB, ReadOnly: true}, {Path: s.disk, Bus: qemu.NVMe}, {Path: other, Bus: qemu.NVMe}}
	m, ctx = boot(t, reset)
	waitFor(t, ctx, m, `gangway-init .*: All Gangway data on this machine will be erased in 10 seconds`)
	s.picture(t, m, "wipe")
	waitFor(t, ctx, m, `gangway-init .*: /dev/nvme[01]n1 is erased`)
	waitFor(t, ctx, m, `gangway-init .*: the TPM is cleared`)
	waitFor(t, ctx, m, `gangway-init .*: Wiped: this machine has no owner`)
	s.picture(t, m, "wiped")
	if err := m.Type("\r"); err != nil {
		t.Fatal(err)
	}
	if err := m.WaitOff(ctx); err != nil {
		t.Fatal(err)
	}

	if i, err := install.Look(filepath.Dir(s.disk), filepath.Base(s.disk)); err == nil {
		t.Errorf("the disk still has a system: %+v", i)
	}
	f, err := os.Open(s.disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, luks.Overhead)
	if _, err := f.ReadAt(head, at.DataStart); err != nil {
		t.Fatal(err)
	}
	if _, err := luks.Open(bytes.NewReader(head), []byte(recovery)); err == nil {
		t.Error("the recovery key still opens the disk")
	}
	if s.firmwareNames(t, "Gangway") {
		t.Error("firmware still has an entry of the system")
	}
	if !bytes.Equal(read(t, other), others) {
		t.Error("another disk was written to")
	}

	// An attacker who copied the disk before the wipe cannot open the copy on this machine.
	copied := s.cfg
	copied.Disks = []qemu.Disk{{Path: old, Bus: qemu.NVMe}}
	m, ctx = boot(t, copied)
	waitFor(t, ctx, m, `gangway-init .*: The data partition cannot be unlocked: this TPM does not release the disk's key`)
	m.Stop()

	// If no disk has a Gangway system, the stick asks a person before it wipes.
	m, ctx = boot(t, reset)
	waitFor(t, ctx, m, `gangway-init .*: No disk of this machine has a Gangway system`)
	if err := m.Type("no\r"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, ctx, m, `gangway-init .*: Stopped: nothing was erased`)
	m.Stop()

	m, ctx = boot(t, s.with(true))
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	if l, _, ok := m.Find(regexp.MustCompile(`has already installed Gangway on this machine`)); ok {
		t.Errorf("the stick recognizes a system after the wipe: %s", l.Text)
	}
	m.Stop()
	s.listed(t)
	if got := s.hub.Devices(t, s.hub.Owner)[0].ID; got != id {
		t.Errorf("after the new installation the machine is the device %s; before it was %s", got, id)
	}
}

// firmwareNames reports whether the firmware has a boot entry with this description. The firmware's
// store still contains deleted variables; the state field of such a variable marks the variable as
// deleted.
func (s *site) firmwareNames(t *testing.T, description string) bool {
	t.Helper()
	var want []byte
	for _, r := range description {
		want = append(want, byte(r), 0)
	}
	store := read(t, filepath.Join(s.cfg.Dir, "vars.fd"))
	const header = 60 // size in bytes of EDK II's AUTHENTICATED_VARIABLE_HEADER
	for at := 0; at+header <= len(store); at += 4 {
		if !bytes.HasPrefix(store[at:], []byte{0xAA, 0x55, 0x3F}) { // not the start of a variable that still exists
			continue
		}
		name := at + header
		data := name + int(binary.LittleEndian.Uint32(store[at+36:]))
		end := data + int(binary.LittleEndian.Uint32(store[at+40:]))
		if name < data && data < end && end <= len(store) &&
			bytes.HasPrefix(store[name:], []byte("B\x00o\x00o\x00t\x000\x00")) && bytes.Contains(store[data:end], want) {
			return true
		}
	}
	return false
}
