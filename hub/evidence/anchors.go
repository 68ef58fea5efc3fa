package evidence

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// Anchors is what a Trust is made of.
type Anchors struct {
	Roots         []*x509.Certificate
	Intermediates []*x509.Certificate
	// Origins says in words where a root came from, by the SHA-256 of its DER:
	// "built in", "file makers.pem".
	Origins map[[32]byte]string
	// Distrusted are certificates that must be in no chain, also where a device
	// sends them. So must any other certificate of the same key, unless it is
	// itself among Roots or Intermediates.
	Distrusted []*x509.Certificate
}

// NewTrustOf makes a set. A root that is no CA is an error.
func NewTrustOf(a Anchors) (*Trust, error) {
	t, err := newTrust(a, barring(a))
	if err != nil || len(a.Distrusted) == 0 {
		return t, err
	}
	// The same with the distrusted ones among the roots, to tell a chain that
	// the operator does not want from one that nobody knows.
	unbarred := a
	unbarred.Roots = slices.Clone(a.Roots)
	for _, c := range a.Distrusted {
		if c.IsCA {
			unbarred.Roots = append(unbarred.Roots, c)
		}
	}
	t.unbarred, err = newTrust(unbarred, nil)
	return t, err
}

// NewTrust makes a set of roots and intermediates alone.
func NewTrust(roots, intermediates []*x509.Certificate) (*Trust, error) {
	return NewTrustOf(Anchors{Roots: roots, Intermediates: intermediates})
}

var errDistrusted = errors.New("a certificate of the chain is distrusted")

// barring returns what x509 asks of each chain to a root, nil where nothing
// is distrusted. It sits on the roots, so no way to build a chain passes it.
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

// origin says where a root came from: a sentence with a space before it, or
// nothing.
func (t *Trust) origin(root *x509.Certificate) string {
	words := t.origins[sha256.Sum256(root.Raw)]
	if words == "" {
		return ""
	}
	return fmt.Sprintf(" The root's source: %s.", words)
}

// MayIssue checks that a certificate could be an issuer's of an EK
// certificate: a CA's, for signing certificates, with an RSA key of at least
// 2048 bits or an ECDSA key.
func MayIssue(c *x509.Certificate) error { return mayIssue(c) }
