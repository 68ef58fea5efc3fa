package installer

import (
	"testing"

	"gangway/device/install"
	"gangway/device/install/seal"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"
)

// A system that its owner approved binds the disk's key at its first start, and this makes the
// installer's seal worthless. For such a system, the installer seals the key with seal.NewFirst.
// For every other system, it makes a seal that systemd can use too, because that seal stays.
func TestKeySealedByTheInstallerEndsOnlyIfTheSystemBindsIt(t *testing.T) {
	t.Parallel()
	tpm, err := swtpmtest.Start(t, swtpm.Options{EK: swtpm.None}).Open()
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	for approved, want := range map[bool]string{true: seal.FirstType, false: seal.TokenType} {
		k, err := newKeys(tpm, &install.Manifest{Approved: approved})
		if err != nil {
			t.Fatal(err)
		}
		if k.Token["type"] != want || len(k.Passphrase) == 0 || len(k.Recovery) != 71 || k.Escrow != nil {
			t.Errorf("approved %v: %+v; want a token of the type %s", approved, k, want)
		}
	}
}
