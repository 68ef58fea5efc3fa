package luks

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var one, two = []byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32))), []byte(strings.Repeat("recover", 5))

func format(t testing.TB) (head []byte, key Key) {
	t.Helper()
	head, key, err := Format([]Slot{{Passphrase: one, Token: map[string]any{"type": "systemd-tpm2", "tpm2-blob": "AA=="}}, {Passphrase: two}})
	if err != nil {
		t.Fatal(err)
	}
	return head, key
}

func TestOpensWithEachPassphraseAndNoOther(t *testing.T) {
	head, key := format(t)
	for _, p := range [][]byte{one, two} {
		got, err := Open(bytes.NewReader(head), p)
		if err != nil || !bytes.Equal(got, key) {
			t.Errorf("%s: %x, %v", p, got, err)
		}
	}
	if _, err := Open(bytes.NewReader(head), []byte("something else altogether")); !errors.Is(err, ErrPassphrase) {
		t.Errorf("another passphrase: %v", err)
	}
	token, err := Token(bytes.NewReader(head), "systemd-tpm2")
	var fields struct{ Keyslots []string }
	if err != nil || json.Unmarshal(token, &fields) != nil || len(fields.Keyslots) != 1 || fields.Keyslots[0] != "0" {
		t.Errorf("token %s, %v", token, err)
	}
}

func TestSecondHeaderStandsIn(t *testing.T) {
	head, key := format(t)
	clear(head[:headerSize])
	if got, err := Open(bytes.NewReader(head), one); err != nil || !bytes.Equal(got, key) {
		t.Errorf("%v", err)
	}
	head[headerSize+binarySize+5] ^= 1
	if _, err := Open(bytes.NewReader(head), one); err == nil {
		t.Error("a damaged header is believed")
	}
}

// cryptsetup reads what we make.
func TestCryptsetupReadsTheHeader(t *testing.T) {
	program, err := exec.LookPath("cryptsetup")
	if err != nil {
		program = "/usr/sbin/cryptsetup"
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("cryptsetup is not installed: apt-get install cryptsetup-bin")
	}
	head, key := format(t)
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, append(head, make([]byte, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "luksDump", "--disable-locks", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"0: luks2", "1: luks2", "cipher: aes-xts-plain64", "systemd-tpm2"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("cryptsetup does not say %q: %s", want, out)
		}
	}
	for _, p := range [][]byte{one, two} {
		// The volume's key, by the passphrase: needs no device, and no root.
		cmd := exec.Command(program, "luksDump", "--disable-locks", "--batch-mode", "--dump-volume-key", "--key-file", "-", file)
		cmd.Stdin = bytes.NewReader(p)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		_, text, _ := strings.Cut(string(out), "MK dump:")
		got := strings.Join(strings.Fields(text), "")
		if want := strings.ToLower(hexOf(key)); got != want {
			t.Errorf("cryptsetup has the key %s; want %s", got, want)
		}
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}
