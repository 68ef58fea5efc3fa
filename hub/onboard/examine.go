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
	"gangway/hub/tracing/step"
	"gangway/tcg"
)

// examined is a judged request, with facts about its EK certificate that are not in the verdict.
type examined struct {
	*evidence.Request
	known  bool   // the certificate chains to a root that the hub knows
	links  []byte // as store.KeptEKCertificate.Links
	common bool   // as store.Enrolment.CommonLinks
}

// examine judges a request by the trusted makers, the policies, the EK lists, the EK certificate
// that the hub stored for this EK earlier, and online lookups. The hub calls examine before it
// issues any certificate. If the hub knows the root of the request's EK certificate, examine stores
// this certificate, even if the verdict is a refusal.
//
// `check` is evidence.Verify or, for the first step of a two-step enrolment, which has only keys,
// evidence.VerifyKeys. `version` is a result of Store.ConfigVersion: see trust.
func (s *Service) examine(ctx context.Context, v *evidence.Verdict, r *evidence.Request, owner string, version int64, now time.Time, check checker) (*examined, error) {
	input, rules, err := s.input(ctx, version, owner, now)
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
	sent := func(link []byte) bool {
		return slices.ContainsFunc(r.Chain, func(c []byte) bool { return bytes.Equal(c, link) })
	}
	x := &examined{r, known, joined(links), !slices.ContainsFunc(links, sent)}
	switch {
	case !known:
		return x, s.recall(ctx, v, r, input, check)
	case v.Accepted() && r.IDevID != nil: // BeginEnrolment keeps the certificate
		return x, nil
	}
	return x, s.keep(ctx, x, now)
}

// joined returns the concatenation of certificates. It copies nothing if there is only one.
func joined(links [][]byte) []byte {
	if len(links) == 1 {
		return links[0]
	}
	return slices.Concat(links...)
}

type checker func(*evidence.Verdict, *evidence.Request, *evidence.Input)

// recall judges a request again, with the EK certificate that the hub stored from an earlier
// request. The method examine calls it if the request's own EK certificate is missing, or does not
// chain to a root that the hub knows, so that a device cannot avoid a refusal by leaving out its EK
// certificate, or by sending another one.
func (s *Service) recall(ctx context.Context, v *evidence.Verdict, r *evidence.Request, in *evidence.Input, check checker) error {
	if v.Refusal != nil {
		return nil
	}
	r, found, err := s.withKept(ctx, r, in)
	if err != nil || !found {
		return err
	}
	shown := new(evidence.Verdict)
	s.verify(ctx, shown, r, in, check)
	v.AddOmitted(shown)
	return nil
}

// withKept returns the request with the EK certificate that the hub has stored for its EK. If there
// is none, `found` is false.
func (s *Service) withKept(ctx context.Context, r *evidence.Request, in *evidence.Input) (_ *evidence.Request, found bool, err error) {
	kept, err := s.Store.EKCertificate(ctx, r.EKHash, in.Now)
	if errors.Is(err, store.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	links, _ := tcg.SplitCertificates(kept.Links)
	if r, err = r.WithCertificate(kept.Certificate, links); err != nil {
		return nil, false, fmt.Errorf("onboard: read the kept EK certificate: %w", err)
	}
	return r, true, nil
}

// keep stores the EK certificate of a request that was not accepted, but does not write it again
// each time the device repeats the request.
func (s *Service) keep(ctx context.Context, x *examined, now time.Time) error {
	der := x.EKCertificateDER()
	kept, err := s.Store.EKCertificate(ctx, x.EKHash, now)
	if err == nil && (kept.Proven || !bytes.Equal(kept.Certificate, der) || kept.Expires.Sub(now) > store.UnprovenEKKeptFor/2) {
		return nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return s.Store.KeepEKCertificate(ctx, store.KeptEKCertificate{EK: x.EKHash, Certificate: der, Links: x.links, Expires: now.Add(store.UnprovenEKKeptFor)}, now, store.MaxUnprovenEKs)
}

// verify runs the function `check`, and makes the online lookups that may change the verdict. It
// fetches revocation lists only for certificates that chain to a trusted root. For the first step
// of a two-step enrolment, it does not fetch missing CA certificates, because anyone can send a
// first step with a certificate that names any URL of a maker.
func (s *Service) verify(ctx context.Context, v *evidence.Verdict, r *evidence.Request, in *evidence.Input, check checker) {
	ctx, span := step.Begin(ctx, "evidence.verify")
	defer span.End()
	if s.Online == nil || r.EKCertificate == nil {
		check(v, r, in)
		return
	}
	before := evidence.Verdict{Checks: slices.Clone(v.Checks), Notes: slices.Clone(v.Notes)}
	check(v, r, in)
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
	if len(notes) > 0 { // each note is about a certificate that no list covered
		v.Skip("ek-revocation", "Some certificates of the chain could not be checked against a revocation list; the notes name them. The lists that the hub read name no certificate of the chain.")
		return
	}
	v.Pass("ek-revocation", "The revocation lists that the hub read do not name the EK certificate or a CA above it.")
}
