package evidence

import (
	"crypto/x509"
	"maps"
	"slices"
	"time"
)

// WithIntermediates returns a copy of the Trust with additional intermediates for building chains.
// The trusted roots stay the same.
func (t *Trust) WithIntermediates(intermediates []*x509.Certificate) *Trust {
	more := &Trust{
		roots:         t.roots,
		origins:       t.origins,
		intermediates: t.intermediates.Clone(),
		bySubject:     maps.Clone(t.bySubject),
		subjects:      maps.Clone(t.subjects),
		verified:      make(map[[32]byte][]*verifiedCA),
	}
	for _, c := range intermediates {
		more.intermediates.AddCert(more.add(c))
	}
	if t.withDistrusted != nil {
		more.withDistrusted = t.withDistrusted.WithIntermediates(intermediates)
	}
	return more
}

// Chain returns the CA certificates above a request's EK certificate, from the issuer to the
// trusted root. It returns nil if there is no chain to a trusted root.
func (t *Trust) Chain(r *Request, now time.Time) []*x509.Certificate {
	ca, err := t.chain(r.EKCertificate, r.Chain, now)
	if err != nil {
		return nil
	}
	return slices.Clone(ca.chain)
}
