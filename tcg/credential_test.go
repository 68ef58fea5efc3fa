package tcg_test

import (
	"bytes"
	"testing"

	"gangway/internal/fleet"
	"gangway/tcg"
)

// For each EK template, an emulated TPM opens the credential that MakeCredential makes for one of
// its keys. It cannot open a credential for another object name. The emulated TPM uses go-tpm's key
// derivation, not this package's. The tests of the identity package and the end-to-end tests check
// the same with software TPMs.
func TestCredentialIsForOneEKAndOneName(t *testing.T) {
	t.Parallel()
	maker, err := fleet.NewMaker("m", fleet.MakerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ek := range []string{"L-1", "L-2", "H-1", "H-2", "H-3", "H-4", "H-6"} {
		d, err := fleet.New(maker, ek)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range [][]byte{nil, {1}, bytes.Repeat([]byte{7}, 15), bytes.Repeat([]byte{7}, 16), bytes.Repeat([]byte{7}, 32)} {
			blob, enc, err := tcg.MakeCredential(d.EK.Public, d.IAK.Name(), secret)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := d.ActivateCredential(blob, enc); err != nil || !bytes.Equal(got, secret) {
				t.Fatalf("%s: %x, %v", ek, got, err)
			}
			other, err := d.WithNewIdentity()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := other.ActivateCredential(blob, enc); err == nil {
				t.Fatalf("%s: opened for another name", ek)
			}
		}
		if _, _, err := tcg.MakeCredential(d.EK.Public, d.IAK.Name(), make([]byte, 65)); err == nil {
			t.Errorf("%s: a secret that is too long was accepted", ek)
		}
	}
}
