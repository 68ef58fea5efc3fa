package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/internal/swtpm"
	"gangway/tcg"

	"github.com/google/go-tpm/tpm2"
)

func TestNoCertificateIsItsOwnError(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.None)
	_, err := Load(t.Context(), open(t, s), Options{})
	if !errors.Is(err, ErrNoEKCertificate) {
		t.Fatalf("error %v", err)
	}
	assertEmpty(t, s)
}

// TestEveryEKOpensCredentials: the TPM opens credentials with the EK of each template that the
// software TPM supports. The templates differ in the kind of authorisation that the EK requires.
func TestEveryEKOpensCredentials(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.None)
	for _, name := range []string{"", "L-1", "L-2", "H-1", "H-2", "H-3", "H-4", "H-6"} {
		tpm := open(t, s)
		id := load(t, tpm, Options{EK: name, AllowUnvouched: true})
		if name == "" && id.EKTemplate != "L-2" || name != "" && id.EKTemplate != name {
			t.Errorf("%q: template %s", name, id.EKTemplate)
		}
		secret := newSecret()
		blob, enc := credential(t, id.EK.Raw, id.IAKName, secret)
		got, err := id.ActivateCredential(blob, enc)
		if err != nil || !bytes.Equal(got, secret) {
			t.Errorf("%s: %v", id.EKTemplate, err)
		}
		// The TPM has flushed both keys, so ActivateCredential must make them again.
		if got, err = id.ActivateCredential(blob, enc); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("%s, again: %v", id.EKTemplate, err)
		}
		body, err := id.Request(info())
		if err != nil {
			t.Fatal(err)
		}
		// The request contains the EK instead of a certificate.
		if csr, err := tcg.ParseCSR(body); err != nil || !bytes.Equal(csr.EKCert, id.EK.Raw) {
			t.Errorf("request: %v", err)
		}
		if err := tpm.Close(); err != nil {
			t.Error(err)
		}
		assertEmpty(t, s)
	}
}

func TestEKThatTheMakerDidNotPersistIsMade(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.P384)
	want := load(t, open(t, s), Options{})
	if err := s.EvictHandle(0x81010016); err != nil {
		t.Fatal(err)
	}
	id := load(t, open(t, s), Options{})
	if id.EKTemplate != "H-3" || !bytes.Equal(id.EK.Raw, want.EK.Raw) {
		t.Error("another EK than the persistent one was")
	}
}

func TestUnknownTemplateAndAlgorithmAreNamed(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	if _, err := Load(t.Context(), open(t, s), Options{EK: "H-99"}); err == nil || !strings.Contains(err.Error(), "H-3") {
		t.Errorf("error %v", err)
	}
	if _, err := Load(t.Context(), open(t, s), Options{Algorithm: "DSA"}); err == nil || !strings.Contains(err.Error(), "P-256") {
		t.Errorf("error %v", err)
	}
	// The TPM has no certificate of that template.
	if _, err := Load(t.Context(), open(t, s), Options{EK: "H-3"}); !errors.Is(err, ErrNoEKCertificate) || !strings.Contains(err.Error(), "0x01C00002") {
		t.Errorf("error %v", err)
	}
	assertEmpty(t, s)
}

// authority is a TPM maker's CA for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string, above *authority) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key}
	if above == nil {
		above = a
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	parent := template
	if above.cert != nil {
		parent = above.cert
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, above.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// certify issues an EK certificate for a TPM key.
func (a *authority) certify(t *testing.T, p *tcg.Public) []byte {
	t.Helper()
	key, err := p.Key()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(8), Subject: pkix.Name{CommonName: "EK"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageKeyAgreement,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// The maker's chain is split across NV indices in the middle of a certificate, and is padded. Load
// returns the whole certificates.
func TestChainSplitOverIndicesAndPadded(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.None)
	plain := load(t, open(t, s), Options{EK: "H-2", AllowUnvouched: true})
	root := newAuthority(t, "root", nil)
	one := newAuthority(t, "one", root)
	two := newAuthority(t, "two", one)
	leaf := two.certify(t, plain.EK)
	plain.Close()
	chain := slices.Concat(two.cert.Raw, one.cert.Raw, bytes.Repeat([]byte{0xFF}, 40))
	cut := len(two.cert.Raw) + 100 // in the middle of the second certificate
	for index, data := range map[uint32][]byte{
		0x01C00014: slices.Concat(leaf, make([]byte, 900)),
		0x01C00100: chain[:cut],
		0x01C00101: chain[cut:],
	} {
		if err := s.WriteNV(index, data); err != nil {
			t.Fatal(err)
		}
	}
	tpm := open(t, s)
	id := load(t, tpm, Options{})
	if id.EKTemplate != "H-2" || !bytes.Equal(id.EKCertificate.Certificate.Raw, leaf) || len(id.Notes) != 0 {
		t.Fatalf("EK %s, notes %q", id.EKTemplate, id.Notes)
	}
	// The expected commands, in order: one GetCapability; for the certificate, one NV_ReadPublic
	// and two NV_Read; for the persistent handle, one ReadPublic; one CreatePrimary; for the chain,
	// two NV_ReadPublic and two NV_Read.
	if n := tpm.Stats().ByOperation[OpFindEK].Commands; n != 1+3+1+1+4 {
		t.Errorf("%d commands", n)
	}
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	opts.Roots.AddCert(root.cert)
	for _, der := range id.EKChain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		opts.Intermediates.AddCert(c)
	}
	if path, err := id.EKCertificate.Certificate.Verify(opts); err != nil || len(path[0]) != 4 {
		t.Errorf("chain: %v", err)
	}
}

func TestBrokenChainIsNotedAndDoesNotStop(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	one := newAuthority(t, "one", nil)
	if err := s.WriteNV(0x01C00100, slices.Concat(one.cert.Raw, []byte{0x30, 0x82, 9, 9, 1})); err != nil {
		t.Fatal(err)
	}
	id := load(t, open(t, s), Options{})
	if len(id.EKChain) != 1 || !bytes.Equal(id.EKChain[0], one.cert.Raw) || len(id.Notes) != 1 || !strings.Contains(id.Notes[0], "5 bytes") {
		t.Errorf("%d certificates, notes %q", len(id.EKChain), id.Notes)
	}
}

// If one of the NV indices that contain the chain is unreadable, readChain still reads the others.
func TestUnreadableIndexOfTheChainIsPassedOver(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	one, two := newAuthority(t, "one", nil), newAuthority(t, "two", nil)
	for index, data := range map[uint32][]byte{0x01C00100: one.cert.Raw, 0x01C00102: two.cert.Raw} {
		if err := s.WriteNV(index, data); err != nil {
			t.Fatal(err)
		}
	}
	// This NV index is readable only with a policy.
	if err := s.DefineNV(0x01C00101, []byte("locked"), tpm2.TPMANV{PPWrite: true, PolicyRead: true, NoDA: true, PlatformCreate: true}); err != nil {
		t.Fatal(err)
	}
	id := load(t, open(t, s), Options{})
	if len(id.EKChain) != 2 || !bytes.Equal(id.EKChain[1], two.cert.Raw) || len(id.Notes) != 1 || !strings.Contains(id.Notes[0], "0x01C00101") {
		t.Errorf("%d certificates, notes %q", len(id.EKChain), id.Notes)
	}
}

// If a certificate is for another key than the TPM's, Load uses the next certificate and adds a
// note.
func TestCertificateOfAnotherKeyIsPassedOver(t *testing.T) {
	t.Parallel()
	s, other := startTPM(t, swtpm.P384), newTPMOf(t, swtpm.P384)
	foreign := load(t, open(t, other), Options{})
	if err := s.WriteNV(0x01C00016, foreign.EKCertificate.Certificate.Raw); err != nil {
		t.Fatal(err)
	}
	id := load(t, open(t, s), Options{})
	if id.EKTemplate != "L-1" || len(id.Notes) != 1 || !strings.Contains(id.Notes[0], "H-3") {
		t.Errorf("EK %s, notes %q", id.EKTemplate, id.Notes)
	}
	// Now the L-1 index does not contain a certificate either, so no usable certificate is left.
	if err := s.WriteNV(0x01C00002, []byte("no certificate")); err != nil {
		t.Fatal(err)
	}
	_, err := Load(t.Context(), open(t, s), Options{})
	if !errors.Is(err, ErrEKMismatch) || !strings.Contains(err.Error(), "H-3") || !strings.Contains(err.Error(), "L-1") {
		t.Errorf("error %v", err)
	}
	id.Close()
	// AllowUnvouched accepts an EK whose certificate is for another key. Then the hub decides
	// whether to accept the device.
	id = load(t, open(t, s), Options{AllowUnvouched: true})
	if id.EKTemplate != "H-3" || id.EKCertificate == nil || id.EK.Is(id.EKCertificate.PublicKey) || len(id.Notes) != 2 {
		t.Errorf("EK %s, certificate %v, notes %q", id.EKTemplate, id.EKCertificate != nil, id.Notes)
	}
	id.Close()
	assertEmpty(t, s)
}

// TestStoredTemplateAndNonceReplaceTheDefault: if the TPM's maker stored a template and a nonce for
// L-2, this package makes the L-2 key from that template and nonce.
func TestStoredTemplateAndNonceReplaceTheDefault(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.None)
	defaults, err := ekTemplates("L-2")
	if err != nil {
		t.Fatal(err)
	}
	stored := defaults[0].Public
	stored.X, stored.Y = nil, nil
	stored.Attributes |= tcg.NoDA
	nonce := []byte("a nonce of its maker")
	for index, data := range map[uint32][]byte{tcg.ECCTemplateIndex: stored.Marshal(), tcg.ECCNonceIndex: nonce} {
		if err := s.WriteNV(index, data); err != nil {
			t.Fatal(err)
		}
	}
	plain := load(t, open(t, s), Options{EK: "L-2", AllowUnvouched: true})
	if !plain.EK.Attributes.Has(tcg.NoDA) {
		t.Error("the stored template was not used")
	}
	if got := plain.ek.template.Public.X; !bytes.Equal(got, slices.Concat(nonce, make([]byte, 32-len(nonce)))) || len(plain.ek.template.Public.Y) != 32 {
		t.Errorf("unique field %x, %x", got, plain.ek.template.Public.Y)
	}
	if !bytes.Equal(defaults[0].Public.X, make([]byte, 32)) {
		t.Error("the table of templates was changed")
	}
	if err := s.WriteNV(0x01C0000A, newAuthority(t, "maker", nil).certify(t, plain.EK)); err != nil {
		t.Fatal(err)
	}
	id := load(t, open(t, s), Options{})
	secret := newSecret()
	blob, enc := credential(t, id.EK.Raw, id.IAKName, secret)
	if got, err := id.ActivateCredential(blob, enc); err != nil || !bytes.Equal(got, secret) {
		t.Error(err)
	}
	// Without the nonce, the TPM makes another key from the same template.
	if err := s.DeleteNV(tcg.ECCNonceIndex); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(t.Context(), open(t, s), Options{}); !errors.Is(err, ErrEKMismatch) {
		t.Errorf("error %v", err)
	}
	if err := s.WriteNV(tcg.ECCNonceIndex, make([]byte, 33)); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(t.Context(), open(t, s), Options{}); !errors.Is(err, ErrEKMismatch) || !strings.Contains(err.Error(), "nonce") {
		t.Errorf("error %v", err)
	}
}

// TestEKThatAllowsPoliciesAlone: this package can use an EK that can only be authorised by a policy
// (policy B without userWithAuth). It refuses an EK whose policy is not in the EK profile.
func TestEKThatAllowsPoliciesAlone(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.None)
	high, err := ekTemplates("H-2")
	if err != nil {
		t.Fatal(err)
	}
	stored := high[0].Public
	stored.Attributes &^= tcg.UserWithAuth
	if err := s.WriteNV(tcg.ECCTemplateIndex, stored.Marshal()); err != nil {
		t.Fatal(err)
	}
	o := Options{EK: "L-2", AllowUnvouched: true}
	id := load(t, open(t, s), o)
	secret := newSecret()
	blob, enc := credential(t, id.EK.Raw, id.IAKName, secret)
	if got, err := id.ActivateCredential(blob, enc); err != nil || !bytes.Equal(got, secret) {
		t.Error(err)
	}
	if err := id.ReleaseAttestation(); err != nil {
		t.Error(err)
	}
	id.Close()
	stored.AuthPolicy = bytes.Repeat([]byte{7}, 32)
	if err := s.WriteNV(tcg.ECCTemplateIndex, stored.Marshal()); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(t.Context(), open(t, s), o); !errors.Is(err, errEKPolicy) {
		t.Errorf("error %v", err)
	}
	if err := s.WriteNV(tcg.ECCTemplateIndex, []byte("no template")); err != nil {
		t.Fatal(err)
	}
	// The stored template of L-2 is not valid. If Options.EK is empty, Load uses L-1. If Options.EK
	// names L-2, Load fails.
	id = load(t, open(t, s), Options{AllowUnvouched: true})
	if id.EKTemplate != "L-1" {
		t.Errorf("template %s", id.EKTemplate)
	}
	id.Close()
	assertEmpty(t, s)
}

// TestReadsNVWithWhateverItAllows: this package reads an EK certificate if only the owner
// hierarchy, or only the platform hierarchy, can read the certificate's NV index. It cannot read an
// NV index that allows only a policy.
func TestReadsNVWithWhateverItAllows(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		attr tpm2.TPMANV
		ok   bool
	}{
		{"owner", tpm2.TPMANV{OwnerRead: true}, true},
		{"platform", tpm2.TPMANV{PPRead: true}, true},
		{"policy", tpm2.TPMANV{PolicyRead: true}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := startTPM(t, swtpm.RSA2048)
			der := load(t, open(t, s), Options{}).EKCertificate.Certificate.Raw
			if err := s.DeleteNV(0x01C00002); err != nil {
				t.Fatal(err)
			}
			c.attr.PPWrite, c.attr.PlatformCreate, c.attr.NoDA = true, true, true
			if err := s.DefineNV(0x01C00002, der, c.attr); err != nil {
				t.Fatal(err)
			}
			_, err := Load(t.Context(), open(t, s), Options{})
			if (err == nil) != c.ok {
				t.Error(err)
			}
		})
	}
}

// TestSmallNVBuffer: this package reads EK certificates from a TPM that returns at most 512 bytes
// in one response.
func TestSmallNVBuffer(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	tpm := open(t, s)
	refused := 0
	spyOn(tpm).before = func(code uint32, cmd []byte) ([]byte, error) {
		if code == 0x14E && len(cmd) > 4 && int(cmd[len(cmd)-4])<<8|int(cmd[len(cmd)-3]) > 512 {
			refused++
			return refusal(tpm2.TPMRCValue + 0x140), nil // TPM_RC_VALUE for parameter 1, which is the size
		}
		return nil, nil
	}
	if _, err := Load(t.Context(), tpm, Options{}); err != nil {
		t.Error(err)
	}
	if refused == 0 || refused > 2 {
		t.Errorf("%d reads were refused", refused)
	}
}

// TestFewHandlesAtATime: if a TPM has many NV indices or a small buffer, it returns its list of
// handles in several responses. listHandles returns the handles from all of them.
func TestFewHandlesAtATime(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.P384)
	want, err := Load(t.Context(), open(t, s), Options{})
	if err != nil {
		t.Fatal(err)
	}
	tpm := open(t, s)
	parts := 0
	spyOn(tpm).before = func(code uint32, cmd []byte) ([]byte, error) {
		if code == uint32(tpm2.TPMCCGetCapability) && binary.BigEndian.Uint32(cmd[10:]) == uint32(tpm2.TPMCapHandles) {
			binary.BigEndian.PutUint32(cmd[18:], 1) // propertyCount
			parts++
		}
		return nil, nil
	}
	got, err := Load(t.Context(), tpm, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got.EKTemplate != want.EKTemplate || !bytes.Equal(got.EKCertificate.Certificate.Raw, want.EKCertificate.Certificate.Raw) || parts < 3 {
		t.Errorf("in %d parts: the EK is %s, not %s", parts, got.EKTemplate, want.EKTemplate)
	}
}
