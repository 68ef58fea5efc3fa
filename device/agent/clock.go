package agent

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// A machine may have no clock, or one that is wrong: a clock with a flat battery shows 1970, and
// the clock of a new board shows the day on which the firmware was built, or 2099. Nevertheless,
// the machine must verify the hub's certificate, which is valid only between two dates.
//
// Two facts are certain: the present is after the notBefore date of the hub's CA certificate, which
// the device trusts, and after the notBefore date of any certificate that this CA has signed. So if
// the clock is before one of these dates, or decades ahead of the first, the verification uses the
// later of the two dates instead. If the clock is plausible, the verification uses the clock's
// time, and refuses a certificate that has expired at that time.

// hubLife is the longest time for which a hub is expected to be in use after its CA was created. A
// clock that is more than hubLife ahead of the creation of the CA is not plausible.
const hubLife = 20 * 365 * 24 * time.Hour

// slack is how far the machine's clock may be behind the hub's clock before the agent sets it.
const slack = 2 * time.Minute

// The function `plausible` reports whether the time `now` on the machine's clock may be right,
// judging by the hub's CA certificates.
func plausible(now time.Time, roots []*x509.Certificate) bool {
	from := madeAt(roots)
	return !now.Before(from) && now.Before(from.Add(hubLife))
}

// madeAt returns the notBefore date of the newest CA certificate.
func madeAt(roots []*x509.Certificate) (at time.Time) {
	for _, c := range roots {
		if c.NotBefore.After(at) {
			at = c.NotBefore
		}
	}
	return at
}

// verifyAt returns the time for which a certificate chain must be verified: `now` or, if `now`
// cannot be right, the earliest time that is possible given the certificates.
func verifyAt(now time.Time, roots, chain []*x509.Certificate) time.Time {
	if !plausible(now, roots) {
		now = madeAt(roots)
	}
	for _, c := range chain {
		if c.NotBefore.After(now) {
			now = c.NotBefore // the present is not before c.NotBefore, because the CA has signed c; if the signature is wrong, the verification fails anyway
		}
	}
	return now
}

// The method `trusting` returns a TLS configuration that verifies the hub as crypto/tls does,
// except that the dates are checked at the time that verifyAt returns. `host` is the hub's DNS name
// or IP address.
func (h *hub) trusting(host string) *tls.Config {
	config := verifying(host, h.roots, h.certs, func() time.Time { return h.now() })
	verify := config.VerifyConnection
	config.VerifyConnection = func(s tls.ConnectionState) error { return h.proxy.interception(host, verify(s)) }
	return config
}

// The function `verifying` returns a TLS configuration that verifies the server `host`. The
// server's CA must be in `roots`, whose certificates are also in `certs`. The dates are checked as
// in the method `trusting`.
func verifying(host string, roots *x509.CertPool, certs []*x509.Certificate, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// crypto/tls would check the dates with a clock that may be wrong. VerifyConnection makes
		// the same checks instead, at the time that verifyAt returns.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return fmt.Errorf("agent: %s sent no certificate", host)
			}
			leaf, between := s.PeerCertificates[0], x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				between.AddCert(c)
			}
			_, err := leaf.Verify(x509.VerifyOptions{
				Roots: roots, Intermediates: between,
				CurrentTime: verifyAt(now(), certs, s.PeerCertificates),
				KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
			if err == nil { // the name is checked after the CA, so that a hub with another name causes another error than a server that is not the hub
				err = leaf.VerifyHostname(host)
			}
			if err != nil {
				return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
			}
			return nil
		},
	}
}

// clockSetter sets the system clock from the answers of a verified hub.
type clockSetter struct {
	set func(time.Time) error
	say func(was, is time.Time, err error)

	mu sync.Mutex // serialises calls of `set`
}

// The method `heard` reads the date of a verified hub's answer and sets the clock if needed. A date
// outside the validity of the hub's certificate is ignored, so a person who stole an old
// certificate of the hub, with its key, cannot set the clock to a date after that certificate
// expired. A plausible clock is only ever set forward.
func (c *clockSetter) heard(now time.Time, roots []*x509.Certificate, resp *http.Response) {
	if c == nil || resp.TLS == nil || len(resp.TLS.PeerCertificates) == 0 {
		return
	}
	leaf := resp.TLS.PeerCertificates[0]
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil || date.Before(leaf.NotBefore) || date.After(leaf.NotAfter) || date.Before(madeAt(roots)) {
		return
	}
	if plausible(now, roots) && !now.Before(date.Add(-slack)) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.say(now, date, c.set(date))
}
