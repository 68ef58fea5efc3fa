package evidence_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/evidence"
	"gangway/internal/fleet"
	"gangway/tcg"

	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// A genuine TPM is accepted even if its EK certificate has one of its maker's known mistakes. The
// verdict's notes name the mistake. The signature is checked over the original bytes.
func TestAcceptsAndNamesWhatMakersGotWrong(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	rsaDevice := must(fleet.New(s.maker, "L-1"))(t)
	wrap := func(der []byte) []byte {
		n := len(der) + 2
		return append([]byte{0x10, 0x01, 0x00, byte(n >> 8), byte(n), 0x10, 0x02}, der...)
	}
	pad := func(with byte) func([]byte) []byte {
		return func(der []byte) []byte { return append(bytes.Clone(der), bytes.Repeat([]byte{with}, 300)...) }
	}
	overlong := append([]byte{0x7F}, bytes.Repeat([]byte{0x11}, 24)...)
	for name, c := range map[string]struct {
		odd    fleet.Odd
		rsa    bool
		store  func([]byte) []byte // changes the certificate to the form that the TPM stores in NV
		quirks []string
	}{
		"flawless, ECC":              {},
		"flawless, RSA":              {rsa: true},
		"other names around":         {odd: fleet.Odd{OtherNames: true}},
		"id-RSAES-OAEP":              {odd: fleet.Odd{OAEP: true}, rsa: true, quirks: []string{tcg.QuirkOAEP}},
		"signed with SHA-1":          {odd: fleet.Odd{SHA1: true}, quirks: []string{tcg.QuirkSHA1}},
		"negative serial":            {odd: fleet.Odd{Serial: []byte{0x9A, 1, 2}}, quirks: []string{tcg.QuirkSerialNegative}},
		"serial of 25 bytes":         {odd: fleet.Odd{Serial: overlong}, quirks: []string{tcg.QuirkSerialLong}},
		"serial with leading zeros":  {odd: fleet.Odd{Serial: []byte{0, 0, 1, 2}}, quirks: []string{tcg.QuirkSerialPadded}},
		"serial with leading ones":   {odd: fleet.Odd{Serial: []byte{0xFF, 0xFF, 2}}, quirks: []string{tcg.QuirkSerialNegative, tcg.QuirkSerialPadded}},
		"serial zero":                {odd: fleet.Odd{Serial: []byte{0}}},
		"no key usage":               {odd: fleet.Odd{KeyUsage: []byte{}}, quirks: []string{tcg.QuirkNoKeyUsage}},
		"an ECC key's usage on RSA":  {odd: fleet.Odd{KeyUsage: []byte{3, 0x08}}, rsa: true, quirks: []string{tcg.QuirkKeyUsage}},
		"an RSA key's usage on ECC":  {odd: fleet.Odd{KeyUsage: []byte{5, 0x20}}, quirks: []string{tcg.QuirkKeyUsage}},
		"bits to spare in the usage": {odd: fleet.Odd{KeyUsage: []byte{0, 0x20}}, rsa: true, quirks: []string{tcg.QuirkBits}},
		"no EK usage":                {odd: fleet.Odd{NoEKUsage: true}, quirks: []string{tcg.QuirkNoEKUsage}},
		"no SAN":                     {odd: fleet.Odd{NoSAN: true}, quirks: []string{tcg.QuirkNoMaker}},
		"names in the subject":       {odd: fleet.Odd{NoSAN: true, Subject: true}, quirks: []string{tcg.QuirkNoMaker, tcg.QuirkSubject}},
		"SAN not critical":           {odd: fleet.Odd{Lax: true}, quirks: []string{tcg.QuirkNotCritical}},
		"PrintableString":            {odd: fleet.Odd{StringTag: casn1.PrintableString}, quirks: []string{tcg.QuirkStringType}},
		"TeletexString":              {odd: fleet.Odd{StringTag: casn1.T61String}, quirks: []string{tcg.QuirkStringType}},
		"BMPString":                  {odd: fleet.Odd{StringTag: casn1.Tag(30)}, quirks: []string{tcg.QuirkStringType}},
		"UniversalString":            {odd: fleet.Odd{StringTag: casn1.Tag(28)}, quirks: []string{tcg.QuirkStringType}},
		"one RDN, unsorted":          {odd: fleet.Odd{OneRDN: true}, quirks: []string{tcg.QuirkSetOrder}},
		"defaults written out":       {odd: fleet.Odd{Defaults: true}, quirks: []string{tcg.QuirkDefault}},
		"wrapped":                    {store: wrap, quirks: []string{tcg.QuirkWrapped}},
		"wrapped and padded":         {store: func(b []byte) []byte { return pad(0)(wrap(b)) }, quirks: []string{tcg.QuirkWrapped, tcg.QuirkPadded}},
		"padded with zeros":          {store: pad(0), quirks: []string{tcg.QuirkPadded}},
		"padded with ones":           {store: pad(0xFF), quirks: []string{tcg.QuirkPadded}},
		"Nuvoton's": {odd: fleet.Odd{OAEP: true, SHA1: true, KeyUsage: []byte{}, OneRDN: true, StringTag: casn1.PrintableString}, rsa: true, store: pad(0),
			quirks: []string{tcg.QuirkPadded, tcg.QuirkOAEP, tcg.QuirkStringType, tcg.QuirkSetOrder, tcg.QuirkSHA1, tcg.QuirkNoKeyUsage}},
	} {
		t.Run(name, func(t *testing.T) {
			d := s.victim
			if c.rsa {
				d = rsaDevice
			}
			der := must(s.maker.SignOdd(d.EK.Private.Public(), c.odd))(t)
			d.EKCert = der
			if c.store != nil {
				d.EKCert = c.store(der)
			}
			v := s.judge(s.request(t, d, fleet.RequestChange{}))
			if !v.Accepted() {
				t.Fatal(v.Refusal.Reason)
			}
			slices.Sort(v.Notes)
			slices.Sort(c.quirks)
			if !slices.Equal(v.Notes, c.quirks) {
				t.Errorf("notes %q, want %q", v.Notes, c.quirks)
			}
			want := "FAKE odd one id:00010000"
			if c.odd.NoSAN && !c.odd.Subject {
				want = "an unnamed maker"
			}
			if !strings.Contains(v.Checks[0].Detail, want) {
				t.Errorf("%q does not name the TPM: %s", v.Checks[0].Detail, want)
			}
			// A certificate with a known mistake is refused if its signature is not valid.
			e := must(tcg.ParseEKCertificate(d.EKCert))(t)
			e.Certificate.RawTBSCertificate = append(bytes.Clone(e.Certificate.RawTBSCertificate), 0)
			v = new(evidence.Verdict)
			if evidence.VerifyCertificate(v, e, nil, &evidence.Input{Trust: s.trust, Policy: lab(), Now: time.Now()}); v.Accepted() {
				t.Error("accepted although the signed bytes were altered")
			}
		})
	}
}

// A certificate with neither the EK usage nor a maker's name is not an EK certificate.
func TestRejectsCertificateThatIsNotSaidToBeAnEKs(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.attacker.EKCert = must(s.maker.SignOdd(s.attacker.EK.Private.Public(), fleet.Odd{NoSAN: true, NoEKUsage: true}))(t)
	s.refused(t, s.request(t, s.attacker, fleet.RequestChange{}), "ek-certificate-usage")
}

// STMicroelectronics wrote the name in its ECC root as PrintableString, but its intermediates have
// the same name as UTF8String in the issuer field. The chain is accepted.
func TestAcceptsChainWhoseNamesDifferInTheirStringTypes(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ca := func(name pkix.Name, raw []byte, parent *x509.Certificate, key, signer crypto.Signer) *x509.Certificate {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(5), Subject: name, RawSubject: raw, NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(1, 0, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		if parent == nil {
			parent = template
		}
		return must(fleet.Issue(template, parent, key.Public(), signer))(t)
	}
	key := func() crypto.Signer { return must(fleet.NewKey(tcg.IDevIDTemplates[1], nil))(t).Private }
	utf8 := func(text string) []byte {
		type attribute struct {
			ID    asn1.ObjectIdentifier
			Value string `asn1:"utf8"`
		}
		set := must(asn1.MarshalWithParams([]attribute{{asn1.ObjectIdentifier{2, 5, 4, 3}, text}}, "set"))(t)
		return must(asn1.Marshal([]asn1.RawValue{{FullBytes: set}}))(t)
	}
	rootKey, oneKey, twoKey := key(), key(), key()
	root := ca(pkix.Name{CommonName: "Root CA 01"}, nil, nil, rootKey, rootKey) // PrintableString
	aka := *root
	aka.RawSubject = utf8("Root CA 01")
	one := ca(pkix.Name{CommonName: "Intermediate"}, nil, &aka, oneKey, rootKey)
	aka = *one
	aka.RawSubject = utf8("Intermediate")
	two := ca(pkix.Name{}, utf8("Issuing"), &aka, twoKey, oneKey)
	aka = *two
	aka.RawSubject = must(asn1.Marshal(pkix.Name{CommonName: "Issuing"}.ToRDNSequence()))(t)
	template := must(fleet.EKTemplate(s.victim.EK.Private.Public()))(t)
	leaf := must(fleet.Issue(template, &aka, s.victim.EK.Private.Public(), twoKey))(t)
	if bytes.Equal(leaf.RawIssuer, two.RawSubject) || bytes.Equal(two.RawIssuer, one.RawSubject) || bytes.Equal(one.RawIssuer, root.RawSubject) {
		t.Fatal("the names are equal, so the test shows nothing")
	}
	s.victim.EKCert = leaf.Raw
	for name, c := range map[string]struct {
		known []*x509.Certificate
		sent  [][]byte
	}{
		"the hub has the intermediates": {known: []*x509.Certificate{one, two}},
		"the device brings them":        {sent: [][]byte{two.Raw, one.Raw}},
		"one of each":                   {known: []*x509.Certificate{two}, sent: [][]byte{one.Raw}},
	} {
		s.trust = must(evidence.NewTrust([]*x509.Certificate{root}, c.known))(t)
		s.victim.Chain = c.sent
		if v := s.judge(s.request(t, s.victim, fleet.RequestChange{})); !v.Accepted() {
			t.Errorf("%s: %s", name, v.Refusal.Reason)
		}
	}
	// The same name does not make a root trusted: a second root with the name of a trusted root is
	// refused.
	otherKey := key()
	other := ca(pkix.Name{CommonName: "Root CA 01"}, nil, nil, otherKey, otherKey)
	s.trust = must(evidence.NewTrust([]*x509.Certificate{other}, []*x509.Certificate{one, two}))(t)
	s.refused(t, s.request(t, s.victim, fleet.RequestChange{}), "ek-chain-untrusted")
}

// Two CAs may have the same name in two string types. An EK certificate is accepted if one of them
// signed it, in whichever string type it names its issuer, and refused if a CA that only uses the
// name signed it.
func TestIssuersWithOneNameInTwoStringTypes(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	type attribute struct {
		ID    asn1.ObjectIdentifier
		Value string `asn1:"utf8"`
	}
	set := must(asn1.MarshalWithParams([]attribute{{asn1.ObjectIdentifier{2, 5, 4, 3}, "Issuing"}}, "set"))(t)
	names := [][]byte{must(asn1.Marshal([]asn1.RawValue{{FullBytes: set}}))(t), must(asn1.Marshal(pkix.Name{CommonName: "Issuing"}.ToRDNSequence()))(t)}
	ca := func(name []byte) (*x509.Certificate, crypto.Signer) {
		key := must(fleet.NewKey(tcg.IDevIDTemplates[1], nil))(t).Private
		template := &x509.Certificate{
			SerialNumber: big.NewInt(5), RawSubject: name, NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(1, 0, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		return must(fleet.Issue(template, template, key.Public(), key))(t), key
	}
	var roots []*x509.Certificate
	var keys []crypto.Signer
	for _, name := range names {
		root, key := ca(name)
		roots, keys = append(roots, root), append(keys, key)
	}
	_, forger := ca(names[0])
	ek := must(fleet.EKTemplate(s.victim.EK.Private.Public()))(t)
	for _, known := range [][]*x509.Certificate{roots, {roots[1], roots[0]}} {
		s.trust = must(evidence.NewTrust(known, nil))(t)
		for i, name := range names {
			signedBy := func(key crypto.Signer) []byte {
				as := &x509.Certificate{RawSubject: name, PublicKey: key.Public()}
				return must(fleet.Issue(ek, as, s.victim.EK.Private.Public(), key))(t).Raw
			}
			for _, key := range keys {
				s.victim.EKCert = signedBy(key)
				if v := s.judge(s.request(t, s.victim, fleet.RequestChange{})); !v.Accepted() {
					t.Errorf("name %d: %s", i, v.Refusal.Reason)
				}
			}
			s.victim.EKCert = signedBy(forger)
			s.refused(t, s.request(t, s.victim, fleet.RequestChange{}), "ek-chain-untrusted")
		}
	}
}

// An issuer with a weak key is refused, because a weak key is not one of the tolerated mistakes.
func TestRejectsIssuerWithAnRSAKeyOf1024Bits(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skipf("this Go version does not make RSA keys of 1024 bits: %v", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: "weak"}, NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root := must(fleet.Issue(template, template, weak.Public(), weak))(t)
	s.trust = must(evidence.NewTrust([]*x509.Certificate{root}, nil))(t)
	ek := must(fleet.EKTemplate(s.victim.EK.Private.Public()))(t)
	s.victim.EKCert = must(fleet.Issue(ek, root, s.victim.EK.Private.Public(), weak))(t).Raw
	s.refused(t, s.request(t, s.victim, fleet.RequestChange{}), "ek-chain-untrusted")
}
