package evidence

import (
	"crypto/x509"
	"slices"

	"gangway/tcg"
)

// canonical returns a CA certificate with its names as tcg.CanonicalName has
// them, so that chains build where a maker wrote one name in two string types
// (STMicroelectronics' ECC intermediates and their root). Names only find
// links: what counts is the signature over the bytes as they were signed,
// which stay as they are.
//
// It takes name constraints off what crypto/x509 has not understood:
// chainMayIssue and namesHold read all of them.
func canonical(c *x509.Certificate) *x509.Certificate {
	subject, issuer := tcg.CanonicalName(c.RawSubject), tcg.CanonicalName(c.RawIssuer)
	unread := slices.ContainsFunc(c.UnhandledCriticalExtensions, oidNameConstraints.Equal)
	if same(subject, c.RawSubject) && same(issuer, c.RawIssuer) && !unread {
		return c
	}
	d := *c
	d.RawSubject, d.RawIssuer = subject, issuer
	if unread {
		d.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(c.UnhandledCriticalExtensions), oidNameConstraints.Equal)
	}
	return &d
}

// same reports whether two slices are one.
func same(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
