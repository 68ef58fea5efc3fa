package webcert_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gangway/hub/webcert"
	"gangway/internal/pebble"

	"golang.org/x/crypto/acme"
)

// The ACME server verifies the name by a challenge over TLS, and issues a certificate. A stranger
// then sends other names and many handshakes, for which the hub must not send any request to the
// ACME server.
func TestACMEGetsACertificateForItsNameOnly(t *testing.T) {
	if testing.Short() {
		t.Skip("builds an ACME server, and waits for its challenges: five seconds, longer the first time")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := pebble.Start(t, l.Addr().String(), 90*24*time.Hour)
	cache := filepath.Join(t.TempDir(), "acme")
	config := webcert.ACMEConfig{Name: host, Directory: p.Directory, Email: "ops@fleet.example", Cache: cache, Roots: p.Roots, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
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
	if n := p.Orders(t); n != 0 || !c.Expires().IsZero() {
		t.Fatalf("handshakes caused %d orders", n)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go c.Run(ctx)
	for i := 0; c.Expires().IsZero(); i++ {
		if i > 3000 { // pebble refuses some requests at random, and the hub retries after a minute
			text, _ := os.ReadFile(p.Log)
			t.Fatalf("no certificate: %s", text)
		}
		time.Sleep(50 * time.Millisecond)
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: p.Issuer(t)},
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
	if n := p.Orders(t); n != 1 {
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

	// After a restart, the hub must read the certificate from the cache folder.
	again, err := webcert.NewACME(config)
	if err != nil {
		t.Fatal(err)
	}
	go again.Run(ctx)
	for i := 0; again.Expires().IsZero() && i < 200; i++ {
		time.Sleep(20 * time.Millisecond)
	}
	if again.Expires() != c.Expires() || p.Orders(t) != 1 {
		t.Errorf("expires %v, not %v, after %d orders", again.Expires(), c.Expires(), p.Orders(t))
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
