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

// How often ACME asks for its certificate: retryFirst after a failure, twice as long after each
// further one, up to retryLast. pollEvery is how often it looks for a renewed certificate.
const (
	retryFirst = time.Minute
	retryLast  = time.Hour
	pollEvery  = time.Minute
)

// ACMEConfig configures ACME.
type ACMEConfig struct {
	// Name is the DNS name of the pages, the only name for which a certificate is requested.
	Name string
	// Directory is the URL of the CA's directory.
	Directory string
	// Email is where the CA sends warnings; may be empty.
	Email string
	// Cache is the folder of the account's key and of the certificates. Its files have mode 0600.
	Cache string
	// Roots verify the connection to the CA; nil: the system's.
	Roots *x509.CertPool
	Log   *slog.Logger
}

// ACME is a certificate that a CA issues after it has verified the name by the challenge
// tls-alpn-01 (RFC 8737): it connects to port 443 of the name. So the listener of the pages must be
// what port 443 leads to.
//
// Only Run requests certificates. A handshake never does: so a stranger who sends other names, or
// many handshakes, causes no request to the CA and waits for none.
type ACME struct {
	name    string // in ASCII
	manager *autocert.Manager
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate]
}

// NewACME makes an ACME. It does not contact the CA. The caller has accepted the CA's terms.
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

// GetCertificate is for tls.Config. It answers the CA's challenges about the name too.
func (a *ACME) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if !strings.EqualFold(strings.TrimSuffix(hello.ServerName, "."), a.name) {
		return nil, errors.New("webcert: the pages have another name")
	}
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.ALPNProto {
		return a.manager.GetCertificate(hello)
	}
	if c := a.current.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("webcert: the CA has not issued the certificate yet")
}

// Protocols are further ALPN protocols of the listener: that of the challenge.
func (a *ACME) Protocols() []string { return []string{acme.ALPNProto} }

// Expires returns the end of the certificate's life; zero: there is none yet.
func (a *ACME) Expires() time.Time {
	if c := a.current.Load(); c != nil {
		return c.Leaf.NotAfter
	}
	return time.Time{}
}

// Run gets the certificate and its renewals, until ctx ends. The listener must be open meanwhile.
func (a *ACME) Run(ctx context.Context) {
	wait, problem := retryFirst, ""
	for {
		next := pollEvery
		if err := a.refresh(); err != nil {
			if err.Error() != problem {
				a.log.Error("the CA issued no certificate for the pages; the next attempt follows", "name", a.name, "in", wait, "err", err)
			}
			problem, next, wait = err.Error(), wait, min(2*wait, retryLast)
		} else {
			wait, problem = retryFirst, ""
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

// refresh takes the certificate from the manager, which has it in memory, reads it from its cache or
// requests it. The manager renews it by itself.
func (a *ACME) refresh() error {
	// With this hello the manager uses an ECDSA key. It would request a second certificate for a
	// client that supports RSA only; TLS 1.3 clients support both.
	c, err := a.manager.GetCertificate(&tls.ClientHelloInfo{
		ServerName: a.name, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	})
	if err != nil {
		return err
	}
	if old := a.current.Swap(c); old == nil || !old.Leaf.Equal(c.Leaf) {
		a.log.Info("the pages have a new certificate", "name", a.name, "issuer", c.Leaf.Issuer.CommonName, "expires", c.Leaf.NotAfter)
	}
	return nil
}
