package evidence

import (
	"crypto/x509"
	"slices"

	"gangway/tcg"
)

// canonical returns a CA certificate with canonical names (tcg.CanonicalName), so that a chain is
// found even if a maker wrote one name in two string types (STMicroelectronics' ECC intermediates
// and their root). Names only serve to find issuers. Signatures are verified over the signed bytes,
// which do not change.
//
// It also removes name constraints from the extensions that crypto/x509 did not handle:
// chainMayIssue and checkNames check all of them.
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

// same reports whether two slices share their memory.
func same(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
