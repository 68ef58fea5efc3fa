package luks

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
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
	t.Parallel()
	head, key := format(t)
	for _, p := range [][]byte{one, two} {
		got, err := Open(bytes.NewReader(head), p)
		if err != nil || !bytes.Equal(got, key) {
			t.Errorf("passphrase %s: got the key %.8x..., %v; want %.8x...", p, got, err, key)
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
	t.Parallel()
	head, key := format(t)
	clear(head[:headerSize])
	if got, err := Open(bytes.NewReader(head), one); err != nil || !bytes.Equal(got, key) {
		t.Errorf("with the first header erased: %v", err)
	}
	head[headerSize+binarySize+5] ^= 1
	if _, err := Open(bytes.NewReader(head), one); err == nil {
		t.Error("a damaged header is accepted")
	}
}

// The program cryptsetup can read a header that Format made. It opens the header's key with the
// passphrase of each slot.
func TestCryptsetupReadsTheHeader(t *testing.T) {
	t.Parallel()
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
		t.Fatalf("cryptsetup luksDump: %v: %.200s", err, out)
	}
	for _, want := range []string{"0: luks2", "1: luks2", "cipher: aes-xts-plain64", "systemd-tpm2"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("cryptsetup does not print %q: %.500s", want, out)
		}
	}
	for _, p := range [][]byte{one, two} {
		// With the passphrase, cryptsetup can print the volume key. This needs no device and no
		// root.
		cmd := exec.Command(program, "luksDump", "--disable-locks", "--batch-mode", "--dump-volume-key", "--key-file", "-", file)
		cmd.Stdin = bytes.NewReader(p)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("cryptsetup luksDump: %v: %.200s", err, out)
		}
		_, text, _ := strings.Cut(string(out), "MK dump:")
		got := strings.Join(strings.Fields(text), "")
		if want := hex.EncodeToString(key); got != want {
			t.Errorf("cryptsetup dumps the key %s; want %s", got, want)
		}
	}
}
