// Package fleet emulates thousands of TPMs in software, for load tests and for tests of attacks
// that cannot be made with a real TPM.
//
// A hub in production must not trust these TPMs. Their certificates identify them: the maker's name
// is "FAKE", and the model is "software emulation". A hub trusts the maker's root only if a test or
// a benchmark adds it. The only programs that import this package are the benchmark
// (internal/bench) and gangway-fleet; internal/walls forbids the import in all others.
package fleet

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"

	"gangway/tcg"
)

// Maker is the CA of a TPM maker: a root and an intermediate CA, with RSA 2048 keys as most makers
// have.
type Maker struct {
	Root         *x509.Certificate
	Intermediate *x509.Certificate
	rootKey      crypto.Signer
	key          crypto.Signer
}

// MakerOptions alters a maker's certificates. The zero value alters nothing.
type MakerOptions struct {
	// IntermediateExpires is the time at which the intermediate certificate expires; zero means in
	// ten years.
	IntermediateExpires time.Time
}

// NewMaker makes the CA of a TPM maker with the given name.
func NewMaker(name string, o MakerOptions) (*Maker, error) {
	rootKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	m := &Maker{rootKey: rootKey, key: key}
	now := time.Now()
	root := caTemplate(name+" FAKE TPM root CA", now.AddDate(20, 0, 0))
	if m.Root, err = Issue(root, root, rootKey.Public(), rootKey); err != nil {
		return nil, err
	}
	until := o.IntermediateExpires
	if until.IsZero() {
		until = now.AddDate(10, 0, 0)
	}
	if m.Intermediate, err = Issue(caTemplate(name+" FAKE TPM CA 1", until), m.Root, key.Public(), rootKey); err != nil {
		return nil, err
	}
	return m, nil
}

func caTemplate(name string, until time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{Organization: []string{"Gangway fleet"}, CommonName: name},
		NotBefore:    until.AddDate(-30, 0, 0), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // cannot happen: crypto/rand does not fail
	}
	return n.Add(n, big.NewInt(1))
}

// Issue signs a certificate with the key of the CA `parent`, and returns the parsed certificate.
func Issue(template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	return x509.ParseCertificate(der)
}

// EKTemplate returns the template of an EK certificate. Callers may alter the template before they
// sign it with Sign.
func EKTemplate(pub crypto.PublicKey) (*x509.Certificate, error) {
	usage := x509.KeyUsageKeyEncipherment
	if _, ok := pub.(*ecdsa.PublicKey); ok {
		usage = x509.KeyUsageKeyAgreement
	}
	type attribute struct {
		ID    asn1.ObjectIdentifier
		Value string `asn1:"utf8"`
	}
	type rdn []attribute
	var rdns []asn1.RawValue
	for _, a := range []attribute{
		{tcg.OIDManufacturer, "id:46414B45"}, // FAKE
		{tcg.OIDModel, "software emulation"},
		{tcg.OIDVersion, "id:00010000"},
	} {
		set, err := asn1.MarshalWithParams(rdn{a}, "set")
		if err != nil {
			return nil, err
		}
		rdns = append(rdns, asn1.RawValue{FullBytes: set})
	}
	name, err := asn1.Marshal(rdns)
	if err != nil {
		return nil, err
	}
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}})
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial(),
		NotBefore:    time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage:              usage,
		BasicConstraintsValid: true,
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{tcg.OIDEKCertificate},
		ExtraExtensions:       []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}},
	}, nil
}

// Sign issues a certificate for the key `pub`. The maker's intermediate CA signs the certificate.
func (m *Maker) Sign(template *x509.Certificate, pub crypto.PublicKey) (*x509.Certificate, error) {
	return Issue(template, m.Intermediate, pub, m.key)
}

// WithRoot returns a copy of the maker with another self-signed certificate for the same root key.
// `change` alters this certificate before it is signed, for example to constrain the certificates
// below the root.
func (m *Maker) WithRoot(change func(*x509.Certificate)) (*Maker, error) {
	root := caTemplate(m.Root.Subject.CommonName, m.Root.NotAfter)
	change(root)
	n := *m
	var err error
	n.Root, err = Issue(root, root, m.rootKey.Public(), m.rootKey)
	return &n, err
}

// CrossSign issues another certificate for the key of the CA `ca`. This maker's root signs the
// certificate. `change` alters the certificate before it is signed.
func (m *Maker) CrossSign(ca *x509.Certificate, change func(*x509.Certificate)) (*x509.Certificate, error) {
	template := caTemplate(ca.Subject.CommonName, ca.NotAfter)
	change(template)
	return Issue(template, m.Root, ca.PublicKey, m.rootKey)
}

// Roots and Intermediates return the maker's CA certificates in the form for evidence.NewTrust.
func (m *Maker) Roots() []*x509.Certificate         { return []*x509.Certificate{m.Root} }
func (m *Maker) Intermediates() []*x509.Certificate { return []*x509.Certificate{m.Intermediate} }

func curve(c tcg.CurveID) elliptic.Curve {
	switch c {
	case tcg.CurveP384:
		return elliptic.P384()
	case tcg.CurveP521:
		return elliptic.P521()
	}
	return elliptic.P256()
}
