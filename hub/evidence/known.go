package evidence

import (
	"errors"
	"slices"
	"time"

	"gangway/tcg"
)

// KnownChain returns the CA certificates between the request's EK certificate and a root that the
// hub knows, trusted or distrusted. The result `links` is in DER, with the issuer first and without
// the root. An expired CA certificate is accepted if it was valid when the EK certificate was
// issued. The result `ok` is false if there is no such chain, or if the EK certificate does not
// belong to the request's EK.
//
// KnownChain does not judge the request: it only finds the certificates that the hub should store.
func (in *Input) KnownChain(r *Request) (links [][]byte, ok bool) {
	e, t := r.EKCertificate, in.Trust
	if e == nil || !r.EK.IsCertified(e) || checkIsEKCertificate(e) != nil {
		return nil, false
	}
	ca, err := in.chain(r)
	if err != nil {
		times := []time.Time{in.Now}
		if errors.Is(err, errExpired) || errors.Is(err, errDistrusted) {
			times = append(times, e.Certificate.NotBefore)
		}
		for _, then := range times {
			if ca, err = t.find(e, r.Chain, then); err != nil && t.withDistrusted != nil {
				ca, err = t.withDistrusted.find(e, r.Chain, then)
			}
			if err == nil {
				break
			}
		}
	}
	if err != nil {
		return nil, false
	}
	for _, c := range ca.chain[:len(ca.chain)-1] {
		links = append(links, c.Raw)
	}
	return links, true
}

// chain returns the result of Trust.chain for a request. It caches the result, because several
// checks need it.
func (in *Input) chain(r *Request) (*verifiedCA, error) {
	if in.chained.request != r || in.chained.trust != in.Trust {
		in.chained.request, in.chained.trust = r, in.Trust
		in.chained.ca, in.chained.err = in.Trust.chain(r.EKCertificate, r.Chain, in.Now)
	}
	return in.chained.ca, in.chained.err
}

// WithCertificate returns a copy of the request with an EK certificate that the hub stored from an
// earlier request. The argument `links` has the certificates that KnownChain returned for that
// earlier request. It is an error if the certificate does not belong to the request's EK.
func (r *Request) WithCertificate(certificate []byte, links [][]byte) (*Request, error) {
	e, err := tcg.ParseEKCertificate(certificate)
	if err != nil {
		return nil, err
	}
	if !r.EK.IsCertified(e) {
		return nil, errors.New("evidence: the stored certificate belongs to another EK")
	}
	recalled := *r
	recalled.EKCertificate, recalled.Chain = e, slices.Concat(links, r.Chain)
	return &recalled, nil
}

// AddOmitted adds the failures in the verdict `of` to the verdict `v`. `v` is about a request that
// omitted its EK certificate, and `of` is about the same request with the EK certificate that the
// hub knows. If `of` has a refusal, AddOmitted adds that refusal. Otherwise it adds the questions
// that are in `of` and not in `v`. AddOmitted never makes a verdict better: if it did, a stranger
// could learn from the answer that the hub knows the EK.
func (v *Verdict) AddOmitted(of *Verdict) {
	const left = "The request leaves out an EK certificate that was sent earlier for this EK. That certificate fails a check: "
	said := func(r *Refusal) *Refusal {
		c := *r
		c.Reason = left + r.Reason
		return &c
	}
	if v.Refusal != nil {
		return
	}
	if of.Refusal != nil {
		v.Fail("ek-certificate-omitted", said(of.Refusal))
		return
	}
	for _, q := range of.Questions {
		if !v.HasCode(q.Code) {
			v.Fail("ek-certificate-omitted", said(q))
		}
	}
}
