package fetch

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"gangway/tcg"
)

// Bounds of one chain. maxDepth is the largest number of CA certificates that the fetcher fetches
// for it, and maxURLs the largest number of URLs that the fetcher tries for one certificate.
const (
	maxDepth = 4
	maxURLs  = 3
)

// Links fetches the CA certificates above the EK certificate `leaf`, from the caIssuers URLs in the
// certificates. `links` has the issuer of `leaf` first, then the issuer's issuer, and so on; each
// of them has signed the certificate before it. Links does not make any certificate trusted. If a
// certificate is unavailable, Links returns a note for the verdict, not an error.
func (f *Fetcher) Links(ctx context.Context, leaf *x509.Certificate) (links []*x509.Certificate, notes []string) {
	if len(f.issuerHosts) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	for c := leaf; len(links) < maxDepth; {
		issuer, from, why := f.issuer(ctx, c)
		if why != "" {
			notes = append(notes, why)
		}
		if issuer == nil {
			break
		}
		notes = append(notes, fmt.Sprintf("the certificate of %q was fetched from %s", issuer.Subject, from))
		links = append(links, issuer)
		c = issuer
		if bytes.Equal(tcg.CanonicalName(c.RawSubject), tcg.CanonicalName(c.RawIssuer)) {
			break // a self-issued certificate ends the chain
		}
	}
	return links, notes
}

// issuer fetches the certificate that signed the certificate `c`. `from` is the host that sent it.
// If it is not available, the result `issuer` is nil, and `why` is the reason.
func (f *Fetcher) issuer(ctx context.Context, c *x509.Certificate) (issuer *x509.Certificate, from, why string) {
	for _, raw := range c.IssuingCertificateURL[:min(len(c.IssuingCertificateURL), maxURLs)] {
		u, err := f.target(raw, f.issuerHosts)
		if err != nil {
			why = fmt.Sprintf("the issuer %q was not fetched: %v", c.Issuer, err)
			continue
		}
		a := f.get(ctx, u, maxIssuer, func(*answer) time.Duration { return keepIssuer })
		certs, err := a.certificates()
		if err != nil {
			why = fmt.Sprintf("the issuer %q could not be fetched from %s: %v", c.Issuer, u.Hostname(), err)
			continue
		}
		for _, issuer := range certs {
			if issuer.IsCA && bytes.Equal(tcg.CanonicalName(issuer.RawSubject), tcg.CanonicalName(c.RawIssuer)) &&
				issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil {
				return issuer, u.Hostname(), ""
			}
		}
		why = fmt.Sprintf("the certificate that was fetched from %s is not the issuer %q", u.Hostname(), c.Issuer)
	}
	return nil, "", why
}

// certificates returns the certificates of an answer. It parses the body only once.
func (a *answer) certificates() ([]*x509.Certificate, error) {
	if a.err != nil {
		return nil, a.err
	}
	a.parse.Do(func() { a.parsed, a.parseErr = ParseCertificates(a.body) })
	certs, _ := a.parsed.([]*x509.Certificate)
	return certs, a.parseErr
}
