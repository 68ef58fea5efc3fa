package agent

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Machines have no clock, or a wrong one: a battery is flat, and it is 1970; a
// board was never set, and it is the day that its firmware was made, or 2099.
// The hub's certificate has dates, and must be verified all the same.
//
// What is certain: it is later than the day that the hub's CA was made, which
// the device trusts, and later than the beginning of any certificate that this
// CA has signed. So a clock that is behind them is put forward, for this one
// verification; one that is decades ahead is as good as none. A clock that may
// be right is believed, and what has expired by it is refused.

// hubLife is how long after its CA was made a hub is expected to be asked, at
// most: a clock that is later is not believed.
const hubLife = 20 * 365 * 24 * time.Hour

// slack is how far a clock may be behind the hub's without being put forward.
const slack = 2 * time.Minute

// plausible reports whether a clock may be right, by the CA's certificates.
func plausible(now time.Time, roots []*x509.Certificate) bool {
	from := madeAt(roots)
	return !now.Before(from) && now.Before(from.Add(hubLife))
}

// madeAt is when the newest of the CA's certificates was made.
func madeAt(roots []*x509.Certificate) (at time.Time) {
	for _, c := range roots {
		if c.NotBefore.After(at) {
			at = c.NotBefore
		}
	}
	return at
}

// verifyAt is the time by which a chain's dates are checked.
func verifyAt(now time.Time, roots, chain []*x509.Certificate) time.Time {
	if !plausible(now, roots) {
		now = madeAt(roots)
	}
	for _, c := range chain {
		if c.NotBefore.After(now) {
			now = c.NotBefore // it was signed then, or the signature does not verify
		}
	}
	return now
}

// trusting is a TLS configuration that verifies the hub as crypto/tls does, but
// for the time. host is the hub's name, or address.
func (h *hub) trusting(host string) *tls.Config {
	config := verifying(host, h.roots, h.certs, func() time.Time { return h.now() })
	verify := config.VerifyConnection
	config.VerifyConnection = func(s tls.ConnectionState) error { return h.proxy.interception(host, verify(s)) }
	return config
}

// verifying is the same for any server, whose CA has these certificates.
func verifying(host string, roots *x509.CertPool, certs []*x509.Certificate, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// crypto/tls would verify by a clock that may be wrong: VerifyConnection
		// does all that it does.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return fmt.Errorf("agent: %s shows no certificate", host)
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
			if err == nil { // whose it is comes first: that tells a hub of another name from somebody else
				err = leaf.VerifyHostname(host)
			}
			if err != nil {
				return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
			}
			return nil
		},
	}
}

// clockSetter puts the system's clock right by what a verified hub says.
type clockSetter struct {
	set func(time.Time) error
	say func(was, is time.Time, err error)

	mu sync.Mutex // one at a time
}

// heard looks at a verified hub's answer. The hub's word is believed within its
// certificate's dates: who has stolen an old certificate sets no clock beyond
// it. A clock that may be right is put forward, never back.
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
