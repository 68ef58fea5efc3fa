package identity

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"gangway/device/identity/tpmrc"
	"gangway/internal/swtpm"
	"gangway/tcg"

	"github.com/google/go-tpm/tpm2"
)

// If the TPM refuses the use of the keys, for example because a hierarchy is disabled, every
// operation fails with the code for that reason.
func TestSaysWhatKeepsTheKeysFromBeingUsed(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*swtpm.TPM) error
		auth  string
		code  string
	}{
		{"endorsement password", func(s *swtpm.TPM) error { return s.SetPassword(tpm2.TPMRHEndorsement, "theirs") }, "", tpmrc.CodeEndorsementAuth},
		{"another endorsement password", func(s *swtpm.TPM) error { return s.SetPassword(tpm2.TPMRHEndorsement, "theirs") }, "mine", tpmrc.CodeEndorsementAuthBad},
		{"endorsement hierarchy disabled", (*swtpm.TPM).DisableEndorsement, "", tpmrc.CodeEndorsementDisabled},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := startTPM(t, swtpm.P384)
			if err := s.EvictHandle(0x81010016); err != nil {
				t.Fatal(err)
			}
			if err := c.spoil(s); err != nil {
				t.Fatal(err)
			}
			tpm, o := open(t, s), Options{EndorsementAuth: []byte(c.auth), AllowUnvouched: true}
			for what, use := range map[string]func() error{
				"Load":       func() error { _, err := Load(t.Context(), tpm, o); return err },
				"LoadSigner": func() error { _, err := LoadSigner(t.Context(), tpm, o); return err },
				"LoadQuote":  func() error { _, err := LoadQuote(t.Context(), tpm, o, newSecret()); return err },
			} {
				err := use()
				var cause *tpmrc.Cause
				if !errors.As(err, &cause) || cause.Code != c.code {
					t.Errorf("%s: %v; %s was expected", what, err, c.code)
				}
			}
			assertEmpty(t, s)
			// Dictionary attack protection does not apply to the endorsement hierarchy, so the TPM
			// counts no wrong guess.
			if n, err := s.FailedTries(); n != 0 || err != nil {
				t.Errorf("the TPM counts %d guesses (%v)", n, err)
			}
		})
	}
}

// If the endorsement hierarchy has a password, all operations work, and no command to the TPM
// contains the password.
func TestEndorsementPasswordIsProvenAndNotSent(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	if err := s.SetPassword(tpm2.TPMRHEndorsement, "their endorsement password"); err != nil {
		t.Fatal(err)
	}
	tpm := open(t, s)
	spyOn(tpm).before = func(_ uint32, cmd []byte) ([]byte, error) {
		if bytes.Contains(cmd, []byte("their endorsement password")) {
			t.Error("the password goes to the TPM as it is")
		}
		return nil, nil
	}
	o := Options{EndorsementAuth: []byte("their endorsement password")}
	id := load(t, tpm, o)
	if _, err := id.Request(info()); err != nil {
		t.Error(err)
	}
	secret := newSecret()
	blob, enc := credential(t, id.EK.Raw, id.IAKName, secret)
	if got, err := id.ActivateCredential(blob, enc); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("the credential: %v", err)
	}
	handshake(t, id.Signer())
	if _, err := LoadQuote(t.Context(), tpm, o, secret); err != nil {
		t.Error(err)
	}
}

// After TPM2_ChangeEPS the TPM makes other keys, but its NV memory still has the certificate of
// the former EK.
func TestNewEndorsementSeedBesideTheOldCertificate(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	if err := s.ChangeEPS(); err != nil {
		t.Fatal(err)
	}
	tpm := open(t, s)
	if _, err := Load(t.Context(), tpm, Options{}); !errors.Is(err, ErrEKMismatch) {
		t.Errorf("%v", err)
	}
	// Without the option WithoutCertificate, the request has the new EK and the old certificate, so
	// that the hub sees both.
	id := load(t, tpm, Options{AllowUnvouched: true})
	if id.EKCertificate == nil || id.EK.Is(id.EKCertificate.PublicKey) || id.Omission != (tcg.Omission{}) {
		t.Errorf("certificate %v, omission %v", id.EKCertificate != nil, id.Omission)
	}
	id.Close()
	for range 2 { // each Load uses the same key
		id = load(t, tpm, Options{AllowUnvouched: true, WithoutCertificate: true})
		if id.EKCertificate != nil || id.EKTemplate != "L-2" || id.Omission != (tcg.Omission{Why: tcg.CertificateOfOtherKey, Index: 0x01C00002}) || len(id.Notes) != 1 {
			t.Errorf("EK %s, certificate %v, omission %q, notes %q", id.EKTemplate, id.EKCertificate != nil, id.Omission, id.Notes)
		}
		id.Close()
	}
}

// Even if WithoutCertificate is set, a certificate that matches the EK is in the request.
func TestCertificateThatFitsIsNotLeftOut(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	id := load(t, open(t, s), Options{AllowUnvouched: true, WithoutCertificate: true})
	if id.EKCertificate == nil || !id.EK.Is(id.EKCertificate.PublicKey) || id.Omission.Why != 0 {
		t.Errorf("certificate %v, omission %q", id.EKCertificate != nil, id.Omission)
	}
}

// The TPM has an EK certificate that this package cannot read. The request states this, so that the
// hub does not treat the certificate as missing.
func TestCertificateThatCannotBeReadIsNotOneThatIsMissing(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*swtpm.TPM) error
		want  tcg.OmissionReason
		note  string
	}{
		{"not a certificate", func(s *swtpm.TPM) error { return s.WriteNV(0x01C00002, []byte("no certificate at all")) }, tcg.CertificateMalformed, ""},
		{"cut off", func(s *swtpm.TPM) error { return s.WriteNV(0x01C00002, []byte{0x30, 0x82, 0x03, 0x00, 0x30}) }, tcg.CertificateMalformed, ""},
		{"read by policy only", func(s *swtpm.TPM) error {
			if err := s.DeleteNV(0x01C00002); err != nil {
				return err
			}
			return s.DefineNV(0x01C00002, []byte("x"), tpm2.TPMANV{PolicyRead: true, PPWrite: true, PlatformCreate: true, NoDA: true})
		}, tcg.CertificateUnreadable, "only with a policy"},
		{"by the owner, who has a password", func(s *swtpm.TPM) error {
			if err := s.DeleteNV(0x01C00002); err != nil {
				return err
			}
			if err := s.DefineNV(0x01C00002, []byte("x"), tpm2.TPMANV{OwnerRead: true, PPWrite: true, PlatformCreate: true, NoDA: true}); err != nil {
				return err
			}
			return s.SetPassword(tpm2.TPMRHOwner, "theirs")
		}, tcg.CertificateUnreadable, "owner hierarchy has a password"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := startTPM(t, swtpm.RSA2048)
			if err := c.spoil(s); err != nil {
				t.Fatal(err)
			}
			id := load(t, open(t, s), Options{AllowUnvouched: true})
			if id.EKCertificate != nil || id.Omission != (tcg.Omission{Why: c.want, Index: 0x01C00002}) || !strings.Contains(id.Omission.String(), "0x01C00002") {
				t.Errorf("certificate %v, omission %+v", id.EKCertificate != nil, id.Omission)
			}
			if len(id.Notes) != 1 || !strings.Contains(id.Notes[0], c.note) {
				t.Errorf("notes %q", id.Notes)
			}
		})
	}
}
