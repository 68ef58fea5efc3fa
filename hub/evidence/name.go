package evidence

import (
	"crypto/x509"
	"slices"

	"gangway/tcg"
)

// canonical returns a CA certificate with canonical names (tcg.CanonicalName). Some makers wrote
// the same name in two string types, for example STMicroelectronics in its ECC root and
// intermediates, and crypto/x509 would find no chain for their certificates. Names are used only to
// find issuers. Signatures are verified over the signed bytes, which do not change.
//
// canonical also removes name constraints from UnhandledCriticalExtensions, because crypto/x509
// would refuse the certificate otherwise. chainMayIssue and checkNames check all name constraints
// instead.
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

// same reports whether two slices have the same length and the same memory.
func same(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
