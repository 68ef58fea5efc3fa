package evidence

import (
	"errors"
	"slices"
	"time"

	"gangway/tcg"
)

// KnownChain returns the CA certificates between the request's EK certificate and a
// root that the hub knows, DER, the issuer first and the root left out. KnownChain
// roots are those that are trusted and those that are distrusted. A chain with
// a CA certificate that has expired since counts, as of the day that the EK
// certificate was issued. ok is false without such a chain, and where the
// certificate is not one of this EK.
//
// It is no verdict: it says which certificates are worth keeping.
func (in *Input) KnownChain(r *Request) (links [][]byte, ok bool) {
	e, t := r.EKCertificate, in.Trust
	if e == nil || !r.EK.Is(e.PublicKey) || notAnEKs(e) != nil {
		return nil, false
	}
	ca, err := in.chain(r)
	if err != nil {
		times := []time.Time{in.Now}
		if errors.Is(err, errExpired) || errors.Is(err, errDistrusted) {
			times = append(times, e.Certificate.NotBefore)
		}
		for _, then := range times {
			if ca, err = t.find(e, r.Chain, then); err != nil && t.unbarred != nil {
				ca, err = t.unbarred.find(e, r.Chain, then)
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

// chain is Trust.chain of a request, which is asked more than once.
func (in *Input) chain(r *Request) (*verifiedCA, error) {
	if in.chained.request != r || in.chained.trust != in.Trust {
		in.chained.request, in.chained.trust = r, in.Trust
		in.chained.ca, in.chained.err = in.Trust.chain(r.EKCertificate, r.Chain, in.Now)
	}
	return in.chained.ca, in.chained.err
}

// WithCertificate returns the request as if the EK certificate had come with it that the
// hub kept of an earlier one. links are as Known returned them then. That the
// certificate is of the request's EK is checked.
func (r *Request) WithCertificate(certificate []byte, links [][]byte) (*Request, error) {
	e, err := tcg.ParseEKCertificate(certificate)
	if err != nil {
		return nil, err
	}
	if !r.EK.Is(e.PublicKey) {
		return nil, errors.New("evidence: the kept certificate is of another EK")
	}
	recalled := *r
	recalled.EKCertificate, recalled.Chain = e, slices.Concat(links, r.Chain)
	return &recalled, nil
}

// AddOmitted adds to a verdict what is held against the request by a certificate
// that it left out: the refusal, or the questions that the request itself does
// not raise. A certificate that was left out speaks for nobody, so that a
// stranger does not learn from the answer that the hub knows it.
func (v *Verdict) AddOmitted(of *Verdict) {
	const left = "By an EK certificate that was shown for this EK before and is missing now: "
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
