// Package connectproxy has an HTTP proxy for tests. The proxy supports the method CONNECT, and can
// imitate the mistakes that real proxies make. New starts a proxy, which stops when the test ends.
package connectproxy

import (
	"bufio"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"io"
	"math/big"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// CA signs two kinds of certificates: those that proxies show to their clients, and those with
// which proxies intercept connections to servers.
type CA struct {
	Certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewCA makes a CA.
func NewCA(t testing.TB, name string) *CA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return &CA{c, key}
}

// Server makes a server certificate for a host name or an IP address. The CA signs the certificate.
func (ca *CA) Server(t testing.TB, host string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0)}
	if ip := net.ParseIP(host); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, ca.Certificate, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Config configures a proxy.
type Config struct {
	Listen         string            // loopback address; default: 127.0.0.1 with a free port
	TLS            *tls.Certificate  // certificate of the proxy itself; nil means plain HTTP to the proxy
	Name, Password string            // credentials that clients must send; empty means none
	To             map[string]string // redirects connections from one address to another
	Answer         string            // if not empty, the raw bytes with which the proxy answers every request
	Intercept      *tls.Certificate  // if set, the proxy intercepts TLS connections with this server certificate
}

// Proxy is a running proxy.
type Proxy struct {
	Addr string
	cfg  Config

	mu   sync.Mutex
	seen []string
}

// New starts a proxy on a loopback address. The proxy stops when the test ends.
func New(t testing.TB, cfg Config) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", cmp.Or(cfg.Listen, "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), cfg: cfg}
	if cfg.TLS != nil {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*cfg.TLS}, MaxVersion: tls.VersionTLS12}) // like old proxies
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

// Seen returns the addresses to which clients asked to connect, in order.
func (p *Proxy) Seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.seen...)
}

func (p *Proxy) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	req, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.seen = append(p.seen, req.Host)
	p.mu.Unlock()
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(p.cfg.Name+":"+p.cfg.Password))
	switch {
	case p.cfg.Answer != "":
		io.WriteString(c, p.cfg.Answer)
		return
	case req.Method != http.MethodConnect:
		io.WriteString(c, "HTTP/1.1 405 Method Not Allowed\r\n\r\n")
		return
	case p.cfg.Name != "" && req.Header.Get("Proxy-Authorization") != want:
		io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"test\"\r\n\r\n")
		return
	}
	if p.cfg.Intercept != nil {
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*p.cfg.Intercept}}).Handshake()
		return
	}
	to, ok := p.cfg.To[req.Host]
	if !ok {
		to = req.Host
	}
	far, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	defer far.Close()
	io.WriteString(c, "HTTP/1.1 200 Connection established\r\nX-Proxy: test\r\n\r\n")
	go func() { io.Copy(far, in); far.Close() }()
	io.Copy(c, far)
}
