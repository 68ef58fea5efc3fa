package onboard

import (
	"context"
	"slices"
	"time"

	"gangway/evidence"
)

// examined is a request as it was judged.
type examined struct{ *evidence.Request }

// examine judges a request by everything that the hub knows: the trusted
// makers, the policies, the EK lists, and what can be looked up. Every path to
// a certificate goes through it. check is evidence.Verify, or
// evidence.VerifyKeys where there is no more than keys yet.
func (s *Service) examine(ctx context.Context, v *evidence.Verdict, r *evidence.Request, owner string, now time.Time, check func(*evidence.Verdict, *evidence.Request, *evidence.Input)) (*examined, error) {
	input, rules, err := s.input(ctx, owner, now)
	if err != nil {
		return nil, err
	}
	if len(rules.lists) > 0 {
		if input.Listing, err = s.listing(ctx, rules, r); err != nil {
			return nil, err
		}
	}
	s.verify(ctx, v, r, input, check)
	return &examined{r}, nil
}

// verify makes the checks, with what can be looked up where that may help. A
// first step comes from a stranger, whose certificate can name any address of a
// maker's: links are fetched only in the second. Revocation lists are asked by
// certificates that chain to a trusted maker, in both.
func (s *Service) verify(ctx context.Context, v *evidence.Verdict, r *evidence.Request, in *evidence.Input, check func(*evidence.Verdict, *evidence.Request, *evidence.Input)) {
	before := slices.Clone(v.Steps)
	check(v, r, in)
	if s.Online == nil || r.EKCertificate == nil {
		return
	}
	leaf := r.EKCertificate.Certificate
	if v.Has(evidence.CodeUntrusted) || v.Has(evidence.CodeChainExpired) {
		if r.KeysOnly() {
			return
		}
		links, notes := s.Online.Links(ctx, leaf)
		if len(links) > 0 {
			in.Trust = in.Trust.With(links)
			*v = evidence.Verdict{Steps: before}
			check(v, r, in)
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
