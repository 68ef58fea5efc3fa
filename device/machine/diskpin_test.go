package machine

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gangway/device/install/diskkey"
	"gangway/device/install/luks"
	"gangway/device/install/seal"
)

// If the TPM does not release the disk's key, askKey does not try a PIN, and the recovery key opens
// the disk.
func TestRecoveryKeyOpensADiskWithAPIN(t *testing.T) {
	t.Parallel()
	recovery := strings.Repeat("cbdefghi-", 7) + "cbdefghi"
	head, want, err := luks.Format([]luks.Slot{{Passphrase: bytes.Repeat([]byte("a"), 44)}, {Passphrase: []byte(recovery)}})
	if err != nil {
		t.Fatal(err)
	}
	answers := []string{"", "246810", strings.Replace(recovery, "c", "d", 1), " " + strings.ToUpper(recovery)}
	var why []string
	got, err := askKey(nil, bytes.NewReader(head), func() ([]byte, error) { return nil, seal.ErrNotReleased }, func(w string) string {
		why = append(why, w)
		return answers[len(why)-1]
	})
	if err != nil || !bytes.Equal(got, want) {
		t.Fatal(err)
	}
	for i, part := range []string{"A PIN cannot open the disk now", "not a recovery key", "not a recovery key", "The recovery key does not open this disk."} {
		if !strings.Contains(why[i], part) {
			t.Errorf("question %d says %q; want %q", i, why[i], part)
		}
	}
}

// If an image was built without --disk-pin, SetPIN refuses to set a PIN, so that a passer-by cannot
// lock the owner out with one. A disk that is not encrypted has no PIN either.
func TestImageMustAllowThePIN(t *testing.T) {
	t.Parallel()
	head, _, err := luks.Format([]luks.Slot{{Passphrase: bytes.Repeat([]byte("a"), 44)}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		content []byte
		want    error
	}{"encrypted": {head, ErrPINNotAllowed}, "clear": {make([]byte, 4096), diskkey.ErrPINNeedsBinding}} {
		file := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(file, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := SetPIN(file, "", nil, false, "", "246810"); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
