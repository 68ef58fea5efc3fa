package webcert_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/hub/webcert"
	"gangway/internal/process"

	"golang.org/x/crypto/acme"
)

// pebble is Let's Encrypt's ACME server for tests (Pebble), with its DNS server. The DNS server
// resolves all names to 127.0.0.1.
type pebble struct {
	directory, management string
	roots                 *x509.CertPool // verify the connection to the server
	log                   string         // path of the file with the server's output
}

// freePort returns a loopback address with a port that no process listens on.
func freePort(t *testing.T, network string) string {
	t.Helper()
	if network == "udp" {
		l, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.LocalAddr().String()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// buildPebble builds the ACME server from the server's own Go module, and returns the path of the
// folder with the programs. If the module cannot be downloaded or built, the test is skipped.
func buildPebble(t *testing.T) string {
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

// startPebble starts the ACME server. To verify a name, the server connects to the port of the
// address `pages`.
func startPebble(t *testing.T, pages string) *pebble {
	t.Helper()
	bin := buildPebble(t)
	dir := t.TempDir()
	_, port, _ := net.SplitHostPort(pages)
	cert, key := pair(t, "localhost", 1, time.Now().Add(24*time.Hour))
	p := &pebble{roots: x509.NewCertPool(), log: filepath.Join(dir, "pebble.log")}
	p.roots.AppendCertsFromPEM(cert)
	at, management, dns := freePort(t, "tcp"), freePort(t, "tcp"), freePort(t, "udp")
	config := fmt.Sprintf(`{"pebble": {"listenAddress": %q, "managementListenAddress": %q, "certificate": %q, "privateKey": %q,
		"httpPort": 1, "tlsPort": %s, "retryAfter": {"authz": 1, "order": 1}, "keyAlgorithm": "ecdsa",
		"profiles": {"default": {"description": "for tests", "validityPeriod": 7776000}}}}`, at, management, filepath.Join(dir, "crt"), filepath.Join(dir, "key"), port)
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
		c.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1")
		c.Stdout, c.Stderr = out, out
		running, err := process.Start(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { running.Stop(0); out.Close() })
	}
	start(filepath.Join(dir, "dns.log"), "pebble-challtestsrv", "-dnsserver", dns, "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-management", freePort(t, "tcp"))
	start(p.log, "pebble", "-config", filepath.Join(dir, "config"), "-dnsserver", dns)
	_, atPort, _ := net.SplitHostPort(at)
	_, managementPort, _ := net.SplitHostPort(management)
	p.directory, p.management = "https://localhost:"+atPort+"/dir", "https://localhost:"+managementPort
	for range 200 {
		if c, err := net.Dial("tcp", at); err == nil {
			c.Close()
			return p
		}
		time.Sleep(50 * time.Millisecond)
	}
	text, _ := os.ReadFile(p.log)
	t.Fatalf("pebble does not start: %.1000s", text)
	return nil
}

// issuer returns the root certificate of the certificates that the ACME server issues.
func (p *pebble) issuer(t *testing.T) *x509.CertPool {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.roots}}}
	defer c.CloseIdleConnections()
	resp, err := c.Get(p.management + "/roots/0")
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

// orders returns the number of certificate orders that the ACME server received.
func (p *pebble) orders(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), "Added order")
}

// The ACME server verifies the name by a challenge over TLS, and issues a certificate. A stranger
// sends other names, and then many handshakes. The hub sends no request to the ACME server for
// these.
func TestACMEGetsACertificateForItsNameOnly(t *testing.T) {
	if testing.Short() {
		t.Skip("builds an ACME server, and waits for its challenges: five seconds, longer the first time")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := startPebble(t, l.Addr().String())
	cache := filepath.Join(t.TempDir(), "acme")
	config := webcert.ACMEConfig{Name: host, Directory: p.directory, Email: "ops@fleet.example", Cache: cache, Roots: p.roots, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
	c, err := webcert.NewACME(config)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode("activated") }),
		TLSConfig: &tls.Config{GetCertificate: c.GetCertificate, NextProtos: append([]string{"http/1.1"}, c.Protocols()...), MinVersion: tls.VersionTLS13},
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	go srv.ServeTLS(l, "", "")
	defer srv.Close()
	dial := func(name string, protocols ...string) (*x509.Certificate, error) {
		conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: protocols})
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0], nil
	}

	for _, name := range []string{"other.example", "fleet.example.evil.example", "..", host} {
		if _, err := dial(name); err == nil {
			t.Errorf("a handshake with %q succeeds before there is a certificate", name)
		}
	}
	if n := p.orders(t); n != 0 || !c.Expires().IsZero() {
		t.Fatalf("handshakes caused %d orders", n)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go c.Run(ctx)
	for i := 0; c.Expires().IsZero(); i++ {
		if i > 600 {
			text, _ := os.ReadFile(p.log)
			t.Fatalf("no certificate: %s", text)
		}
		time.Sleep(50 * time.Millisecond)
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: p.issuer(t)},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		},
	}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + host)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for range 20 {
		if _, err := dial("other.example"); err == nil {
			t.Error("another name gets a certificate")
		}
	}
	if _, err := dial("other.example", acme.ALPNProto); err == nil {
		t.Error("a challenge about another name is answered")
	}
	if n := p.orders(t); n != 1 {
		t.Errorf("%d orders", n)
	}

	entries, err := os.ReadDir(cache)
	if err != nil || len(entries) < 2 {
		t.Fatalf("the cache has %d files: %v", len(entries), err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", e.Name(), info.Mode(), err)
		}
	}

	// After a restart of the hub, the certificate comes from the cache folder.
	again, err := webcert.NewACME(config)
	if err != nil {
		t.Fatal(err)
	}
	go again.Run(ctx)
	for i := 0; again.Expires().IsZero() && i < 200; i++ {
		time.Sleep(20 * time.Millisecond)
	}
	if again.Expires() != c.Expires() || p.orders(t) != 1 {
		t.Errorf("expires %v, not %v, after %d orders", again.Expires(), c.Expires(), p.orders(t))
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) { w.t.Log(string(b)); return len(b), nil }

func TestACMENeedsADNSName(t *testing.T) {
	for _, name := range []string{"", "localhost", "192.0.2.1", "2001:db8::1", "a b.example", "*"} {
		if _, err := webcert.NewACME(webcert.ACMEConfig{Name: name, Log: slog.New(slog.DiscardHandler)}); err == nil {
			t.Errorf("%q is accepted", name)
		}
	}
}
