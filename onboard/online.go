package onboard

import (
	"context"
	"crypto/x509"
	"slices"

	"gangway/evidence"
)

// Online looks up on the web what neither a request nor the hub has; package
// fetch is one. It bounds its own time.
type Online interface {
	// Links returns CA certificates above an EK certificate, which are no
	// roots, and notes for the verdict.
	Links(ctx context.Context, leaf *x509.Certificate) ([]*x509.Certificate, []string)
	// ChecksCRLs reports whether Revocation does anything.
	ChecksCRLs() bool
	// Revocation asks whether the EK certificate or one of the chain above it,
	// issuer first and root last, is revoked.
	Revocation(ctx context.Context, leaf *x509.Certificate, chain []*x509.Certificate) ([]string, *evidence.Refusal)
}

// verify judges a request, with what can be looked up where that may help.
func (s *Service) verify(ctx context.Context, v *evidence.Verdict, r *evidence.Request, in *evidence.Input) {
	before := slices.Clone(v.Steps)
	evidence.Verify(v, r, in)
	if s.Online == nil || r.EKCertificate == nil {
		return
	}
	leaf := r.EKCertificate.Certificate
	if v.Has(evidence.CodeUntrusted) || v.Has(evidence.CodeChainExpired) {
		links, notes := s.Online.Links(ctx, leaf)
		if len(links) > 0 {
			in.Trust = in.Trust.With(links)
			*v = evidence.Verdict{Steps: before}
			evidence.Verify(v, r, in)
		}
		v.Notes = append(v.Notes, notes...)
	}
	if v.Refusal != nil || v.Has(evidence.CodeUntrusted) || !s.Online.ChecksCRLs() {
		return
	}
	notes, refusal := s.Online.Revocation(ctx, leaf, in.Trust.Chain(r, in.Now))
	v.Notes = append(v.Notes, notes...)
	if refusal != nil {
		v.Fail("ek-revocation", refusal)
		return
	}
	v.Pass("ek-revocation", "No revocation list that was read names the EK certificate or a CA above it.")
}
