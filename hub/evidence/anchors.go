package evidence

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// Anchors has the certificates from which NewTrustOf makes a Trust.
type Anchors struct {
	Roots         []*x509.Certificate
	Intermediates []*x509.Certificate
	// Origins maps the SHA-256 of a root's DER to the root's source, in words for a person: "built
	// in", "file makers.pem".
	Origins map[[32]byte]string
	// Distrusted lists certificates that no chain may contain, even if a device sends them. If
	// another certificate has the key of a distrusted one, a chain may contain that certificate
	// only if it is in Roots or Intermediates.
	Distrusted []*x509.Certificate
}

// NewTrustOf makes a Trust from the certificates in `a`. It returns an error if a root is not a CA
// certificate.
func NewTrustOf(a Anchors) (*Trust, error) {
	t, err := newTrust(a, barring(a))
	if err != nil || len(a.Distrusted) == 0 {
		return t, err
	}
	// Make a second Trust, which also accepts the distrusted CAs. If an EK certificate has a chain
	// only in the second Trust, Trust.chain reports a distrusted CA, and not an unknown maker.
	withDistrusted := a
	withDistrusted.Roots = slices.Clone(a.Roots)
	for _, c := range a.Distrusted {
		if c.IsCA {
			withDistrusted.Roots = append(withDistrusted.Roots, c)
		}
	}
	t.withDistrusted, err = newTrust(withDistrusted, nil)
	return t, err
}

// NewTrust makes a Trust of roots and intermediates, without distrusted certificates.
func NewTrust(roots, intermediates []*x509.Certificate) (*Trust, error) {
	return NewTrustOf(Anchors{Roots: roots, Intermediates: intermediates})
}

var errDistrusted = errors.New("a certificate of the chain is distrusted")

// barring returns a function that refuses each chain with a distrusted certificate, or nil if no
// certificate is distrusted. newTrust sets the function as a constraint on the roots, so
// crypto/x509 calls it for every chain.
func barring(a Anchors) func([]*x509.Certificate) error {
	if len(a.Distrusted) == 0 {
		return nil
	}
	certs, keys, own := map[[32]byte]bool{}, map[[32]byte]bool{}, map[[32]byte]bool{}
	for _, c := range a.Distrusted {
		certs[sha256.Sum256(c.Raw)] = true
		keys[sha256.Sum256(c.RawSubjectPublicKeyInfo)] = true
	}
	for _, list := range [][]*x509.Certificate{a.Roots, a.Intermediates} {
		for _, c := range list {
			own[sha256.Sum256(c.Raw)] = true
		}
	}
	return func(chain []*x509.Certificate) error {
		for _, c := range chain {
			print := sha256.Sum256(c.Raw)
			if certs[print] || !own[print] && keys[sha256.Sum256(c.RawSubjectPublicKeyInfo)] {
				return errDistrusted
			}
		}
		return nil
	}
}

// origin returns a sentence about the source of a root, after a space, or "" if the source is not
// known.
func (t *Trust) origin(root *x509.Certificate) string {
	words := t.origins[sha256.Sum256(root.Raw)]
	if words == "" {
		return ""
	}
	return fmt.Sprintf(" The root's source: %s.", words)
}

// MayIssue returns an error if a certificate cannot issue EK certificates. It must be a CA
// certificate whose key usage allows signing certificates, and its key must be ECDSA, or RSA of at
// least 2048 bits.
func MayIssue(c *x509.Certificate) error { return mayIssue(c) }
