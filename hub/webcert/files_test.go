package webcert_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gangway/hub/webcert"
	"gangway/internal/locked"
)

const host = "fleet.example"

// pair makes a self-signed certificate for a name. It returns both the certificate and its key in
// PEM.
func pair(t *testing.T, name string, serial int64, until time.Time) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{name}, NotBefore: until.Add(-48 * time.Hour), NotAfter: until,
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

// files holds the paths of a certificate and its key in a temporary folder, and a clock and a log
// for tests of webcert.Files.
type files struct {
	t         *testing.T
	cert, key string
	ahead     atomic.Int64
	log       locked.Buffer
}

func (f *files) now() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) }

func newFiles(t *testing.T) *files {
	dir := t.TempDir()
	return &files{t: t, cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key")}
}

// The method `put` writes a file, and advances the clock so that the next handshake reads the files
// again.
func (f *files) put(path string, text []byte) {
	f.t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.ahead.Add(int64(2 * time.Second))
}

func (f *files) open() *webcert.Files {
	f.t.Helper()
	c, err := webcert.NewFiles(f.cert, f.key, host, slog.New(slog.NewTextHandler(&f.log, nil)), f.now)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func serial(t *testing.T, c *webcert.Files) int64 {
	t.Helper()
	got, err := c.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return got.Leaf.SerialNumber.Int64()
}

// When there is a new pair, new connections use it, and open connections continue.
func TestReloadsANewPairWhileConnectionsGoOn(t *testing.T) {
	f := newFiles(t)
	cert, key := pair(t, host, 1, time.Now().Add(24*time.Hour))
	f.put(f.cert, cert)
	f.put(f.key, key)
	c := f.open()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler(), TLSConfig: &tls.Config{GetCertificate: c.GetCertificate}}
	go srv.ServeTLS(l, "", "")
	defer srv.Close()
	client := func() *http.Client {
		return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	}
	get := func(c *http.Client) (serial int64) {
		resp, err := c.Get("https://" + l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.ReadAll(resp.Body); err != nil { // read the whole body, so that the client uses the connection again
			t.Fatal(err)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	old := client()
	defer old.CloseIdleConnections()
	if n := get(old); n != 1 {
		t.Fatalf("certificate %d", n)
	}
	cert, key = pair(t, host, 2, time.Now().Add(24*time.Hour))
	f.put(f.cert, cert)
	f.put(f.key, key)
	fresh := client()
	defer fresh.CloseIdleConnections()
	if n := get(fresh); n != 2 {
		t.Errorf("a new connection got certificate %d", n)
	}
	if n := get(old); n != 1 {
		t.Errorf("the open connection did not go on: certificate %d", n)
	}
	if !strings.Contains(f.log.String(), "new certificate") {
		t.Errorf("nothing was logged: %s", f.log.String())
	}
}

// If a new pair is incomplete, has the key of another certificate, is for another name, or has
// expired, the hub keeps the previous pair and logs the reason once.
func TestKeepsThePairWhenTheNewOneIsBroken(t *testing.T) {
	f := newFiles(t)
	cert, key := pair(t, host, 1, time.Now().Add(24*time.Hour))
	f.put(f.cert, cert)
	f.put(f.key, key)
	c := f.open()
	cert2, key2 := pair(t, host, 2, time.Now().Add(24*time.Hour))
	other, otherKey := pair(t, "other.example", 3, time.Now().Add(24*time.Hour))
	old, oldKey := pair(t, host, 4, time.Now().Add(-time.Hour))
	for _, one := range []struct {
		why       string
		cert, key []byte
		logged    string
	}{
		{"the new key is not there yet", cert2, key, "private key does not match public key"},
		{"half of the key is written", cert2, key2[:len(key2)/2], "failed to find any PEM data in key input"},
		{"the key is empty", cert2, nil, "failed to find any PEM data in key input"},
		{"for another name", other, otherKey, "not for the host name of the web pages"},
		{"expired", old, oldKey, "expired on"},
		{"too large", append(cert2, make([]byte, 1<<20)...), key2, "is larger than"},
	} {
		before := strings.Count(f.log.String(), one.logged)
		f.put(f.cert, one.cert)
		f.put(f.key, one.key)
		for range 3 {
			f.ahead.Add(int64(2 * time.Second))
			if n := serial(t, c); n != 1 {
				t.Fatalf("%s: certificate %d is used", one.why, n)
			}
		}
		if n := strings.Count(f.log.String(), one.logged); n != before+1 && n != 1 {
			t.Errorf("%s: logged %d times: %s", one.why, n-before, f.log.String())
		}
	}
	if err := os.Remove(f.key); err != nil {
		t.Fatal(err)
	}
	f.ahead.Add(int64(2 * time.Second))
	if n := serial(t, c); n != 1 {
		t.Errorf("without its key: certificate %d", n)
	}
	f.put(f.cert, cert2)
	f.put(f.key, key2)
	if n := serial(t, c); n != 2 {
		t.Errorf("the whole pair is not used: %d", n)
	}
}

// GetCertificate reads the files at most once a second, even if many connections begin.
func TestReadsTheFilesOnceASecond(t *testing.T) {
	f := newFiles(t)
	cert, key := pair(t, host, 1, time.Now().Add(24*time.Hour))
	f.put(f.cert, cert)
	f.put(f.key, key)
	frozen := time.Now()
	c, err := webcert.NewFiles(f.cert, f.key, host, slog.New(slog.DiscardHandler), func() time.Time { return frozen })
	if err != nil {
		t.Fatal(err)
	}
	cert, key = pair(t, host, 2, time.Now().Add(24*time.Hour))
	f.put(f.cert, cert)
	f.put(f.key, key)
	if n := serial(t, c); n != 1 {
		t.Errorf("the files were read again at once: %d", n)
	}
	frozen = frozen.Add(time.Second)
	if n := serial(t, c); n != 2 {
		t.Errorf("the files were not read after a second: %d", n)
	}
}

func TestRefusesFilesThatAreNoPair(t *testing.T) {
	f := newFiles(t)
	refused := func(why string) {
		t.Helper()
		if _, err := webcert.NewFiles(f.cert, f.key, host, slog.New(slog.DiscardHandler), time.Now); err == nil {
			t.Errorf("%s: accepted", why)
		}
	}
	refused("no files")
	cert, key := pair(t, "other.example", 1, time.Now().Add(24*time.Hour))
	f.put(f.cert, cert)
	refused("no key")
	f.put(f.key, key)
	refused("another name")
	cert, key = pair(t, host, 1, time.Now().Add(-time.Hour))
	f.put(f.cert, cert)
	f.put(f.key, key)
	if c := f.open(); !strings.Contains(f.log.String(), "has expired") || serial(t, c) != 1 {
		t.Errorf("an expired certificate keeps the hub from starting, or nobody is told: %s", f.log.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.open().Run(ctx) // must return, because ctx has ended
}
