package luks

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var three = []byte("a third passphrase of many bytes")

// The test cuts the power at each write of a replacement in turn. Afterwards, either the old
// passphrase opens the header, which has the old LUKS2 token, or the new passphrase opens the
// header, which has the new token. The passphrase of the other key slot must always open the
// header. After a replacement without a power cut, the old key slot is erased, and a later
// replacement uses its area.
func TestPowerCutLeavesTheOldPassphraseOrTheNew(t *testing.T) {
	t.Parallel()
	head, key := format(t)
	const size = slotsBegin + 4*slotSize
	const written = slotSize/sector + 2*headerSize/sector // the rest erases the old key slot
	seen := map[string]bool{}
	for _, cut := range []int{0, 1, slotSize / sector, slotSize/sector + 1, written - headerSize/sector - 1, written - headerSize/sector, written - 1, written, written + 1, written + slotSize/sector} {
		d := &memory{b: bytes.Clone(head[:size]), step: sector, left: cut}
		err := ReplacePassphrase(d, key, 0, three, []string{"gangway-test"}, []map[string]any{{"type": "gangway-test", "blob": "new"}})
		state := ""
		for name, p := range map[string][]byte{"old": one, "new": three} {
			if k, err := Open(d, p); err == nil && bytes.Equal(k, key) {
				state += name
			}
		}
		tokens := strings.Join(blobs(t, d, "gangway-test"), "")
		if state == "new" && tokens != "new" || state == "old" && tokens != "" || state != "old" && state != "new" {
			t.Errorf("cut after %d steps: the passphrases %q open the header, which has the token %q; %v", cut, state, tokens, err)
		}
		seen[state] = true
		if k, err := Open(d, two); err != nil || !bytes.Equal(k, key) {
			t.Errorf("cut after %d steps: the other passphrase: %v", cut, err)
		}
	}
	if len(seen) != 2 {
		t.Errorf("the cuts left only %v", seen)
	}
	d := &memory{b: bytes.Clone(head[:size]), step: sector, left: -1}
	before := bytes.Clone(d.b[slotsBegin : slotsBegin+slotSize])
	for _, p := range [][]byte{three, one, three} {
		if err := ReplacePassphrase(d, key, 0, p, nil, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(d, p); err != nil {
			t.Error(err)
		}
	}
	if bytes.Equal(d.b[slotsBegin:slotsBegin+slotSize], before) {
		t.Error("the old key slot is not erased")
	}
	if _, err := Open(d, one); !errors.Is(err, ErrPassphrase) {
		t.Errorf("the old passphrase: %v", err)
	}
	if err := ReplacePassphrase(d, key, 5, three, nil, nil); err == nil {
		t.Error("a key slot that does not exist was replaced")
	}
	if err := ReplacePassphrase(d, key, 0, []byte("short"), nil, nil); err == nil {
		t.Error("a short passphrase was accepted")
	}
}

// cryptsetup opens a key slot whose passphrase was replaced.
func TestCryptsetupReadsAReplacedPassphrase(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("cryptsetup")
	if err != nil {
		t.Skip("cryptsetup is not installed: apt-get install cryptsetup-bin")
	}
	head, key := format(t)
	d := &memory{b: append(head, make([]byte, 1<<20)...), step: sector, left: -1}
	if err := ReplacePassphrase(d, key, 0, three, nil, nil); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, d.b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range [][]byte{two, three} {
		cmd := exec.CommandContext(t.Context(), program, "luksDump", "--disable-locks", "--batch-mode", "--dump-volume-key", "--key-file", "-", file)
		cmd.Stdin = bytes.NewReader(p)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("cryptsetup luksDump: %v: %.200s", err, out)
		}
		_, text, _ := strings.Cut(string(out), "MK dump:")
		if got := strings.Join(strings.Fields(text), ""); got != hex.EncodeToString(key) {
			t.Errorf("cryptsetup dumps the key %s", got)
		}
	}
}
