package qemu_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gangway/image/authenticode"
	"gangway/image/secureboot"
	"gangway/image/stick"
)

// A machine in setup mode enrols the owner's keys from the stick, and enforces Secure Boot from
// then on. It starts the owner's stick and the installed system. It does not start a stick that was
// changed after signing, an unsigned stick, or a system that was changed on the disk.
func TestSecureBoot(t *testing.T) {
	t.Parallel()
	long(t)
	if m := authenticode.Missing(); m != "" {
		t.Skip(m)
	}
	s := newSite(t, stick.Config{})
	s.cfg.SecureBoot = true
	unsigned := s.stick

	_, set, signer := ownersKeys(t)
	parts := s.parts(t)
	parts.Signer = signer
	token, err := json.Marshal(s.token)
	if err != nil {
		t.Fatal(err)
	}
	var reference reference
	build := func(unasked bool) string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "signed.img")
		if _, err := stick.Build(&parts, stick.Config{Token: token, Enrol: set, EnrolUnasked: unasked, Boots: reference.compute}, file); err != nil {
			t.Fatal(err)
		}
		return file
	}
	s.stick = build(true)
	m, ctx := boot(t, s.with(true))
	waitFor(t, ctx, m, `Enrolling secure boot keys from directory: .*auto`)
	installed, _ := waitFor(t, ctx, m, `gangway-init .*: installed in`)
	after(t, ctx, m, installed.At, `gangway-init .*: this boot is good: gangway-a.efi`)
	m.Stop()
	s.listed(t)
	measured := s.isMeasured(t, &reference)
	if measured.SecureBoot != "on" {
		t.Errorf("the hub reads Secure Boot as %q", measured.SecureBoot)
	}
	computed, err := set.Manifest(parts.Signer.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	hasOwnersKeys(t, measured, computed)

	refused := func(what string, withStick bool) {
		t.Helper()
		m, ctx := boot(t, s.with(withStick))
		waitFor(t, ctx, m, `(?i)access denied|security violation`)
		if l, _, ok := m.Find(started); ok {
			t.Errorf("%s: it boots: %s", what, l.Text)
		}
		m.Stop()
	}
	// alter copies an image, changes one bit in the initial file system that the menu entry `entry`
	// starts, and returns the path of the copy.
	alter := func(image, entry string) string {
		t.Helper()
		copied := filepath.Join(t.TempDir(), filepath.Base(image))
		if out, err := exec.Command("cp", "--sparse=always", image, copied).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v: %.300s", err, out)
		}
		file := filepath.Join(t.TempDir(), "altered.efi")
		mtools := func(program string, args ...string) {
			t.Helper()
			if out, err := exec.Command(program, append([]string{"-i", copied + "@@1M"}, args...)...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %.300s", program, err, out)
			}
		}
		mtools("mcopy", "::/"+entry, file)
		uki := read(t, file)
		uki[len(uki)*3/4] ^= 1
		if err := os.WriteFile(file, uki, 0o600); err != nil {
			t.Fatal(err)
		}
		mtools("mcopy", "-o", file, "::/"+entry)
		return copied
	}
	// Keep the path of the original disk file, because the machine boots from it again below. A
	// copy would have another file name, and the disk's serial number is the file's name.
	good := s.disk
	s.disk = alter(good, "EFI/Linux/gangway-a.efi")
	refused("the system, altered", false)
	s.disk = good
	signed := s.stick
	s.empty(t)
	s.stick = alter(signed, "EFI/Linux/gangway-auto.efi")
	refused("the stick, altered", true)
	s.stick = unsigned
	refused("a stick that is not signed", true)

	// On another machine, a person enrols the keys with the last entry of the boot menu.
	s.cfg.Dir = t.TempDir()
	s.stick = build(false)
	m, ctx = boot(t, s.with(true))
	waitFor(t, ctx, m, `Install Gangway \(manual\)`)
	if l, _, ok := m.Find(regexp.MustCompile(`Enrolling secure boot keys`)); ok {
		t.Errorf("the keys are enrolled without a question: %s", l.Text)
	}
	if err := m.Type(strings.Repeat("\x1b[B", 9) + "\r"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, ctx, m, `Enrolling secure boot keys from directory: .*auto`)
	waitFor(t, ctx, m, upPattern) // the stick starts, because it is signed with the enrolled keys
	m.Stop()
	s.stick = unsigned
	refused("a stick that is not signed, where a person has enrolled the keys", true)
}

// ownersKeys makes an owner's Secure Boot keys in the folder `dir`.
func ownersKeys(t *testing.T) (dir string, set *secureboot.Set, signer *authenticode.Signer) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "keys")
	if err := secureboot.New(dir, "Example Ltd", nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	set, err := secureboot.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if signer, err = authenticode.New(filepath.Join(dir, "db.key"), filepath.Join(dir, "db.pem")); err != nil {
		t.Fatal(err)
	}
	return dir, set, signer
}
