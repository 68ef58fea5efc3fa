package evidence

import (
	"crypto/x509"
	"maps"
	"slices"
	"time"
)

// WithIntermediates returns a set with more intermediates, for chains that need them. They
// are links: what is trusted does not change.
func (t *Trust) WithIntermediates(intermediates []*x509.Certificate) *Trust {
	more := &Trust{
		roots:         t.roots,
		origins:       t.origins,
		intermediates: t.intermediates.Clone(),
		bySubject:     maps.Clone(t.bySubject),
		verified:      make(map[[32]byte][]*verifiedCA),
	}
	for _, c := range intermediates {
		c = canonical(c)
		more.intermediates.AddCert(c)
		name := string(c.RawSubject)
		more.bySubject[name] = append(slices.Clip(more.bySubject[name]), c)
	}
	if t.unbarred != nil {
		more.unbarred = t.unbarred.WithIntermediates(intermediates)
	}
	return more
}

// Chain returns the CA certificates above a request's EK certificate, its
// issuer first and the trusted root last; nil where there is no such chain.
func (t *Trust) Chain(r *Request, now time.Time) []*x509.Certificate {
	ca, err := t.chain(r.EKCertificate, r.Chain, now)
	if err != nil {
		return nil
	}
	return slices.Clone(ca.chain)
}
