package qemu_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"gangway/image/authenticode"
	"gangway/image/stick"
	"gangway/internal/qemu"
)

// A machine that has the owner's own key in its firmware, and Secure Boot on,
// starts the owner's stick and what it installs; and neither a stick that was
// altered after it was signed nor one that is not signed.
func TestSecureBoot(t *testing.T) {
	long(t)
	if m := authenticode.Missing(); m != "" {
		t.Skip(m)
	}
	s := newSite(t, stick.Config{})
	s.cfg.SecureBoot = true

	const refused = `(?i)access denied|security violation`
	start := func() {
		t.Helper()
		m, ctx := boot(t, s.with(true))
		waitFor(t, ctx, m, refused)
		if l, _, ok := m.Find(started); ok {
			t.Errorf("it started: %s", l.Text)
		}
		m.Stop()
	}
	start() // not signed

	key := filepath.Join(t.TempDir(), "db.key")
	if out, err := exec.Command("openssl", "pkey", "-in", qemu.SnakeOilKey, "-passin", "pass:snakeoil", "-out", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	parts := s.parts(t)
	var err error
	if parts.Signer, err = authenticode.New(key, qemu.SnakeOilCert); err != nil {
		t.Fatal(err)
	}
	token, err := json.Marshal(s.token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stick.Build(&parts, stick.Config{Token: token}, s.stick); err != nil {
		t.Fatal(err)
	}

	// One bit of the initial file system, in a copy of the stick.
	signed := s.stick
	s.stick = filepath.Join(t.TempDir(), "altered.img")
	b := read(t, signed)
	if err := os.WriteFile(s.stick, b, 0o600); err != nil {
		t.Fatal(err)
	}
	const entry = "EFI/Linux/gangway-auto.efi"
	uki := read(t, filepath.Join(s.contents(t), entry))
	uki[len(uki)*3/4] ^= 1
	altered := filepath.Join(t.TempDir(), "altered.efi")
	if err := os.WriteFile(altered, uki, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mcopy", "-o", "-i", s.stick+"@@1M", altered, "::/"+entry).CombinedOutput(); err != nil {
		t.Fatalf("mcopy: %v: %s", err, out)
	}
	start()

	s.stick = signed
	m, ctx := boot(t, s.with(true))
	installed, _ := waitFor(t, ctx, m, `gangway-init .*: installed in`)
	after(t, ctx, m, installed.At, `gangway-init .*: this boot is good: gangway-a.efi`)
	m.Stop()
	s.listed(t)
	if _, measured, _ := latestBoot(t, s.hub); measured.SecureBoot != "on" {
		t.Errorf("the hub reads Secure Boot as %q", measured.SecureBoot)
	}
}
