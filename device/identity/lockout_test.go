package identity

import (
	"bytes"
	"errors"
	"testing"

	"gangway/internal/swtpm"

	"github.com/google/go-tpm/tpm2"
)

// useAll uses each key as a device does: in onboarding, in a TLS handshake and for a quote.
func useAll(t *testing.T, s *swtpm.TPM, o Options) {
	t.Helper()
	tpm := open(t, s)
	defer tpm.Close()
	id := load(t, tpm, o)
	defer id.Close()
	if _, err := id.Request(info()); err != nil {
		t.Error(err)
	}
	secret := newSecret()
	blob, enc := credential(t, id.EK.Raw, id.IAKName, secret)
	if got, err := id.ActivateCredential(blob, enc); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("the credential: %v", err)
	}
	handshake(t, id.Signer())
	if _, err := LoadQuote(t.Context(), tpm, Options{Algorithm: o.Algorithm}, secret); err != nil {
		t.Error(err)
	}
}

var lockoutCases = []struct {
	name string
	ek   swtpm.EK
	o    Options
}{
	{"EK of the low range, P-256 keys", swtpm.RSA2048, Options{}},
	{"EK of the high range, P-384 keys", swtpm.P384, Options{Algorithm: P384}},
	{"RSA keys", swtpm.P384, Options{Algorithm: RSA2048}},
}

// If a program has used a key's password, a TPM counts the next power loss as a wrong guess. This
// package uses no key's password, so the TPM must not count any power loss.
func TestPowerCutsAreNotCountedAsGuesses(t *testing.T) {
	for _, c := range lockoutCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := startTPM(t, c.ek)
			for range 3 {
				useAll(t, s, c.o)
				if err := s.PowerCut(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if n, err := s.FailedTries(); n != 0 || err != nil {
				t.Errorf("the TPM counts %d guesses (%v)", n, err)
			}
		})
	}
}

// After a program has used a key's password, the TPM counts a power loss as a wrong guess. This
// shows that TestPowerCutsAreNotCountedAsGuesses would fail if this package used a key's password.
func TestTPMCountsAPowerCutAfterAPasswordAsAGuess(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	link, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	err = swtpm.Guess(link, swtpm.GuessedPassword)
	link.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PowerCut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := s.FailedTries(); n != 1 || err != nil {
		t.Errorf("the TPM counts %d guesses (%v)", n, err)
	}
}

// If other programs have caused a lockout of the TPM, this package can still use the device's keys,
// even if the device cannot lift the lockout.
func TestKeysWorkInLockout(t *testing.T) {
	for _, c := range lockoutCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := startTPM(t, c.ek)
			if err := s.SetPassword(tpm2.TPMRHLockout, "theirs"); err != nil {
				t.Fatal(err)
			}
			if err := s.EnterLockout(); err != nil {
				t.Fatal(err)
			}
			before, err := s.FailedTries()
			if err != nil {
				t.Fatal(err)
			}
			useAll(t, s, c.o)
			if n, err := s.FailedTries(); n != before || err != nil {
				t.Errorf("the TPM counts %d guesses, %d before (%v)", n, before, err)
			}
		})
	}
}

// indexWith changes the attributes of the NV index that contains the RSA EK's certificate.
func indexWith(t *testing.T, s *swtpm.TPM, attributes tpm2.TPMANV) {
	t.Helper()
	id := load(t, open(t, s), Options{})
	der := id.EKCertificate.Certificate.Raw
	if err := id.Close(); err != nil {
		t.Fatal(err)
	}
	attributes.PPWrite, attributes.PlatformCreate = true, true
	if err := s.DeleteNV(0x01C00002); err != nil {
		t.Fatal(err)
	}
	if err := s.DefineNV(0x01C00002, der, attributes); err != nil {
		t.Fatal(err)
	}
}

// The EK profile requires TPMA_NV_NO_DA for a certificate's NV index, but not all makers set it.
// Without this attribute, a use of the index's own password is subject to dictionary attack
// protection. So this package reads such an index with the authorisation of the owner hierarchy.
func TestCertificateIndexWithoutNoDAIsReadByTheOwner(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	indexWith(t, s, tpm2.TPMANV{AuthRead: true, OwnerRead: true})
	useAll(t, s, Options{})
	if err := s.PowerCut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := s.FailedTries(); n != 0 || err != nil {
		t.Errorf("the TPM counts %d guesses (%v)", n, err)
	}
}

// During a lockout, a certificate may be unreadable. Load must not treat it as missing.
func TestLockoutDoesNotPassForAMissingCertificate(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	indexWith(t, s, tpm2.TPMANV{AuthRead: true})
	if err := s.EnterLockout(); err != nil {
		t.Fatal(err)
	}
	_, err := Load(t.Context(), open(t, s), Options{AllowUnvouched: true})
	if !errors.Is(err, tpm2.TPMRCLockout) {
		t.Errorf("%v", err)
	}
}
