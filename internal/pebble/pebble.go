// Package pebble runs Pebble, which is Let's Encrypt's ACME server for tests, with its DNS server.
// Both programs are built from the Go module internal/acmetest.
package pebble

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/internal/process"
)

// Server is a running ACME server. Its DNS server resolves all names to 127.0.0.1.
type Server struct {
	Directory string         // URL of the directory
	Roots     *x509.CertPool // root certificates for the connection to the server
	RootsPEM  []byte         // the certificates in Roots, in PEM
	Log       string         // path of the file with the server's output

	management string
}

// freePort returns a loopback address with a port that no process uses, neither with TCP nor with
// UDP: the DNS server needs both.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		at := l.Addr().String()
		u, err := net.ListenPacket("udp", at)
		l.Close()
		if err == nil {
			u.Close()
			return at
		}
	}
	t.Fatal("no port is free for both TCP and UDP")
	return ""
}

// waitForDNS waits until the DNS server answers.
func waitForDNS(t *testing.T, at, log string) {
	t.Helper()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, at)
	}}
	var err error
	for range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err = resolver.LookupHost(ctx, "pages.example")
		cancel()
		if err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	text, _ := os.ReadFile(log)
	t.Fatalf("the DNS server does not answer: %v: %.1000s", err, text)
}

// build builds the ACME server from the server's own Go module, and returns the path of the folder
// with the programs. If the module cannot be downloaded or built, the test is skipped.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "github.com/letsencrypt/pebble/v2/cmd/pebble", "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv")
	build.Dir = filepath.Join("..", "..", "internal", "acmetest")
	if out, err := build.CombinedOutput(); err != nil {
		t.Skipf("the ACME server pebble cannot be built here, so ACME is not tested: %v: %.300s", err, out)
	}
	return dir
}

// selfSigned returns a certificate for localhost and its key, both in PEM.
func selfSigned(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// Start starts the ACME server, which runs until the test ends. To verify a name, the server
// connects to the port of the address `pages`. The server issues certificates that are valid for
// the time `valid`.
func Start(t *testing.T, pages string, valid time.Duration) *Server {
	t.Helper()
	bin := build(t)
	dir := t.TempDir()
	_, port, _ := net.SplitHostPort(pages)
	cert, key := selfSigned(t)
	s := &Server{Roots: x509.NewCertPool(), RootsPEM: cert, Log: filepath.Join(dir, "pebble.log")}
	s.Roots.AppendCertsFromPEM(cert)
	at, management, dns := freePort(t), freePort(t), freePort(t)
	config := fmt.Sprintf(`{"pebble": {"listenAddress": %q, "managementListenAddress": %q, "certificate": %q, "privateKey": %q,
		"httpPort": 1, "tlsPort": %s, "retryAfter": {"authz": 1, "order": 1}, "keyAlgorithm": "ecdsa",
		"profiles": {"default": {"description": "for tests", "validityPeriod": %d}}}}`, at, management, filepath.Join(dir, "crt"), filepath.Join(dir, "key"), port, int(valid.Seconds()))
	for name, text := range map[string]string{"config": config, "crt": string(cert), "key": string(key)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start := func(log string, name string, args ...string) {
		out, err := os.Create(log)
		if err != nil {
			t.Fatal(err)
		}
		c := exec.Command(filepath.Join(bin, name), args...)
		// Without the first variable, the server waits up to 15 seconds before it checks a
		// challenge; without the second, it rejects every twentieth request.
		c.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
		c.Stdout, c.Stderr = out, out
		running, err := process.Start(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { running.Stop(0); out.Close() })
	}
	dnsLog := filepath.Join(dir, "dns.log")
	start(dnsLog, "pebble-challtestsrv", "-dnsserver", dns, "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-management", freePort(t))
	waitForDNS(t, dns, dnsLog)
	start(s.Log, "pebble", "-config", filepath.Join(dir, "config"), "-dnsserver", dns)
	_, atPort, _ := net.SplitHostPort(at)
	_, managementPort, _ := net.SplitHostPort(management)
	s.Directory, s.management = "https://localhost:"+atPort+"/dir", "https://localhost:"+managementPort
	for range 200 {
		if c, err := net.Dial("tcp", at); err == nil {
			c.Close()
			return s
		}
		time.Sleep(50 * time.Millisecond)
	}
	text, _ := os.ReadFile(s.Log)
	t.Fatalf("pebble does not start: %.1000s", text)
	return nil
}

// Issuer returns the root certificate of the certificates that the ACME server issues.
func (s *Server) Issuer(t *testing.T) *x509.CertPool {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.Roots}}}
	defer c.CloseIdleConnections()
	resp, err := c.Get(s.management + "/roots/0")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatalf("no root: %s", text)
	}
	return pool
}

// Orders returns the number of certificate orders that the ACME server received.
func (s *Server) Orders(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(s.Log)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), "Added order")
}
