package onboard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/store"
	"gangway/tcg"
)

// examined is a request as it was judged, and what is known of its EK
// certificate besides the verdict.
type examined struct {
	*evidence.Request
	known bool   // its chain leads to a root that the hub knows
	links []byte // as in store.KeptCertificate
}

// examine judges a request by everything that the hub knows: the trusted
// makers, the policies, the EK lists, the certificate kept of the EK, and what
// can be looked up. Every path to a certificate goes through it. check is
// evidence.Verify, or evidence.VerifyKeys where there is no more than keys yet.
// An EK certificate that is worth keeping is kept, whatever the verdict.
func (s *Service) examine(ctx context.Context, v *evidence.Verdict, r *evidence.Request, owner string, now time.Time, check checker) (*examined, error) {
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
	links, known := input.KnownChain(r)
	x := &examined{r, known, slices.Concat(links...)}
	switch {
	case !known:
		return x, s.recall(ctx, v, r, input, check)
	case v.Accepted() && r.IDevID != nil: // kept with its enrolment
		return x, nil
	}
	return x, s.keep(ctx, x, now)
}

type checker func(*evidence.Verdict, *evidence.Request, *evidence.Input)

// recall judges a request that brings no EK certificate that the hub knows by
// the one that the hub kept of its EK: to leave the certificate out, or to send
// another in its place, avoids no refusal.
func (s *Service) recall(ctx context.Context, v *evidence.Verdict, r *evidence.Request, in *evidence.Input, check checker) error {
	if v.Refusal != nil {
		return nil
	}
	kept, err := s.Store.EKCertificate(ctx, r.EKHash, in.Now)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	links, _ := tcg.SplitCertificates(kept.Links)
	r, err = r.WithCertificate(kept.Certificate, links)
	if err != nil {
		return fmt.Errorf("onboard: the EK certificate that was kept: %w", err)
	}
	shown := new(evidence.Verdict)
	s.verify(ctx, shown, r, in, check)
	v.AddOmitted(shown)
	return nil
}

// keep stores the EK certificate of a request that is not accepted. A machine
// that asks again costs no further write.
func (s *Service) keep(ctx context.Context, x *examined, now time.Time) error {
	der := x.EKCertificateDER()
	kept, err := s.Store.EKCertificate(ctx, x.EKHash, now)
	if err == nil && (kept.Proven || !bytes.Equal(kept.Certificate, der) || kept.Expires.Sub(now) > store.KeptFor/2) {
		return nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return s.Store.KeepEKCertificate(ctx, store.KeptCertificate{EK: x.EKHash, Certificate: der, Links: x.links, Expires: now.Add(store.KeptFor)}, now, store.MaxUnproven)
}

// verify makes the checks, with what can be looked up where that may help. A
// first step comes from a stranger, whose certificate can name any address of a
// maker's: links are fetched only in the second. Revocation lists are asked by
// certificates that chain to a trusted maker, in both.
func (s *Service) verify(ctx context.Context, v *evidence.Verdict, r *evidence.Request, in *evidence.Input, check checker) {
	before := evidence.Verdict{Checks: slices.Clone(v.Checks), Notes: slices.Clone(v.Notes)}
	check(v, r, in)
	if s.Online == nil || r.EKCertificate == nil {
		return
	}
	leaf := r.EKCertificate.Certificate
	if v.Failed("ek-chain") && !v.HasCode(evidence.CodeDistrusted) {
		if r.KeysOnly() {
			return
		}
		links, notes := s.Online.Links(ctx, leaf)
		if len(links) > 0 {
			in.Trust = in.Trust.WithIntermediates(links)
			*v = before
			check(v, r, in)
		}
		v.Notes = append(v.Notes, notes...)
	}
	if v.Refusal != nil || v.Failed("ek-chain") || !s.Online.ChecksCRLs() {
		return
	}
	notes, refusal := s.Online.Revocation(ctx, leaf, in.Trust.Chain(r, in.Now))
	v.Notes = append(v.Notes, notes...)
	if refusal != nil {
		v.Fail("ek-revocation", refusal)
		return
	}
	if len(notes) > 0 { // each is a certificate that was not looked for in a list
		v.Skip("ek-revocation", "Not every certificate of the chain could be looked for in a revocation list, as the notes say. No list that was read names one.")
		return
	}
	v.Pass("ek-revocation", "No revocation list that was read names the EK certificate or a CA above it.")
}
