package qemu_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"gangway/image/stick"
	"gangway/install"
	"gangway/install/luks"
	"gangway/internal/swtpm"
)

// With the entry (auto TPM) the data is encrypted: this machine opens it by its
// TPM, a person by the recovery key, and another machine not at all.
func TestEncryptedInstallation(t *testing.T) {
	s := newSite(t, stick.Config{})
	m, ctx := boot(t, s.with(true))
	waitFor(t, ctx, m, `Install Gangway \(auto TPM\)`)
	if err := m.Type("\x1b[B\r"); err != nil {
		t.Fatal(err)
	}
	_, recovery := waitFor(t, ctx, m, `gangway-init .*: recovery key: ([a-v-]{71})$`)
	if err := m.Type("\r"); err != nil { // the picture is taken
		t.Fatal(err)
	}
	waitFor(t, ctx, m, `gangway-init .*: the disk's key came from the TPM`)
	waitFor(t, ctx, m, `gangway-init .*: this boot is good`)
	waitFor(t, ctx, m, `gangway-init .*: data partition: 38\d\d MiB`)
	m.Stop()
	s.listed(t)

	data := s.data(t)
	if bytes.Contains(data, []byte("gangway-agent")) {
		t.Error("names of files can be read on the disk")
	}
	key, err := luks.Open(bytes.NewReader(data), []byte(recovery[1]))
	if err != nil {
		t.Fatalf("the recovery key: %v", err)
	}
	cryptsetupOpens(t, data[:luks.Overhead], recovery[1])
	c, err := key.Cipher()
	if err != nil {
		t.Fatal(err)
	}
	clear := make([]byte, 4096)
	for i := 0; i < len(clear); i += 512 {
		c.Decrypt(clear[i:i+512], data[luks.Overhead+i:luks.Overhead+i+512], uint64(i/512))
	}
	if clear[0x438] != 0x53 || clear[0x439] != 0xEF {
		t.Error("behind the recovery key there is no ext4")
	}

	// The disk alone, in another machine.
	other := s.with(false)
	other.Dir, other.TPM = t.TempDir(), newTPM(t, swtpm.P384)
	m, ctx = boot(t, other)
	waitFor(t, ctx, m, `gangway-init .*: The data partition does not open: this TPM does not give out the disk's key`)
	m.Stop()
	s.listed(t)

	// And back.
	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: the hub has taken a report`)
}

// data reads the beginning of the disk's data partition.
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
	if _, err := f.ReadAt(b, int64(i.ESPStart+i.ESPSize)*512); err != nil {
		t.Fatal(err)
	}
	return b
}

func cryptsetupOpens(t *testing.T, head []byte, passphrase string) {
	t.Helper()
	const program = "/usr/sbin/cryptsetup"
	if _, err := os.Stat(program); err != nil {
		t.Log("not tried with cryptsetup: apt-get install cryptsetup-bin")
		return
	}
	file := filepath.Join(t.TempDir(), "header")
	if err := os.WriteFile(file, append(bytes.Clone(head), make([]byte, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "luksDump", "--disable-locks", "--batch-mode", "--dump-volume-key", "--key-file", "-", file)
	cmd.Stdin = bytes.NewReader([]byte(passphrase))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("cryptsetup: %v: %s", err, out)
	}
}
