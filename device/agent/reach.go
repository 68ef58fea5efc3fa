package agent

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Reached is the result of a connection to the hub.
type Reached struct {
	URL string
	// HubName is the SHA-256, in hexadecimal, of the root key of the hub's certificate chain.
	HubName string
	// Date is the time in the hub's answer, in whole seconds. It is zero if the answer has no date.
	Date time.Time
	Took time.Duration
}

// Obstacle is a stable name for the reason why the hub was not reached.
type Obstacle string

// The obstacles.
const (
	ObstacleProxy       Obstacle = "proxy"        // the proxy cannot be used, or refuses
	ObstacleIntercepted Obstacle = "intercepted"  // the proxy intercepts TLS connections
	ObstacleOtherServer Obstacle = "other-server" // the server's certificate is from another CA
	ObstacleServerName  Obstacle = "server-name"  // the certificate is for another host name
	ObstacleExpired     Obstacle = "expired"      // the certificate has expired, by this machine's clock
	ObstacleDNS         Obstacle = "dns"          // the hub's name cannot be resolved
	ObstacleNoAnswer    Obstacle = "no-answer"    // nothing answers at the address
	ObstacleNotReady    Obstacle = "not-ready"    // the hub answers that it is not ready
)

// Unreached is the error of Reach.
type Unreached struct {
	Obstacle Obstacle
	Text     string // for a person
	err      error
}

func (u *Unreached) Error() string { return u.Text }
func (u *Unreached) Unwrap() error { return u.err }

// Reach connects to a hub in the same way as the agent, but without the device's certificate, and
// asks whether the hub works. It needs no TPM. It tries the addresses in order until one works. If
// none does, it returns the error for the first address.
func Reach(ctx context.Context, urls []string, ca string, proxy *HTTPProxy) (*Reached, error) {
	h, err := newHub(newAddresses(urls, ""), ca, proxy)
	if err != nil {
		return nil, err
	}
	defer h.close()
	var first error
	for _, url := range h.at.all() {
		r, err := h.reach(ctx, url)
		if err == nil {
			return r, nil
		}
		if first == nil {
			first = unreached(err)
		}
	}
	return nil, first
}

// reach asks the hub at one address whether it works.
func (h *hub) reach(ctx context.Context, url string) (*Reached, error) {
	client := h.newClient(url, nil)
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/healthz", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "gangway-agent")
	begin := h.now()
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refused(resp, body)
	}
	r := &Reached{URL: url, Took: h.now().Sub(begin), HubName: h.rootOf(resp.TLS.PeerCertificates)}
	r.Date, _ = http.ParseTime(resp.Header.Get("Date")) // zero after an error
	return r, nil
}

// rootOf returns the SHA-256 of the root key of a verified certificate chain.
func (h *hub) rootOf(chain []*x509.Certificate) string {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	paths, err := chain[0].Verify(x509.VerifyOptions{
		Roots: h.roots, Intermediates: between, CurrentTime: verifyAt(h.now(), h.certs, chain),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil || len(paths) == 0 {
		return ""
	}
	root := paths[0][len(paths[0])-1]
	sum := sha256.Sum256(root.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// The function `unreached` classifies an error that occurred on the way to the hub.
func unreached(err error) *Unreached {
	var proxy *proxyError
	var opened *intercepted
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var dns *net.DNSError
	var no *Refused
	o := ObstacleNoAnswer
	switch {
	case errors.As(err, &opened):
		o = ObstacleIntercepted
	case errors.As(err, &proxy):
		o = ObstacleProxy
	case errors.As(err, &unknown):
		o = ObstacleOtherServer
	case errors.As(err, &host):
		o = ObstacleServerName
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		o = ObstacleExpired
	case errors.As(err, &dns):
		o = ObstacleDNS
	case errors.As(err, &no):
		return &Unreached{ObstacleNotReady, fmt.Sprintf("the hub answers with the status %d (%s)", no.Status, no.Reason), err}
	}
	return &Unreached{o, describe(err), err}
}

// PlausibleClock reports whether a machine's clock may be right, judging by the time at which the
// hub's CA was made. The second result is that time.
func PlausibleClock(now time.Time, ca string) (bool, time.Time, error) {
	h, err := newHub(newAddresses([]string{""}, ""), ca, nil)
	if err != nil {
		return false, time.Time{}, err
	}
	return plausible(now, h.certs), madeAt(h.certs), nil
}
