package luks

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
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

// If the first copy of the header is damaged, Open uses the second copy.
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

// The program cryptsetup can read a header that Format made. With the passphrase of each key slot,
// it gets the data key that Format returned.
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
		// With the passphrase, cryptsetup can print the data key, which it calls volume key. This
		// needs neither a block device nor the rights of root.
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

// memory is a Disk in memory whose power a test can cut. It writes `step` bytes at a time, and
// after `left` such steps every write fails.
type memory struct {
	b    []byte
	step int // bytes that the disk writes at once
	left int // number of steps until the power cut; negative: no power cut
}

var errPowerCut = errors.New("power cut")

func (m *memory) ReadAt(p []byte, at int64) (int, error) { return copy(p, m.b[at:]), nil }
func (m *memory) Sync() error                            { return nil }

func (m *memory) WriteAt(p []byte, at int64) (int, error) {
	for n := 0; n < len(p); n += m.step {
		if m.left == 0 {
			return n, errPowerCut
		}
		m.left--
		copy(m.b[int(at)+n:], p[n:min(n+m.step, len(p))])
	}
	return len(p), nil
}

func blobs(t *testing.T, r io.ReaderAt, kind string) (list []string) {
	t.Helper()
	tokens, err := Tokens(r, kind)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range tokens {
		var token struct {
			Blob     string
			Keyslots []string
		}
		if err := json.Unmarshal(raw, &token); err != nil || len(token.Keyslots) != 1 || token.Keyslots[0] != "0" {
			t.Fatalf("%s: %v", raw, err)
		}
		list = append(list, token.Blob)
	}
	return list
}

// If the power is cut at any write, the header has either the old or the new LUKS2 tokens, and each
// passphrase opens the disk. The next change succeeds.
func TestPowerCutLeavesTheOldTokensOrTheNew(t *testing.T) {
	t.Parallel()
	head, key := format(t)
	old := &memory{b: head[:slotsBegin+2*slotSize], step: sector, left: -1}
	first := []map[string]any{{"type": "gangway-tpm2", "blob": "a"}, {"type": "gangway-tpm2", "blob": "b"}}
	if err := SetTokens(old, 0, []string{"gangway-tpm2"}, first); err != nil {
		t.Fatal(err)
	}
	const steps = 2 * headerSize / sector
	seen := map[string]int{}
	for cut := range steps + 1 {
		d := &memory{b: bytes.Clone(old.b), step: sector, left: cut}
		err := SetTokens(d, 0, []string{"gangway-tpm2"}, []map[string]any{{"type": "gangway-tpm2", "blob": "c"}})
		if (err == nil) != (cut == steps) {
			t.Fatalf("cut after %d of %d steps: %v", cut, steps, err)
		}
		got := strings.Join(blobs(t, d, "gangway-tpm2"), "")
		seen[got]++
		if got != "ab" && got != "c" {
			t.Errorf("cut after %d steps: the tokens are %q", cut, got)
		}
		for _, p := range [][]byte{one, two} {
			if k, err := Open(d, p); err != nil || !bytes.Equal(k, key) {
				t.Errorf("cut after %d steps: %v", cut, err)
			}
		}
		// One copy of the header is damaged now. The test also cuts the power during the next
		// change.
		d.left = cut / 2
		_ = SetTokens(d, 0, []string{"gangway-tpm2"}, first) // fails if it is cut
		d.left = -1
		if err := SetTokens(d, 0, []string{"gangway-tpm2"}, first); err != nil || strings.Join(blobs(t, d, "gangway-tpm2"), "") != "ab" {
			t.Errorf("cut after %d and %d steps: the next change: %v", cut, cut/2, err)
		}
	}
	if seen["ab"] == 0 || seen["c"] == 0 {
		t.Errorf("the cuts left %v", seen)
	}
}

// cryptsetup reads a header whose LUKS2 tokens SetTokens has replaced. If cryptsetup has changed a
// header, SetTokens keeps the parts that cryptsetup wrote.
func TestCryptsetupReadsReplacedTokens(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("cryptsetup"); err != nil {
		t.Skip("cryptsetup is missing")
	}
	head, _ := format(t)
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, append(head, make([]byte, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(stdin string, args ...string) string {
		c := exec.CommandContext(t.Context(), "cryptsetup", args...)
		c.Stdin = strings.NewReader(stdin)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("cryptsetup %s: %v\n%.500s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("", "config", "--label", "my-disk", file)
	run(`{"type":"theirs","keyslots":[]}`, "token", "import", "--token-id", "5", file)
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := SetTokens(f, 0, []string{"systemd-tpm2", "gangway-tpm2"}, []map[string]any{{"type": "gangway-tpm2", "blob": "new"}}); err != nil {
		t.Fatal(err)
	}
	dump := run("", "luksDump", file)
	for _, want := range []string{"my-disk", "gangway-tpm2", "theirs"} {
		if !strings.Contains(dump, want) {
			t.Errorf("luksDump has no %q:\n%.2000s", want, dump)
		}
	}
	if strings.Contains(dump, "systemd-tpm2") {
		t.Errorf("the replaced token is there:\n%.2000s", dump)
	}
	run(string(two), "open", "--test-passphrase", "--key-file", "-", file)
}
