package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"gangway/internal/pebble"
	"gangway/internal/process"
	"gangway/internal/race"
)

// 'gangway serve --acme' gets the certificate of the web pages from an ACME server, whose
// certificates are valid for a minute. While the hub serves the pages, it renews its certificate in
// the last 20 seconds. No connection may get an expired certificate.
func TestServeRenewsItsACMECertificate(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("builds an ACME server, and waits until a certificate of one minute is renewed")
	}
	self, err := exec.LookPath("gangway") // testscript puts this test binary into PATH under that name
	if err != nil {
		t.Fatal(err)
	}
	const name = "fleet.example"
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	dir, hub, pages := t.TempDir(), free(), free()
	ca := pebble.Start(t, pages, time.Minute)
	roots := filepath.Join(dir, "acme-ca.pem")
	if err := os.WriteFile(roots, ca.RootsPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	serve := exec.Command(self, "serve", "--data", filepath.Join(dir, "hub"), "--listen", hub, "--url", "https://"+hub, "--no-builtin-roots",
		"--page-listen", pages, "--page-url", "https://"+name, "--acme", "--acme-accept-tos", "--acme-directory", ca.Directory, "--acme-ca", roots)
	running, err := process.Start(serve)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { running.Stop(5 * time.Second) })

	look := func(roots *x509.CertPool) (*x509.Certificate, error) {
		client := &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", pages)
			},
		}}
		resp, err := client.Get("https://" + name + "/sign-in")
		if err != nil {
			return nil, err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("the sign-in form: %s", resp.Status)
		}
		return resp.TLS.PeerCertificates[0], nil
	}
	issuer := ca.Issuer(t)
	var first *x509.Certificate
	start := time.Now()
	for time.Since(start) < 3*time.Minute {
		cert, err := look(issuer)
		switch {
		case err != nil && first != nil:
			t.Fatalf("after the first certificate, a connection failed: %v\n%s", err, running.Tail())
		case err == nil && first == nil:
			first = cert
		case err == nil && !cert.Equal(first):
			if left := time.Until(first.NotAfter); left < 0 {
				t.Errorf("the renewal came %v after the end", -left)
			}
			if n := ca.Orders(t); n != 2 {
				t.Errorf("%d orders", n)
			}
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	log, _ := os.ReadFile(ca.Log)
	t.Fatalf("no renewal (the first certificate: %v)\n%s\n%.3000s", first != nil, running.Tail(), log)
}
