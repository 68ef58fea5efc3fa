package qemu_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gangway/device/install"
	"gangway/device/install/diskkey"
	"gangway/device/install/luks"
	"gangway/device/install/seal"
	"gangway/image/stick"
	"gangway/wire/manifest/measure"
)

// The owner signed the system on the stick. At its first start, the installed system binds the key
// of the encrypted disk to systems that the owner signed. So the disk also opens for an update that
// the owner signed, but not for an altered system or one that someone else signed. The machine
// refuses an update that the owner did not sign, because this update could not open the disk.
// Secure Boot is off during the whole test.
//
// The owner's reference manifests name the installed system and its update, so the hub judges the
// first boot, the update and the roll-back as expected, and the owner need not accept any of them.
//
// An attacker copied the disk's header before the first start. Later, this copy does not open the
// disk. At the end, another stick of the owner installs the machine a second time, although the
// TPM, the firmware and the hub still know the first installation. The first boot is expected
// again, and the disk's key is bound again. A copy of the first installation's disk cannot be
// opened.
func TestDiskOpensOnlyForItsOwnersSystems(t *testing.T) {
	t.Parallel()
	long(t)
	owner, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	var first, second reference
	s := newSiteOf(t, func(p *stick.Parts) { p.Owner = owner }, func(*site) stick.Config { return stick.Config{Boots: first.compute, Installs: first.installs} })
	s.publish(t, &first, 1)
	m, ctx := boot(t, s.with(true))
	chooseAutoTPM(t, ctx, m)
	installed := s.data(t)[:luks.Overhead] // the machine restarts
	if _, err := luks.Token(bytes.NewReader(installed), seal.FirstType); err != nil {
		t.Fatal(err)
	}
	waitFor(t, ctx, m, `gangway-init .*: the disk's key came from the TPM`)
	waitFor(t, ctx, m, `gangway-init .*: the disk's key is bound to the owner's systems`)
	waitFor(t, ctx, m, `gangway-init .*: this boot is good: gangway-a.efi`)
	m.Stop()
	s.listed(t)
	s.judged(t, "boot-path expected", "system expected")

	m, ctx = boots(t, s.with(false), 2) // from here on, the disk's key is bound to the installed system
	waitFor(t, ctx, m, `gangway-init .*: the disk's key came from the TPM`)
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	o := s.signIn(t)
	o.begun(ctx)
	next := s.parts(t)
	next.Kernel = otherKernel(next.Kernel)
	rev := o.post(ctx, s.system(t, next))
	if p := o.becomes(ctx, m, rev, "ERROR"); !strings.Contains(p.Message, "has not approved the new system") {
		t.Errorf("the owner reads %q; want that the new system is not approved", p.Message)
	}
	next.Owner = owner
	update := s.system(t, next)
	second.manager = first.manager
	if second.system, err = measure.System(update); err != nil {
		t.Fatal(err)
	}
	s.publish(t, &second, 2)
	s.hub.Policy(t, s.hub.Owner.ID, "version: 1\nmeasured_boot: {boot-path: expected, system: expected}\n")
	rev = o.post(ctx, update)
	waitFor(t, ctx, m, `gangway-init .*: system: slot b, on trial; slot a is the default$`)
	o.becomes(ctx, m, rev, "DONE")
	s.judged(t, "boot-path expected", "system expected")

	m.Stop()

	// Roll back to the first system, and return to the update.
	older := s.onESP(t, "EFI/Linux/gangway-a.efi")
	for _, step := range []struct {
		system []byte
		slots  string
	}{{older, "slot a, on trial; slot b is the default"}, {update, "slot b, on trial; slot a is the default"}} {
		m, ctx = boots(t, s.with(false), 2)
		waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
		rev = o.post(ctx, step.system)
		waitFor(t, ctx, m, `gangway-init .*: system: `+step.slots+`$`)
		o.becomes(ctx, m, rev, "DONE")
		m.Stop()
		s.judged(t, "boot-path expected", "system expected")
	}

	thief, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	const systemPath, managerPath = "EFI/Linux/gangway-b.efi", "EFI/BOOT/BOOTX64.EFI"
	good := map[string][]byte{systemPath: s.onESP(t, systemPath), managerPath: s.onESP(t, managerPath)}
	foreign := next
	foreign.Owner = thief
	const notReleased = `The data partition cannot be unlocked: this TPM does not release`
	for name, c := range map[string]struct {
		path    string
		content []byte
		says    string
	}{
		"a system signed by a thief": {systemPath, s.system(t, foreign), `The data partition cannot be unlocked: the disk's owner has not approved`},
		"an altered command line":    {systemPath, bytes.Replace(good[systemPath], []byte("oops=panic"), []byte("oops=pan1c"), 1), notReleased},
		"an altered kernel":          {systemPath, bytes.Replace(good[systemPath], next.Kernel, otherKernel(next.Kernel), 1), notReleased},
		"an altered boot manager":    {managerPath, append(bytes.Clone(good[managerPath]), make([]byte, 8)...), notReleased},
	} {
		if bytes.Equal(c.content, good[c.path]) {
			t.Fatalf("%s: the file is not altered", name)
		}
		s.writeESP(t, c.path, c.content)
		m, ctx = boot(t, s.with(false))
		waitFor(t, ctx, m, `gangway-init .*: `+c.says)
		m.Stop()
		t.Log(name, "does not open the disk")
		s.writeESP(t, c.path, good[c.path])
	}
	bound := s.data(t)[:luks.Overhead]
	s.writeData(t, installed)
	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: `+notReleased)
	m.Stop()
	t.Log("the header from before the first start does not open the disk")
	s.writeData(t, bound)

	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: system: slot b$`)
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	m.Stop()
	s.listed(t)

	former := filepath.Join(t.TempDir(), "former.img")
	if out, err := exec.Command("cp", "--sparse=always", s.disk, former).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %.300s", err, out)
	}
	var again reference
	s.makeStick(t, next, stick.Config{Boots: again.compute, Installs: again.installs})
	s.publish(t, &again, 3)
	m, ctx = boot(t, s.with(true))
	chooseAutoTPM(t, ctx, m)
	waitFor(t, ctx, m, `gangway-init .*: the disk's key is bound to the owner's systems`)
	waitFor(t, ctx, m, `gangway-init .*: this boot is good: gangway-a.efi`)
	m.Stop()
	s.listed(t)
	// In the firmware's boot menu, the entry of the new disk has replaced the former disk's entry.
	s.judged(t, "boot-path expected", "system expected", "firmware known", "keys known")
	s.says(t, "boot-path", "PCR 5 has the partition table that the installer of \"system 3\" wrote on this disk.")
	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: the disk's key came from the TPM`)
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	m.Stop()
	s.judged(t, "boot-path expected", "system expected", "firmware known", "keys known")
	s.disk = former
	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: `+notReleased)
	m.Stop()
}

// The system in the image is not signed, so only PCR 7 protects the key of the encrypted disk. The
// owner signs the first update. The machine does not bind the disk's key to the owner's systems
// while it tries this update, because the unsigned system must still open the disk without help if
// the trial fails. The key is bound only after an update has become permanent.
func TestFailedTrialOfTheFirstSignedSystemLeavesTheDiskOpen(t *testing.T) {
	t.Parallel()
	long(t)
	owner, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, stick.Config{})
	m, ctx := boot(t, s.with(true))
	chooseAutoTPM(t, ctx, m)
	const (
		opens    = `gangway-init .*: the disk's key came from the TPM`
		bound    = `gangway-init .*: the disk's key is bound to the owner's systems`
		notBound = `gangway-init .*: the disk's key is not bound to the owner's systems`
		tried    = `gangway-init .*: system: slot b, on trial; slot a is the default$`
	)
	waitFor(t, ctx, m, `gangway-init .*: this boot is good: gangway-a.efi`)
	m.Stop()
	s.isBound(t, false)
	m, ctx = boots(t, s.with(false), 6)
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	o := s.signIn(t)
	o.begun(ctx)
	good := s.parts(t)
	good.Owner = owner

	// The system `silent` opens the disk, but does not reach the hub. The system `dead` does not
	// start.
	silent, dead := good, good
	silent.Init, silent.Agent = otherInit(t, "-X main.trialTime=40s"), good.Init // gangway-init is not an agent: it exits at once
	dead.Init = good.Agent
	for _, c := range []struct {
		system stick.Parts
		says   []string
	}{
		{silent, []string{opens, notBound, tried, `gangway-init .*: The new system was not made permanent within 40s`}},
		{dead, []string{`Kernel panic - not syncing: Attempted to kill init!`}},
	} {
		at := m.Lines()[len(m.Lines())-1].At
		rev := o.post(ctx, s.system(t, c.system))
		for _, says := range append(c.says, opens, `gangway-init .*: system: slot a$`) {
			at = after(t, ctx, m, at, says).At
		}
		if p := o.becomes(ctx, m, rev, "ERROR"); !strings.Contains(p.Message, "fell back to slot a") {
			t.Errorf("the owner reads %q; want the fallback to slot a", p.Message)
		}
		s.isBound(t, false)
	}

	good.Kernel = otherKernel(good.Kernel)
	at := m.Lines()[len(m.Lines())-1].At
	rev := o.post(ctx, s.system(t, good))
	for _, says := range []string{opens, notBound, tried, bound} {
		at = after(t, ctx, m, at, says).At
	}
	o.becomes(ctx, m, rev, "DONE")
	m.Stop()
	s.isBound(t, true)

	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, opens)
	waitFor(t, ctx, m, `gangway-init .*: system: slot b$`)
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	m.Stop()
	s.listed(t)
}

// isBound checks that the disk opens only for systems that its owner approved, or, if `want` is
// false, that it is not bound to such systems.
func (s *site) isBound(t *testing.T, want bool) {
	t.Helper()
	if is, err := diskkey.IsBound(bytes.NewReader(s.data(t))); is != want || err != nil {
		t.Errorf("the disk's key is bound: %v, %v; want %v", is, err, want)
	}
}

// writeData overwrites the beginning of the disk's data partition.
func (s *site) writeData(t *testing.T, head []byte) {
	t.Helper()
	i, err := install.Look(filepath.Dir(s.disk), filepath.Base(s.disk))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(head, i.DataStart); err != nil {
		t.Fatal(err)
	}
}

// mtools runs a program of mtools on the EFI system partition of the machine's disk.
func (s *site) mtools(t *testing.T, program string, args ...string) {
	t.Helper()
	i, err := install.Look(filepath.Dir(s.disk), filepath.Base(s.disk))
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"-i", fmt.Sprintf("%s@@%d", s.disk, i.ESPStart)}, args...)
	if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %.300s", program, err, out)
	}
}

// onESP reads a file of the machine's EFI system partition.
func (s *site) onESP(t *testing.T, name string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	s.mtools(t, "mcopy", "::/"+name, file)
	return read(t, file)
}

// writeESP replaces a file of the machine's EFI system partition.
func (s *site) writeESP(t *testing.T, name string, content []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s.mtools(t, "mcopy", "-o", file, "::/"+name)
}
