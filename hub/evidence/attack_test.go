package evidence_test

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/evidence"
	"gangway/internal/fleet"
	"gangway/tcg"
	"gangway/wire"
)

// scene has the parties of most attack tests: a trusted maker, two genuine devices of that maker
// (victim and attacker), and a join token.
type scene struct {
	maker    *fleet.Maker
	trust    *evidence.Trust
	victim   *fleet.Device
	attacker *fleet.Device
	token    *wire.TokenFile
}

// goodMaker returns the maker that all scenes share. Its RSA keys are made only once, because this
// takes most of the tests' time. Tests must not change the maker.
var goodMaker = sync.OnceValues(func() (*fleet.Maker, error) { return fleet.NewMaker("good", fleet.MakerOptions{}) })

func newScene(t testing.TB) *scene {
	t.Helper()
	s := &scene{maker: must(goodMaker())(t)}
	s.trust = must(evidence.NewTrust(s.maker.Roots(), s.maker.Intermediates()))(t)
	s.victim = must(fleet.New(s.maker, "H-2"))(t)
	s.attacker = must(fleet.New(s.maker, "H-2"))(t)
	s.token = aToken()
	return s
}

func aToken() *wire.TokenFile {
	return &wire.TokenFile{
		ID: wire.NewID(), Owner: wire.AccountPRN + wire.NewID(), HubName: strings.Repeat("ab", 32),
		Token: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// judge parses and verifies a request as the hub does.
func (s *scene) judge(body []byte) *evidence.Verdict {
	v := new(evidence.Verdict)
	r, err := evidence.Parse(body)
	if err != nil {
		v.Fail("request", err.(*evidence.Refusal))
		return v
	}
	evidence.Verify(v, r, &evidence.Input{Trust: s.trust, Policy: lab(), Now: time.Now()})
	return v
}

// lab is a policy that accepts emulated TPMs, and leaves no decision to a person.
func lab() evidence.Policy {
	p := evidence.DefaultPolicy()
	p.UnknownMaker, p.NoCertificate = evidence.Refuse, evidence.Refuse
	p.Software = []string{"FAKE"}
	return p
}

func (s *scene) refused(t *testing.T, body []byte, code string) {
	t.Helper()
	v := s.judge(body)
	if v.Accepted() {
		t.Fatalf("accepted; %q was expected", code)
	}
	if v.Refusal.Code != code {
		t.Fatalf("refused with %q (%s); %q was expected", v.Refusal.Code, v.Refusal.Reason, code)
	}
	if v.Refusal.Reason == "" || v.Refusal.Hint == "" {
		t.Fatalf("%q has no reason or no hint", code)
	}
}

func (s *scene) request(t testing.TB, d *fleet.Device, change fleet.RequestChange) []byte {
	t.Helper()
	return must(d.Request(s.token, change))(t)
}

func TestAcceptsAGoodRequest(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for _, ek := range []string{"L-1", "L-2", "H-1", "H-2", "H-3", "H-4"} {
		d := must(fleet.New(s.maker, ek))(t)
		v := s.judge(s.request(t, d, fleet.RequestChange{}))
		if !v.Accepted() {
			t.Errorf("EK %s: %s", ek, v.Refusal.Reason)
		}
		if len(v.Checks) != 10 {
			t.Errorf("EK %s: %d checks", ek, len(v.Checks))
		}
		for _, step := range v.Checks {
			// These two checks are skipped, because the test has no EK list and no policy rules.
			idle := step.Check == "ek-list" || step.Check == "policy"
			if step.OK == idle || step.Skipped != idle || !strings.HasSuffix(step.Detail, ".") {
				t.Errorf("check %+v neither passed nor was skipped, or its detail is not a sentence", step)
			}
		}
	}
}

func TestAcceptsEveryIdentityTemplate(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for i := range tcg.IAKTemplates {
		d := must(fleet.New(s.maker, "H-2"))(t)
		d.IAK = must(fleet.NewKey(tcg.IAKTemplates[i], nil))(t)
		d.IDevID = must(fleet.NewKey(tcg.IDevIDTemplates[i], nil))(t)
		if v := s.judge(s.request(t, d, fleet.RequestChange{})); !v.Accepted() {
			t.Errorf("%s: %s", tcg.IAKTemplates[i].Name, v.Refusal.Reason)
		}
	}
}

// The EK's point is not decoded if the EK certificate has the same point. A certificate of another
// key, or an unreadable one, must not make a point acceptable that is not on the curve.
func TestRejectsEKOffItsCurveWithAnyCertificate(t *testing.T) {
	t.Parallel()
	for _, ek := range []string{"H-2", "H-3", "H-4"} {
		s := newScene(t)
		d := must(fleet.New(s.maker, ek))(t)
		good := s.request(t, d, fleet.RequestChange{})
		if v := s.judge(good); !v.Accepted() {
			t.Fatal(ek, v.Refusal.Reason)
		}
		off := fleet.RequestChange{CAData: func(c *wire.CAData) {
			c.EKPublic = bytes.Clone(c.EKPublic)
			c.EKPublic[len(c.EKPublic)-1] ^= 1 // the last byte of Y
		}}
		s.refused(t, s.request(t, d, off), "ek-malformed")
		d.EKCert = s.victim.EKCert
		s.refused(t, s.request(t, d, off), "ek-malformed")
		d.EKCert = []byte("no certificate")
		s.refused(t, s.request(t, d, off), "ek-malformed")
		s.refused(t, s.request(t, d, fleet.RequestChange{}), "ek-certificate-malformed")
	}
}

func TestRejectsEKCertificateOfAnotherTPM(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.attacker.EKCert = s.victim.EKCert
	s.refused(t, s.request(t, s.attacker, fleet.RequestChange{}), "ek-key-mismatch")
}

func TestRejectsIAKOfASoftwareKey(t *testing.T) {
	t.Parallel()
	// The attacker sends a software key as the IAK, without the attribute sensitiveDataOrigin.
	s := newScene(t)
	s.attacker.IAK = must(fleet.NewKey(tcg.IAKTemplates[1], func(p *tcg.Public) { p.Attributes &^= tcg.SensitiveDataOrigin }))(t)
	s.refused(t, s.request(t, s.attacker, fleet.RequestChange{}), "iak-not-tpm-made")
	// An attacker can also give a software key the attributes of a TPM's key. The attacker then
	// cannot open the hub's reply: see TestStrangerWithTheVictimsEKCertificate in package hub/api.
}

func TestRejectsIAKNotRestricted(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.attacker.IAK = must(fleet.NewKey(tcg.IAKTemplates[1], func(p *tcg.Public) { p.Attributes &^= tcg.Restricted }))(t)
	s.refused(t, s.request(t, s.attacker, fleet.RequestChange{}), "iak-not-restricted")
}

func TestRejectsIAKNotFixedTPM(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.attacker.IAK = must(fleet.NewKey(tcg.IAKTemplates[1], func(p *tcg.Public) { p.Attributes &^= tcg.FixedTPM }))(t)
	s.refused(t, s.request(t, s.attacker, fleet.RequestChange{}), "iak-not-fixed-tpm")
}

func TestRejectsKeyAttributes(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	clear := func(a tcg.Attributes) func(*tcg.Public) { return func(p *tcg.Public) { p.Attributes &^= a } }
	set := func(a tcg.Attributes) func(*tcg.Public) { return func(p *tcg.Public) { p.Attributes |= a } }
	for _, c := range []struct {
		code   string
		iak    bool
		change func(*tcg.Public)
	}{
		{"iak-not-fixed-parent", true, clear(tcg.FixedParent)},
		{"iak-not-signing", true, clear(tcg.SignEncrypt)},
		{"iak-decrypts", true, set(tcg.Decrypt)},
		{"iak-template", true, clear(tcg.AdminWithPolicy)},
		{"iak-template", true, set(tcg.NoDA)},
		{"iak-template", true, func(p *tcg.Public) { p.AuthPolicy = make([]byte, 32) }},
		{"idevid-not-fixed-tpm", false, clear(tcg.FixedTPM)},
		{"idevid-not-fixed-parent", false, clear(tcg.FixedParent)},
		{"idevid-not-tpm-made", false, clear(tcg.SensitiveDataOrigin)},
		{"idevid-not-signing", false, clear(tcg.SignEncrypt)},
		{"idevid-restricted", false, set(tcg.Restricted)},
		{"idevid-decrypts", false, set(tcg.Decrypt)},
		{"idevid-template", false, func(p *tcg.Public) { p.AuthPolicy = nil }},
	} {
		d := must(fleet.New(s.maker, "H-2"))(t)
		if c.iak {
			d.IAK = must(fleet.NewKey(tcg.IAKTemplates[1], c.change))(t)
		} else {
			d.IDevID = must(fleet.NewKey(tcg.IDevIDTemplates[1], c.change))(t)
		}
		t.Run(c.code, func(t *testing.T) { s.refused(t, s.request(t, d, fleet.RequestChange{}), c.code) })
	}
}

func TestRejectsEKThatIsNoStorageKey(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.attacker.EK.Public.Attributes = s.attacker.EK.Public.Attributes&^tcg.Decrypt | tcg.SignEncrypt
	s.attacker.EK.Public.Raw = s.attacker.EK.Public.Marshal()
	s.refused(t, s.request(t, s.attacker, fleet.RequestChange{}), "ek-template")
}

func TestRejectsIDevIDCertifiedByAnotherTPMsIAK(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	// The victim's IAK certified the attacker's key. The request has the attacker's IAK, which did
	// not sign that certification.
	body := s.request(t, s.attacker, fleet.RequestChange{
		Attest:  func([]byte) []byte { return fleet.Attest(s.victim.IAK.Name(), s.attacker.IDevID.Name()) },
		Certify: func(a []byte) []byte { return must(s.victim.IAK.Sign(a))(t) },
	})
	s.refused(t, body, "certify-signature")
	// Here the attacker's own IAK signs the attestation, so the signature is valid. But the
	// attestation names the victim's IAK as the signer.
	body = s.request(t, s.attacker, fleet.RequestChange{
		Attest: func([]byte) []byte { return fleet.Attest(s.victim.IAK.Name(), s.attacker.IDevID.Name()) },
	})
	s.refused(t, body, "certify-hierarchy")
}

func TestRejectsCertifyOfOneKeyWithAnothersPublic(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	body := s.request(t, s.attacker, fleet.RequestChange{
		Attest: func([]byte) []byte { return fleet.Attest(s.attacker.IAK.Name(), s.victim.IDevID.Name()) },
	})
	s.refused(t, body, "certify-name")
}

func TestRejectsCertifyWithWrongMagic(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	body := s.request(t, s.attacker, fleet.RequestChange{Attest: func(a []byte) []byte {
		binary.BigEndian.PutUint32(a, 0xFF544348)
		return a
	}})
	s.refused(t, body, "certify-magic")
}

func TestRejectsCertifyOfWrongType(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for _, typ := range []tcg.AttestType{tcg.AttestQuote, 0x8014, 0x8019, 0x801A, 0} {
		body := s.request(t, s.attacker, fleet.RequestChange{Attest: func(a []byte) []byte {
			binary.BigEndian.PutUint16(a[4:], uint16(typ))
			return a
		}})
		s.refused(t, body, "certify-type")
	}
}

func TestRejectsCertifySignedByTheIDevIDItself(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	body := s.request(t, s.attacker, fleet.RequestChange{
		Certify: func(a []byte) []byte { return must(s.attacker.IDevID.Sign(a))(t) },
	})
	s.refused(t, body, "certify-signature")
}

func TestRejectsNameThatDiffersFromTheOneComputed(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	body := s.request(t, s.attacker, fleet.RequestChange{Attest: func(a []byte) []byte {
		i := bytes.Index(a, s.attacker.IDevID.Name())
		a[i+5] ^= 1
		return a
	}})
	s.refused(t, body, "certify-name")
}

func TestRejectsIDevIDOutsideTheEndorsementHierarchy(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	body := s.request(t, s.attacker, fleet.RequestChange{Attest: func(a []byte) []byte {
		a[len(a)-1] ^= 1 // the last byte of the qualified name
		return a
	}})
	s.refused(t, body, "certify-hierarchy")
}

func TestRejectsEKChainToAnUntrustedRoot(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	evil := must(fleet.NewMaker("good", fleet.MakerOptions{}))(t) // the same names
	d := must(fleet.New(evil, "H-2"))(t)
	s.refused(t, s.request(t, d, fleet.RequestChange{}), "ek-chain-untrusted")
	// The attacker's device sends its maker's root. The hub does not trust that root.
	d.Chain = [][]byte{evil.Intermediate.Raw, evil.Root.Raw}
	s.refused(t, s.request(t, d, fleet.RequestChange{}), "ek-chain-untrusted")
}

func TestRejectsExpiredIntermediate(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	old := must(fleet.NewMaker("old", fleet.MakerOptions{IntermediateExpires: time.Now().Add(-time.Hour)}))(t)
	s.trust = must(evidence.NewTrust(old.Roots(), old.Intermediates()))(t)
	d := must(fleet.New(old, "H-2"))(t)
	s.refused(t, s.request(t, d, fleet.RequestChange{}), "ek-chain-expired")
	// The hub also refuses the device if only the device has the expired certificate.
	s.trust = must(evidence.NewTrust(old.Roots(), nil))(t)
	d.Chain = [][]byte{old.Intermediate.Raw}
	s.refused(t, s.request(t, d, fleet.RequestChange{}), "ek-chain-expired")
}

// A cached verification result is not used after a certificate of the chain has expired.
func TestRejectsIntermediateThatExpiredSinceItWasVerified(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	soon := time.Now().Add(time.Hour)
	m := must(fleet.NewMaker("soon", fleet.MakerOptions{IntermediateExpires: soon}))(t)
	s.trust = must(evidence.NewTrust(m.Roots(), m.Intermediates()))(t)
	r, err := evidence.Parse(s.request(t, must(fleet.New(m, "H-2"))(t), fleet.RequestChange{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		at   time.Time
		code string
	}{{time.Now(), ""}, {soon.Add(time.Minute), "ek-chain-expired"}, {time.Now(), ""}} {
		v := new(evidence.Verdict)
		evidence.Verify(v, r, &evidence.Input{Trust: s.trust, Policy: lab(), Now: c.at})
		got := ""
		if v.Refusal != nil {
			got = v.Refusal.Code
		}
		if got != c.code {
			t.Errorf("at %s: %q, want %q", c.at, got, c.code)
		}
	}
}

func TestAcceptsTheChainInTheChip(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.trust = must(evidence.NewTrust(s.maker.Roots(), nil))(t)
	s.refused(t, s.request(t, s.victim, fleet.RequestChange{}), "ek-chain-untrusted")
	s.victim.Chain = [][]byte{s.maker.Intermediate.Raw}
	for range 2 { // verified, then cached
		if v := s.judge(s.request(t, s.victim, fleet.RequestChange{})); !v.Accepted() {
			t.Fatal(v.Refusal.Reason)
		}
	}
}

func TestRejectsCACertificateAsEKCertificate(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	template := must(fleet.EKTemplate(s.attacker.EK.Private.Public()))(t)
	template.IsCA = true
	template.KeyUsage = x509.KeyUsageCertSign
	s.attacker.EKCert = must(s.maker.Sign(template, s.attacker.EK.Private.Public()))(t).Raw
	s.refused(t, s.request(t, s.attacker, fleet.RequestChange{}), "ek-certificate-is-ca")
}

func TestRejectsCertificateForAnotherPurpose(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	template := must(fleet.EKTemplate(s.attacker.EK.Private.Public()))(t)
	template.UnknownExtKeyUsage = nil
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	s.attacker.EKCert = must(s.maker.Sign(template, s.attacker.EK.Private.Public()))(t).Raw
	s.refused(t, s.request(t, s.attacker, fleet.RequestChange{}), "ek-certificate-usage")
}

func TestRejectsLeafSignedByAnotherLeaf(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	// The victim's EK signs the attacker's EK certificate. The victim's EK certificate is genuine
	// and chains to the root, but is not a CA certificate.
	victim := must(x509.ParseCertificate(s.victim.EKCert))(t)
	subject := must(fleet.EKTemplate(s.victim.EK.Private.Public()))(t)
	subject.Subject.CommonName = "victim"
	named := must(s.maker.Sign(subject, s.victim.EK.Private.Public()))(t)
	for _, parent := range []*x509.Certificate{victim, named} {
		template := must(fleet.EKTemplate(s.attacker.EK.Private.Public()))(t)
		forged := must(fleet.Issue(template, parent, s.attacker.EK.Private.Public(), s.victim.EK.Private))(t)
		s.attacker.EKCert = forged.Raw
		s.attacker.Chain = [][]byte{parent.Raw, s.maker.Intermediate.Raw}
		s.refused(t, s.request(t, s.attacker, fleet.RequestChange{}), "ek-chain-untrusted")
	}
}

func TestRejectsPathLongerThanItsConstraint(t *testing.T) {
	t.Parallel()
	// A maker's CA with pathLen 0 issues a sub-CA, which issues the attacker's EK certificate.
	key := must(fleet.NewKey(tcg.IDevIDTemplates[1], nil))(t)
	sub := must(fleet.NewKey(tcg.IDevIDTemplates[1], nil))(t)
	caCert := func(cn string, zero bool) *x509.Certificate {
		template := must(fleet.EKTemplate(key.Private.Public()))(t)
		template.UnknownExtKeyUsage, template.ExtraExtensions = nil, nil
		template.IsCA, template.MaxPathLenZero, template.Subject.CommonName = true, zero, cn
		template.KeyUsage = x509.KeyUsageCertSign
		return template
	}
	root := caCert("root", true)
	rootCert := must(fleet.Issue(root, root, key.Private.Public(), key.Private))(t)
	subCert := must(fleet.Issue(caCert("sub", false), rootCert, sub.Private.Public(), key.Private))(t)
	s := newScene(t)
	s.trust = must(evidence.NewTrust([]*x509.Certificate{rootCert}, []*x509.Certificate{subCert}))(t)
	template := must(fleet.EKTemplate(s.attacker.EK.Private.Public()))(t)
	s.attacker.EKCert = must(fleet.Issue(template, subCert, s.attacker.EK.Private.Public(), sub.Private))(t).Raw
	s.refused(t, s.request(t, s.attacker, fleet.RequestChange{}), "ek-chain-untrusted")
	// With pathLen 0, the root itself may issue EK certificates.
	s.attacker.EKCert = must(fleet.Issue(template, rootCert, s.attacker.EK.Private.Public(), key.Private))(t).Raw
	if v := s.judge(s.request(t, s.attacker, fleet.RequestChange{})); !v.Accepted() {
		t.Fatal(v.Refusal.Reason)
	}
}

func TestRejectsAlteredCSRHash(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	body := s.request(t, s.attacker, fleet.RequestChange{})
	body[12+12] ^= 1 // the first byte of the contents' hash
	s.refused(t, body, "csr-hash")
}

func TestRejectsAlteredCSRSignature(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	body := s.request(t, s.attacker, fleet.RequestChange{})
	body[len(body)-1] ^= 1
	s.refused(t, body, "csr-signature")
	body = s.request(t, s.attacker, fleet.RequestChange{
		Sign: func(c []byte) []byte { return must(s.attacker.IAK.Sign(c))(t) },
	})
	s.refused(t, body, "csr-signature")
}

// The signature covers all contents, so no field can be replaced, not even by a valid one.
func TestRejectsFieldExchangedAfterSigning(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	good := must(tcg.ParseCSR(s.request(t, s.victim, fleet.RequestChange{})))(t)
	altered := *good
	altered.ProdSerial = []byte("0")
	body := must(altered.Encode(tcg.AlgSHA256, func([]byte) ([]byte, error) { return good.Signature, nil }))(t)
	s.refused(t, body, "csr-signature")
}

// The policy says whether the hub accepts an expired EK certificate.
func TestExpiredEKCertificateIsAPolicy(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	template := must(fleet.EKTemplate(s.victim.EK.Private.Public()))(t)
	template.NotAfter = time.Now().Add(-time.Hour)
	s.victim.EKCert = must(s.maker.Sign(template, s.victim.EK.Private.Public()))(t).Raw
	r := must(evidence.Parse(s.request(t, s.victim, fleet.RequestChange{})))(t)
	v := new(evidence.Verdict)
	evidence.Verify(v, r, &evidence.Input{Trust: s.trust, Policy: lab(), Now: time.Now()})
	if !v.Accepted() || !slices.ContainsFunc(v.Notes, func(n string) bool { return strings.Contains(n, "expired") }) {
		t.Errorf("default: refusal %v, notes %q", v.Refusal, v.Notes)
	}
	v = new(evidence.Verdict)
	strict := lab()
	strict.ExpiredEK = evidence.Refuse
	evidence.Verify(v, r, &evidence.Input{Trust: s.trust, Policy: strict, Now: time.Now()})
	if v.Accepted() || v.Refusal.Code != "ek-certificate-expired" {
		t.Errorf("strict: %v", v.Refusal)
	}
}

// None of 10,000 mutations of a valid request is accepted. A mutation flips bits, replaces, removes
// or doubles bytes, or cuts off the end.
func TestRejectsMutations(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	good := s.request(t, s.victim, fleet.RequestChange{})
	if v := s.judge(good); !v.Accepted() {
		t.Fatal(v.Refusal.Reason)
	}
	for i, body := range fleet.Mutations(good, 10000, 1) {
		if s.judge(body).Accepted() {
			t.Fatalf("mutation %d was accepted", i)
		}
	}
}

func FuzzParse(f *testing.F) {
	s := newScene(f)
	f.Add(s.request(f, s.victim, fleet.RequestChange{}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := evidence.Parse(body)
		if err != nil {
			if _, ok := err.(*evidence.Refusal); !ok {
				t.Fatalf("the error is not a refusal: %v", err)
			}
			return
		}
		evidence.Verify(new(evidence.Verdict), r, &evidence.Input{Trust: s.trust, Policy: lab(), Now: time.Now()})
	})
}
