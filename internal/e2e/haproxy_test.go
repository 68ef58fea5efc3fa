package e2e_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
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

	"gangway/hub/api"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/internal/process"
	"gangway/wire"
)

// countingSigner is a device's key that counts its signatures.
type countingSigner struct {
	crypto.Signer
	n int
}

func (s *countingSigner) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	s.n++
	return s.Signer.Sign(r, digest, o)
}

// With the HAProxy configuration of docs/operations.md, a device authenticates through HAProxy, and
// no client can forge the headers that HAProxy sends to the hub.
func TestHAProxyPassesDevices(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("haproxy"); err != nil {
		t.Skipf("%v: scripts/install.sh installs it", err)
	}
	dir := t.TempDir()
	write := func(name string, blocks ...*pem.Block) {
		t.Helper()
		var b bytes.Buffer
		for _, block := range blocks {
			if err := pem.Encode(&b, block); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert := func(c *x509.Certificate) *pem.Block { return &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw} }
	newKey := func() (*ecdsa.PrivateKey, *pem.Block) {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return key, &pem.Block{Type: "PRIVATE KEY", Bytes: der}
	}
	issue := func(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
		t.Helper()
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		c, err := fleet.Issue(template, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	caKey, _ := newKey()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "proxies"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	ca = issue(ca, ca, caKey, caKey)
	inKey, inPEM := newKey()
	inner := issue(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "proxy"}, DNSNames: []string{"proxy.internal"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca, inKey, caKey)

	maker, err := fleet.NewMaker("good", fleet.MakerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := hubtest.NewBehind(t, &api.Proxy{CAs: []*x509.Certificate{ca}, Name: "proxy.internal"}, maker.Roots(), maker.Intermediates())
	// Devices trust only the hub's CA, so this CA issues the certificate that HAProxy shows to
	// devices.
	outKey, outPEM := newKey()
	csr, err := x509.CreateCertificateRequest(rand.Reader, new(x509.CertificateRequest), outKey)
	if err != nil {
		t.Fatal(err)
	}
	_, outer, err := h.CA.IssueProxy(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), []string{"127.0.0.1"}, time.Now(), 90*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	write("inner.pem", cert(inner), inPEM)
	write("outer.pem", cert(outer), outPEM)
	write("devices.pem", cert(h.CA.DeviceCA()), cert(h.CA.Root()))
	write("hub-ca.pem", cert(h.CA.Root()))

	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, config, ok := strings.Cut(string(page), "```haproxy\n")
	config, _, closed := strings.Cut(config, "```")
	if !ok || !closed {
		t.Fatal("docs/operations.md has no configuration of HAProxy")
	}
	config = strings.NewReplacer("/etc/haproxy/", dir+"/", "bind :443", "bind fd@3", "hub.example:12443", strings.TrimPrefix(h.URL, "https://"), "sni str(hub.example) verifyhost hub.example", "").Replace(config)
	roots := x509.NewCertPool()
	roots.AddCert(h.CA.Root())
	front, p := startHAProxy(t, config)
	get := func(c *tls.Certificate, method, path string, header http.Header) (int, string) {
		t.Helper()
		config := &tls.Config{RootCAs: roots}
		if c != nil {
			config.Certificates = []tls.Certificate{*c}
		}
		client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: config}}
		defer client.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), method, front+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range header {
			req.Header[k] = v
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("%v: %s", err, p.Tail())
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if status, body := get(nil, "GET", "/healthz", nil); status != 200 {
		t.Fatalf("GET /healthz: %d %s: %s", status, brief.Of(body), p.Tail())
	}

	tok := h.Token(t, h.Owner, nil)
	direct, err := fleet.NewHub(tok)
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	d, err := fleet.New(maker, "H-2")
	if err != nil {
		t.Fatal(err)
	}
	certs, err := d.Onboard(t.Context(), direct, tok)
	if err != nil {
		t.Fatal(err)
	}
	mine := certs.TLS(d)
	id := h.Devices(t, h.Owner)[0].ID
	if status, body := get(&mine, "GET", "/device", nil); status != 200 || !strings.Contains(body, wire.DevicePRN+id) {
		t.Errorf("status %d: %s", status, brief.Of(body))
	}
	if status, body := get(&mine, "POST", "/auth/x509/login", nil); status != 200 {
		t.Errorf("status %d: %s", status, brief.Of(body))
	}
	if status, body := get(&mine, "POST", "/onboard/activate", nil); status != 400 || !strings.Contains(body, "activation-through-proxy") {
		t.Errorf("status %d: %s", status, brief.Of(body))
	}
	// A thief cannot use a stolen TLS session instead of the device's key. With the documented
	// settings, HAProxy resumes no session. Without these settings, the hub refuses a resumed
	// session.
	resuming, _ := startHAProxy(t, strings.NewReplacer("no-tls-tickets", "", "tune.ssl.cachesize 0", "").Replace(config))
	for _, tc := range []struct {
		front   string
		version uint16
		resumed bool
	}{{front, tls.VersionTLS12, false}, {front, tls.VersionTLS13, false}, {resuming, tls.VersionTLS12, true}, {resuming, tls.VersionTLS13, true}} {
		key := &countingSigner{Signer: d.IDevID.Private}
		config := &tls.Config{RootCAs: roots, MaxVersion: tc.version, ClientSessionCache: tls.NewLRUClientSessionCache(4), Certificates: []tls.Certificate{{Certificate: mine.Certificate, PrivateKey: key}}}
		for n := 1; n <= 2; n++ {
			client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: config}}
			resp, err := client.Post(tc.front+"/auth/x509/login", "", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			client.CloseIdleConnections()
			status, signatures, resumed := 200, n, tc.resumed && n == 2
			if resumed {
				status, signatures = 403, 1
			}
			if resp.StatusCode != status || resp.TLS.DidResume != resumed || key.n != signatures {
				t.Errorf("TLS version %x, connection %d: %d, resumed %v, %d signatures", tc.version, n, resp.StatusCode, resp.TLS.DidResume, key.n)
			}
		}
	}
	stolen := fmt.Sprintf(":%s:", base64.StdEncoding.EncodeToString(certs.IDevID.Raw))
	for _, header := range []http.Header{{"Client-Cert": {stolen}}, {"client-cert": {stolen}}, {"Client-Cert": {stolen}, "Client-Cert-Chain": {stolen}}} {
		if status, body := get(nil, "GET", "/device", header); status != 401 {
			t.Errorf("a forged header with the device's certificate: %d %s", status, brief.Of(body))
		}
	}
}

// startHAProxy starts HAProxy with a configuration that binds the file descriptor fd@3, and returns
// the URL of its listener.
func startHAProxy(t *testing.T, config string) (url string, p *process.Process) {
	t.Helper()
	url, cmd := haproxyCommand(t, config)
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(5 * time.Second) })
	return url, p
}

// haproxyCommand returns the command that startHAProxy starts. The listener's socket is already
// open, and stays in the network namespace of the test wherever HAProxy runs.
func haproxyCommand(t *testing.T, config string) (url string, cmd *exec.Cmd) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // only the copy of the socket accepts connections
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	cmd = exec.Command("haproxy", "-db", "-f", file)
	cmd.ExtraFiles = []*os.File{socket}
	return "https://" + l.Addr().String(), cmd
}
