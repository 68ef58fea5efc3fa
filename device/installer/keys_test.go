package installer

import (
	"testing"

	"gangway/device/install"
	"gangway/device/install/seal"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"
)

// A system that its owner approved binds the disk's key itself at its first start. For such a
// system, the installer seals the key with seal.NewFirst; this seal then becomes worthless. Any
// other system keeps the installer's seal, so the installer makes a seal that systemd can use too.
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
