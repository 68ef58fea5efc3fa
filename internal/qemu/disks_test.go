package qemu_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"gangway/image/stick"
	"gangway/internal/qemu"
)

// If two controllers share an NVMe namespace, the kernel has one hidden device node for each path.
// The installer still lists one disk, and the default rule installs to this disk without a key
// press.
func TestNVMeWithTwoControllers(t *testing.T) {
	t.Parallel()
	long(t)
	s := newSite(t, stick.Config{})
	s.bus = qemu.NVMePaths
	m, ctx := boot(t, s.with(true))
	waitFor(t, ctx, m, `gangway-init .*: disk: /dev/nvme[01]n1 +4\.3 GB +QEMU NVMe Ctrl +serial disk`)
	waitFor(t, ctx, m, `gangway-init .*: installed in`)
	waitFor(t, ctx, m, `gangway-init .*: this boot is good: gangway-a.efi`)
	if l, _, ok := m.Find(regexp.MustCompile(`matches the disk rule\. Which one is to be erased`)); ok {
		t.Errorf("the installer asks for a disk: %s", l.Text)
	}
	m.Stop()
	s.listed(t)
	if state, changes := s.booted(t); state != "matches" {
		t.Errorf("the hub's boot state is %s, %q; want matches", state, changes)
	}

	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	m.Stop()
	s.listed(t)
}

// The installer does not overwrite a USB disk automatically. A machine's only disk is a USB disk;
// the stick and a copy of the stick are plugged in too. The default rule chooses none of the three.
// A person can choose the USB disk, but not the stick or its copy.
func TestDiskOnUSBIsChosenByAPerson(t *testing.T) {
	t.Parallel()
	long(t)
	s := newSite(t, stick.Config{})
	s.bus = qemu.USBFixed
	second := filepath.Join(t.TempDir(), "second.img")
	if out, err := exec.Command("cp", "--sparse=always", s.stick, second).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %.300s", err, out)
	}
	before := read(t, second)
	cfg := s.with(true)
	cfg.Disks = append(cfg.Disks, qemu.Disk{Path: second, Bus: qemu.USBFixed})
	m, ctx := boot(t, cfg)
	waitFor(t, ctx, m, `gangway-init .*: Only disks that may be external match`)
	waitFor(t, ctx, m, `gangway-init .*: 1: /dev/sd[a-c] .* serial disk +\(on USB\)`)
	asked, _ := waitFor(t, ctx, m, `gangway-init .*: Type the number of the disk`)
	if l, _, ok := m.Find(regexp.MustCompile(`gangway-init .*: 2: `)); ok {
		t.Errorf("a stick can be chosen: %s", l.Text)
	}
	typed := func(keys string) {
		t.Helper()
		if err := m.Type(keys); err != nil {
			t.Fatal(err)
		}
	}
	typed("2\r")
	waitFor(t, ctx, m, `gangway-init .*: "2" is not a number from 1 to 1`)
	typed("1\r")
	installed := after(t, ctx, m, asked.At, `gangway-init .*: installed in`)
	after(t, ctx, m, installed.At, `gangway-init .*: this boot is good: gangway-a.efi`)
	m.Stop()
	s.listed(t)

	// The installer recognises the system that this stick installed, and asks no question.
	m, ctx = boot(t, cfg)
	waitFor(t, ctx, m, `gangway-init .*: This stick has already installed Gangway on this machine`)
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	m.Stop()
	s.listed(t)
	if string(read(t, second)) != string(before) {
		t.Error("the second stick was changed")
	}
}

// The installer lists the disks of all kinds of controllers, each with the reason why it is not
// chosen automatically. A machine boots from a disk on a SCSI controller if the firmware supports
// the controller.
func TestDisksOfManyControllers(t *testing.T) {
	t.Parallel()
	long(t)
	s := newSite(t, stick.Config{Debug: true})
	s.bus = qemu.VirtIOSCSI
	cfg := s.with(true)
	dir := t.TempDir()
	for _, d := range []struct {
		name string
		bus  qemu.Bus
	}{
		{"megaraid", qemu.MegaRAID}, {"pvscsi", qemu.PVSCSI},
		{"sata", qemu.SATA}, {"virtio", qemu.VirtIO}, {"card", qemu.SDCard}, {"usb", qemu.USBFixed},
	} {
		path := filepath.Join(dir, d.name+".img")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 2<<30); err != nil {
			t.Fatal(err)
		}
		cfg.Disks = append(cfg.Disks, qemu.Disk{Path: path, Bus: d.bus})
	}
	m, ctx := boot(t, cfg)
	at := time.Duration(0)
	typed := func(expect, keys string) {
		t.Helper()
		at = after(t, ctx, m, at, expect).At
		if err := m.Type(keys); err != nil {
			t.Fatal(err)
		}
	}
	typed(`Install Gangway \(manual\)`, "\x1b[B\x1b[B\r")
	typed(`gangway# `, "pvf-install --list\r")
	for _, line := range []string{
		`^sda +2\.1 GB .* sata +no partitions`, // SATA comes before the other buses, and USB last
		`^sd[b-i] +4\.3 GB .* disk +no partitions`,
		`^sd[b-i] +2\.1 GB .* megaraid +no partitions`,
		`^sd[b-i] +2\.1 GB .* pvscsi +no partitions`,
		`^sd[b-i] +2\.1 GB .* usb +no partitions`,
		`^ .* only if you name it: on USB`,
		`^vda +2\.1 GB .*no partitions`,
		`^mmcblk0 +2\.1 GB .*no partitions`,
		`^ .* only if you name it: a memory card`,
		`^ .* cannot be installed to: the stick that the installer was started from`,
	} {
		waitFor(t, ctx, m, line)
	}
	_, disk := waitFor(t, ctx, m, `^(sd[b-i]) +4\.3 GB `)
	if err := m.Type("pvf-install --disk " + disk[1] + " --yes\r"); err != nil {
		t.Fatal(err)
	}
	typed(`^Installed to /dev/sd`, "")
	typed(`gangway# `, "reboot\r")
	after(t, ctx, m, at, `gangway-init .*: this boot is good`)
	if l, _, ok := m.Find(regexp.MustCompile(`gangway-init .*: module `)); ok {
		t.Errorf("a module does not load: %s", l.Text)
	}
	m.Stop()
	s.listed(t)
}
