package pki

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"
	"time"
)

const proxyLife = 90 * 24 * time.Hour

// proxyRequest returns a request with names and extensions, which the hub must ignore.
func proxyRequest(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "hub.example"}, DNSNames: []string{"hub.example"},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}, // CA: true
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// A client that trusts only the hub's root accepts a proxy with a certificate from IssueProxy, but
// only under a name in that certificate. The test runs with a hub that has its root's key, and with
// a hub that has only a TLS CA.
func TestProxyHasACertificateOfTheHub(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]*Hub{"root": openNew(t, Options{}), "TLS CA": newCeremony(t).whole(t)} {
		t.Run(name, func(t *testing.T) {
			key := generate(t, elliptic.P384())
			text, leaf, err := h.IssueProxy(proxyRequest(t, key), []string{"proxy.example", "192.0.2.7"}, testNow, proxyLife)
			if err != nil {
				t.Fatal(err)
			}
			if leaf.IsCA || len(leaf.DNSNames) != 1 || !leaf.NotAfter.Equal(testNow.Add(proxyLife).Truncate(time.Second)) || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 1 {
				t.Errorf("the certificate: CA %t, names %q, key usage %d, %d, until %s", leaf.IsCA, leaf.DNSNames, leaf.KeyUsage, leaf.ExtKeyUsage, leaf.NotAfter)
			}
			chain, err := parseCertificates(text)
			if err != nil {
				t.Fatal(err)
			}
			links := x509.NewCertPool()
			own := tls.Certificate{PrivateKey: key}
			for _, c := range chain {
				own.Certificate = append(own.Certificate, c.Raw)
				links.AddCert(c)
			}
			for host, accepted := range map[string]bool{"proxy.example": true, "192.0.2.7": true, "hub.example": false} {
				if _, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: pool(h.Root()), Intermediates: links, CurrentTime: testNow}); (err == nil) != accepted {
					t.Errorf("a client that connects to %s: %v", host, err)
				}
			}
			server := &tls.Config{MinVersion: tls.VersionTLS13, Time: func() time.Time { return testNow }, Certificates: []tls.Certificate{own}}
			client := &tls.Config{MinVersion: tls.VersionTLS13, Time: server.Time, RootCAs: pool(h.Root()), ServerName: "proxy.example"}
			if s, cl := connect(t, server, client); s != nil || cl != nil {
				t.Errorf("the connection to the proxy: %v, %v", s, cl)
			}
			// The proxy's key and certificate are not enough to connect as a device, or to issue
			// certificates.
			if s, cl := connect(t, serverConfig(h), clientConfig(h, key, chain...)); s == nil {
				t.Errorf("the hub accepts the proxy's server certificate from a client: %v", cl)
			}
			below := issuedBy(t, leaf, key, generate(t, elliptic.P256()).Public())
			links.AddCert(leaf)
			if _, err := below.Verify(x509.VerifyOptions{Roots: pool(h.Root()), Intermediates: links, CurrentTime: testNow, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
				t.Error("the proxy can issue certificates")
			}
		})
	}
}

// The hub refuses a request that does not prove the possession of its key. It also refuses a key of
// the hub's CAs, a weak key, an invalid host name, and a validity that is too long.
func TestProxyRequestIsRefused(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	good := proxyRequest(t, generate(t, elliptic.P256()))
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	forged, _ := pem.Decode(good)
	forged.Bytes = bytes.Clone(forged.Bytes)
	forged.Bytes[len(forged.Bytes)-1] ^= 1
	names := []string{"proxy.example"}
	for _, tc := range []struct {
		why     string
		request []byte
		names   []string
		life    time.Duration
		want    string
	}{
		{"nothing is wrong", good, names, proxyLife, ""},
		{"empty", nil, names, proxyLife, "openssl req -new"},
		{"a certificate", certPEM(h.root.Raw), names, proxyLife, "openssl req -new"},
		{"two requests", bytes.Repeat(good, 2), names, proxyLife, "openssl req -new"},
		{"too long", bytes.Repeat([]byte{'\n'}, maxRequest+1), names, proxyLife, "at most"},
		{"garbage", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{0x30, 0}}), names, proxyLife, "the request"},
		{"a signature by another key", pem.EncodeToMemory(forged), names, proxyLife, "does not prove"},
		{"the root's key", proxyRequest(t, h.rootKey), names, proxyLife, "Root CA"},
		{"the device CA's key", proxyRequest(t, h.device.key), names, proxyLife, "Device CA"},
		{"a short RSA key", proxyRequest(t, weak), names, proxyLife, "1024 bits"},
		{"another curve", proxyRequest(t, generate(t, elliptic.P521())), names, proxyLife, "P-521"},
		{"no name", good, nil, proxyLife, "at least one name"},
		{"a URL as the name", good, []string{"https://proxy.example"}, proxyLife, "neither a DNS name"},
		{"too short a life", good, names, time.Hour, "1 to 366 days"},
		{"too long a life", good, names, 367 * 24 * time.Hour, "1 to 366 days"},
	} {
		_, _, err := h.IssueProxy(tc.request, tc.names, testNow, tc.life)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v", tc.why, err)
		}
	}
}

// A proxy's certificate does not outlive the CA that issued it, and an expired TLS CA issues none.
func TestProxyCertificateEndsWithItsCA(t *testing.T) {
	t.Parallel()
	h := newCeremony(t).whole(t)
	request := proxyRequest(t, generate(t, elliptic.P256()))
	end := h.TLSCA().NotAfter
	_, leaf, err := h.IssueProxy(request, []string{"proxy.example"}, end.Add(-time.Hour), proxyLife)
	if err != nil || !leaf.NotAfter.Equal(end) {
		t.Errorf("the certificate does not end with its CA, %s: %v", end, err)
	}
	if _, _, err := h.IssueProxy(request, []string{"proxy.example"}, end.Add(time.Hour), proxyLife); err == nil || !strings.Contains(err.Error(), "gangway ca request") {
		t.Errorf("an expired CA: %v", err)
	}
}
