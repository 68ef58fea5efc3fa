package evidence

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// Anchors holds the certificates from which NewTrustOf makes a Trust.
type Anchors struct {
	Roots         []*x509.Certificate
	Intermediates []*x509.Certificate
	// Origins names the source of each root for a person, by the SHA-256 of its DER: "built in",
	// "file makers.pem".
	Origins map[[32]byte]string
	// A chain with one of the Distrusted certificates is refused, also if a device sent the
	// certificate. The same holds for any other certificate of the same key, unless it is among
	// Roots or Intermediates.
	Distrusted []*x509.Certificate
}

// NewTrustOf makes a Trust. A root that is not a CA certificate is an error.
func NewTrustOf(a Anchors) (*Trust, error) {
	t, err := newTrust(a, barring(a))
	if err != nil || len(a.Distrusted) == 0 {
		return t, err
	}
	// withDistrusted also accepts the distrusted CAs. With it, the Trust can tell a chain to a
	// distrusted CA from a chain to an unknown one.
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

// barring returns a constraint that refuses chains with a distrusted certificate, or nil if nothing
// is distrusted. It is set on the roots, so x509 applies it to every chain.
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

// origin returns a sentence about the source of a root, with a space before it, or "" if the source
// is not known.
func (t *Trust) origin(root *x509.Certificate) string {
	words := t.origins[sha256.Sum256(root.Raw)]
	if words == "" {
		return ""
	}
	return fmt.Sprintf(" The root's source: %s.", words)
}

// MayIssue checks that a certificate can issue EK certificates: it is a CA's, its key usage allows
// signing certificates, and its key is RSA of at least 2048 bits or ECDSA.
func MayIssue(c *x509.Certificate) error { return mayIssue(c) }
