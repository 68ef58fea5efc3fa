package qemu_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gangway/device/install"
	"gangway/device/install/escrow"
	"gangway/device/install/luks"
	"gangway/image/factory"
	"gangway/image/stick"
	"gangway/internal/qemu"
	"gangway/internal/swtpm"
)

// The menu entry "auto TPM" encrypts the data partition, so a thief of the disk cannot read it. The
// machine opens the partition with its TPM, and a person can open it with the recovery key; another
// machine cannot open it. The hub stores the recovery key for the owner, but cannot read it. The
// first revision in the image becomes revision 0 of the device at the hub.
func TestEncryptedInstallation(t *testing.T) {
	t.Parallel()
	identity, recipient, err := escrow.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	first := firstRevision(t, "the first root")
	s := newSite(t, stick.Config{Escrow: recipient, First: first})
	m, ctx := boot(t, s.with(true))
	recovery := chooseAutoTPM(t, ctx, m)
	waitFor(t, ctx, m, `gangway-init .*: the disk's key came from the TPM`)
	waitFor(t, ctx, m, `gangway-init .*: this boot is good`)
	waitFor(t, ctx, m, `gangway-init .*: data partition: 38\d\d MiB`)
	waitFor(t, ctx, m, `^Created the trail: revision 0 has 1 file`)
	m.Stop()
	s.listed(t)
	device := s.hub.Devices(t, s.hub.Owner)[0]
	sealed, _ := device.DeviceMeta[escrow.MetaKey].(string)
	if got, err := escrow.Open(identity, sealed); got != recovery || err != nil {
		t.Errorf("the hub's recovery key is %q, %v; the screen shows %q", got, err, recovery)
	}
	step, err := s.hub.Store.Revision(t.Context(), device.ID, 0)
	if err != nil || !bytes.Equal(step.State, first.State) {
		t.Errorf("revision 0 is %.200s, %v; the image has %.200s", step.State, err, first.State)
	}

	data := s.data(t)
	for _, part := range strings.Split(recovery, "-") {
		if bytes.Contains(data, []byte(part)) {
			t.Errorf("the disk holds a part of the recovery key: %s", part)
		}
	}
	if bytes.Contains(data, []byte("gangway-agent")) {
		t.Error("the disk holds file names in plain text")
	}
	key, err := luks.Open(bytes.NewReader(data), []byte(recovery))
	if err != nil {
		t.Fatalf("the recovery key does not open the disk: %v", err)
	}
	cryptsetupOpens(t, data[:luks.Overhead], recovery)
	c, err := key.Cipher()
	if err != nil {
		t.Fatal(err)
	}
	clear := make([]byte, 4096)
	for i := 0; i < len(clear); i += 512 {
		c.Decrypt(clear[i:i+512], data[luks.Overhead+i:luks.Overhead+i+512], uint64(i/512))
	}
	if clear[0x438] != 0x53 || clear[0x439] != 0xEF {
		t.Error("the decrypted data is not an ext4 file system")
	}

	// From here on, the disk is in another machine.
	other := s.with(false)
	other.Dir, other.TPM = t.TempDir(), newTPM(t, swtpm.P384)
	m, ctx = boot(t, other)
	waitFor(t, ctx, m, `gangway-init .*: The data partition cannot be unlocked: this TPM does not release the disk's key`)
	m.Stop()
	s.listed(t)

	// From here on, the disk is in the first machine again.
	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
}

// chooseAutoTPM chooses the menu entry "auto TPM", and returns the recovery key that the screen
// displays at the end.
func chooseAutoTPM(t *testing.T, ctx context.Context, m *qemu.Machine) string {
	t.Helper()
	waitFor(t, ctx, m, `Install Gangway \(auto TPM\)`)
	if err := m.Type("\x1b[B\r"); err != nil {
		t.Fatal(err)
	}
	_, recovery := waitFor(t, ctx, m, `gangway-init .*: recovery key: ([a-v-]{71})$`)
	if err := m.Type("\r"); err != nil { // confirm, as a person who wrote the key down
		t.Fatal(err)
	}
	return recovery[1]
}

// firstRevision makes a revision with one object.
func firstRevision(t *testing.T, content string) *factory.Revision {
	t.Helper()
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
	dir := t.TempDir()
	for name, text := range map[string]string{"json": `{"#spec":"pantavisor-service-system@1","app/root":"` + sum + `"}`, "objects/" + sum: content} {
		path := filepath.Join(dir, ".pvr", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r, err := factory.Merge(t.Context(), t.TempDir(), []string{dir}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// data returns the beginning of the disk's data partition.
func (s *site) data(t *testing.T) []byte {
	t.Helper()
	i, err := install.Look(filepath.Dir(s.disk), filepath.Base(s.disk))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(s.disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, luks.Overhead+64<<20)
	if _, err := f.ReadAt(b, i.DataStart); err != nil {
		t.Fatal(err)
	}
	return b
}

func cryptsetupOpens(t *testing.T, head []byte, passphrase string) {
	t.Helper()
	const program = "/usr/sbin/cryptsetup"
	if _, err := os.Stat(program); err != nil {
		t.Log("cryptsetup is not tried: it is not installed (apt-get install cryptsetup-bin)")
		return
	}
	file := filepath.Join(t.TempDir(), "header")
	if err := os.WriteFile(file, append(bytes.Clone(head), make([]byte, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "luksDump", "--disable-locks", "--batch-mode", "--dump-volume-key", "--key-file", "-", file)
	cmd.Stdin = bytes.NewReader([]byte(passphrase))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("cryptsetup: %v: %.300s", err, out)
	}
}
