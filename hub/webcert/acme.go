package webcert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
	"golang.org/x/net/idna"
)

// Intervals at which ACME requests its certificate from the CA. After the first failure, it waits
// retryFirst, and after each further failure twice as long, up to retryLast. pollEvery is the
// interval at which ACME checks whether the certificate was renewed; see poll.
const (
	retryFirst = time.Minute
	retryLast  = time.Hour
	pollEvery  = time.Minute
)

// ACMEConfig configures ACME.
type ACMEConfig struct {
	// Name is the host name of the web pages. ACME requests a certificate only for this name.
	Name string
	// Directory is the URL of the CA's directory.
	Directory string
	// Email is the address to which the CA sends warnings. It may be empty.
	Email string
	// Cache is the folder in which ACME stores the key of its account at the CA, and the
	// certificates. The files have mode 0600.
	Cache string
	// Roots are the root certificates by which ACME verifies the CA's TLS server. If Roots is nil,
	// it uses the system's root certificates.
	Roots *x509.CertPool
	Log   *slog.Logger
}

// ACME obtains the certificate of the hub's web pages from a CA. With the challenge tls-alpn-01
// (RFC 8737), the CA verifies that the host name belongs to the hub by connecting to port 443 of
// this host. So connections to port 443 must reach the listener of the web pages.
//
// Only Run requests certificates, and a handshake never does. So a stranger cannot cause requests
// to the CA by sending other names or many handshakes.
type ACME struct {
	name    string // in ASCII
	manager *autocert.Manager
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate]
}

// NewACME makes an ACME. It does not contact the CA. Call it only if the operator has accepted the
// CA's terms of service.
func NewACME(c ACMEConfig) (*ACME, error) {
	name, err := idna.Lookup.ToASCII(strings.TrimSuffix(c.Name, "."))
	if err != nil || net.ParseIP(name) != nil || !strings.Contains(name, ".") {
		return nil, fmt.Errorf("webcert: %q is not a DNS name for which a CA issues certificates by ACME", c.Name)
	}
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
	}}
	return &ACME{name: name, log: c.Log, manager: &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(c.Cache),
		HostPolicy: autocert.HostWhitelist(name),
		Email:      c.Email,
		Client:     &acme.Client{DirectoryURL: c.Directory, HTTPClient: client, UserAgent: "gangway"},
	}}, nil
}

// GetCertificate implements the field of the same name of tls.Config. It also answers the
// challenges with which the CA checks that the host name belongs to the hub.
func (a *ACME) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if !strings.EqualFold(strings.TrimSuffix(hello.ServerName, "."), a.name) {
		return nil, errors.New("webcert: the client's server name (SNI) is not the host name for which ACME obtains the certificate")
	}
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.ALPNProto {
		return a.manager.GetCertificate(hello)
	}
	if c := a.current.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("webcert: the CA has not issued the certificate of the web pages yet; retry later")
}

// Protocols returns the ALPN protocols that the listener must support in addition to its own: the
// protocol of the challenge.
func (a *ACME) Protocols() []string { return []string{acme.ALPNProto} }

// Expires returns the time at which the certificate expires. If there is no certificate yet, it
// returns the zero time.
func (a *ACME) Expires() time.Time {
	if c := a.current.Load(); c != nil {
		return c.Leaf.NotAfter
	}
	return time.Time{}
}

// Run obtains the certificate and keeps it renewed until ctx ends. The listener of the web pages
// must be open while Run runs.
func (a *ACME) Run(ctx context.Context) {
	wait, problem := retryFirst, ""
	for {
		next := pollEvery
		if err := a.refresh(); err != nil {
			if err.Error() != problem {
				a.log.Error("the CA did not issue a certificate for the web pages; the hub will retry", "name", a.name, "in", wait, "err", err)
			}
			problem, next, wait = err.Error(), wait, min(2*wait, retryLast)
		} else {
			wait, problem, next = retryFirst, "", a.poll()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

// poll returns the time until the next check. This is pollEvery, or less if the certificate expires
// soon, because the hub must notice in time that the ACME manager has renewed it.
func (a *ACME) poll() time.Duration {
	if expires := a.Expires(); !expires.IsZero() {
		return max(min(pollEvery, time.Until(expires)/10), time.Second)
	}
	return pollEvery
}

// refresh gets the certificate from the ACME manager, which has it in memory or in its cache, or
// requests it from the CA. The manager renews the certificate automatically.
func (a *ACME) refresh() error {
	// With this ClientHello, the manager uses an ECDSA key. It would request a second certificate
	// for clients that support only RSA, but all TLS 1.3 clients support ECDSA.
	c, err := a.manager.GetCertificate(&tls.ClientHelloInfo{
		ServerName: a.name, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	})
	if err != nil {
		return err
	}
	if old := a.current.Swap(c); old == nil || !old.Leaf.Equal(c.Leaf) {
		a.log.Info("the web pages have a new certificate", "name", a.name, "issuer", c.Leaf.Issuer.CommonName, "expires", c.Leaf.NotAfter)
	}
	return nil
}
