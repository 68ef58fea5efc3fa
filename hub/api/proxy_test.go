package api_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/objects"
	"gangway/hub/onboard"
	"gangway/hub/pki"
	"gangway/hub/store/sqlite"
	"gangway/internal/fleet"
	"gangway/wire"
)

// behind is a scene with a reverse proxy in front of the hub. The proxy terminates TLS and forwards
// the client certificate in a header.
type behind struct {
	*scene
	ca    *x509.Certificate
	caKey *ecdsa.PrivateKey
	front *httptest.Server
}

const proxyName = "proxy.internal"

// sequence returns der as a Byte Sequence of RFC 8941.
func sequence(der []byte) string { return ":" + base64.StdEncoding.EncodeToString(der) + ":" }

func newCA(t testing.TB) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Proxy CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return must(fleet.Issue(template, template, key.Public(), key))(t), key
}

// certificate returns a new certificate from the proxy's CA. The function `change`, if not nil,
// alters the certificate's template.
func (b *behind) certificate(t testing.TB, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: proxyName}, DNSNames: []string{proxyName}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	return tls.Certificate{Certificate: [][]byte{must(fleet.Issue(template, b.ca, key.Public(), b.caKey))(t).Raw}, PrivateKey: key}
}

func newBehind(t testing.TB) *behind {
	t.Helper()
	return newBehindWith(t, func(*api.Config) {})
}

// newBehindWith is like newBehind, but first calls `change` with the hub's configuration, in which
// the proxy is already configured.
func newBehindWith(t testing.TB, change func(*api.Config)) *behind {
	t.Helper()
	b := new(behind)
	b.ca, b.caKey = newCA(t)
	b.scene = newSceneWith(t, func(c *api.Config) {
		c.Proxy = &api.Proxy{CAs: []*x509.Certificate{b.ca}, Name: proxyName}
		change(c)
	})
	to := must(url.Parse(b.URL))(t)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: b.client.Roots, Certificates: []tls.Certificate{b.certificate(t, nil)}}}
	b.front = httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Transport: transport,
		ErrorLog:  log.New(io.Discard, "", 0),
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to)
			p.SetXForwarded()
			p.Out.Header.Del("Client-Cert")
			p.Out.Header.Del("Client-Cert-Chain")
			if certs := p.In.TLS.PeerCertificates; len(certs) > 0 {
				p.Out.Header.Set("Client-Cert", sequence(certs[0].Raw))
				for _, link := range certs[1:] {
					p.Out.Header.Add("Client-Cert-Chain", sequence(link.Raw))
				}
			}
		},
	})
	b.front.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	b.front.StartTLS()
	t.Cleanup(func() { b.front.Close(); transport.CloseIdleConnections() })
	return b
}

// The method `through` sends a request through the proxy, with or without a client certificate.
func (b *behind) through(t testing.TB, cert *tls.Certificate, method, path, body string, header http.Header) *fleet.Answer {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(b.front.Certificate())
	config := &tls.Config{RootCAs: roots, ServerName: "example.com"}
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return sendOn(t, config, method, b.front.URL+path, body, header)
}

// asPeer sends a request directly to the hub, with any certificate and headers.
func (b *behind) asPeer(t testing.TB, cert *tls.Certificate, method, path string, header http.Header) *fleet.Answer {
	t.Helper()
	config := &tls.Config{RootCAs: b.client.Roots}
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return sendOn(t, config, method, b.URL+path, "", header)
}

// sendOn sends a request on a new connection. It returns status 0 if the handshake fails.
func sendOn(t testing.TB, config *tls.Config, method, address, body string, header http.Header) *fleet.Answer {
	t.Helper()
	c := http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	defer c.CloseIdleConnections()
	req := must(http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body)))(t)
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.Do(req)
	if err != nil {
		return &fleet.Answer{}
	}
	defer resp.Body.Close()
	return &fleet.Answer{Status: resp.StatusCode, Body: must(io.ReadAll(resp.Body))(t)}
}

func TestDeviceSignsInThroughTheProxy(t *testing.T) {
	t.Parallel()
	b := newBehind(t)
	c := must(b.victim.Onboard(t.Context(), b.client, b.tok))(t) // directly
	cert := c.TLS(b.victim)
	for _, path := range []string{"/auth/x509/login", "/device/secret"} {
		if a := b.through(t, &cert, "POST", path, "", nil); a.Status != 200 {
			t.Errorf("%s: %d %s", path, a.Status, a.Body)
		}
	}
	if a := b.through(t, &cert, "GET", "/device", "", nil); a.Status != 200 || !bytes.Contains(a.Body, []byte(b.deviceOf(t, b.victim))) {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	// A request without a certificate has no identity.
	refused(t, b.through(t, nil, "GET", "/device", "", nil), 401, "no-certificate")
	if a := b.through(t, nil, "GET", "/healthz", "", nil); a.Status != 200 {
		t.Errorf("%d", a.Status)
	}
	// Without the proxy, the device can still connect.
	if err := b.handshake(t, cert); err != nil {
		t.Error(err)
	}
}

func TestOnboardsInTwoStepsThroughTheProxy(t *testing.T) {
	t.Parallel()
	b := newBehind(t)
	s := &steps{scene: b.scene}
	s.pan = s.pantacorToken(t, s.Owner)
	first := b.through(t, nil, "POST", "/enroll/request", string(must(json.Marshal(b.victim.EnrollRequest()))(t)), nil)
	e := must(b.victim.OpenEnrolled(first.Body))(t)
	body := must(b.victim.Registration(s.pan, e.Keys, fleet.RegistrationChange{}))(t)
	cert := must(fleet.ParseRegistered(b.through(t, nil, "POST", "/register", string(body), nil)))(t)
	client := tls.Certificate{Certificate: [][]byte{cert.Raw, b.CA.DeviceCA().Raw}, PrivateKey: b.victim.IDevID.Private}
	if a := b.through(t, &client, "GET", "/device", "", nil); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// Activation is bound to the device's own TLS connection, so a proxy cannot forward an activation.
func TestActivationThroughTheProxyIsRefused(t *testing.T) {
	t.Parallel()
	b := newBehind(t)
	c := must(b.victim.Enrol(t.Context(), b.client, must(b.victim.Request(b.tok, fleet.RequestChange{}))(t)))(t)
	cert := c.TLS(b.victim)
	refused(t, b.through(t, &cert, "POST", "/onboard/activate", `{"proof":"AAAA"}`, nil), 400, "activation-through-proxy")
	b.boundNothing(t)
	if a := must(b.victim.Activate(t.Context(), b.client, c))(t); a.Status != 200 {
		t.Errorf("directly: %d %s", a.Status, a.Body)
	}
}

// Weakness 6 of Pantacor's original hub was that anyone could send the header Client-Cert with any
// certificate. This hub accepts the header only from the proxy.
func TestClientCertHeaderIsTheProxysAlone(t *testing.T) {
	t.Parallel()
	b := newBehind(t)
	c := must(b.victim.Onboard(t.Context(), b.client, b.tok))(t)
	stolen := http.Header{"Client-Cert": {sequence(c.IDevID.Raw)}}
	chain := http.Header{"Client-Cert-Chain": {sequence(c.DeviceCA.Raw)}}
	thief := b.device(t)
	own := must(thief.Onboard(t.Context(), b.client, b.tok))(t).TLS(thief)
	for name, cert := range map[string]*tls.Certificate{"nobody": nil, "a device": &own} {
		for _, header := range []http.Header{stolen, chain} {
			for _, route := range []string{"GET /device", "POST /auth/x509/login", "GET /healthz", "POST /onboard/activate", "GET /nothing"} {
				method, path, _ := strings.Cut(route, " ")
				a := b.asPeer(t, cert, method, path, header)
				if a.Status != 400 || a.Code() != "client-cert-header" {
					t.Errorf("%s, %s: %d %s", name, route, a.Status, a.Body)
				}
			}
		}
	}
	// If a client sends a Client-Cert header through the proxy, the hub ignores it and uses only
	// the header that the proxy itself writes.
	refused(t, b.through(t, nil, "GET", "/device", "", stolen), 401, "no-certificate")
	if a := b.through(t, &own, "GET", "/device", "", stolen); a.Status != 200 || !bytes.Contains(a.Body, []byte(b.deviceOf(t, thief))) {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	// The headers of Pantacor's original hub have no effect.
	refused(t, b.asPeer(t, nil, "GET", "/device", http.Header{"Pantahub-Tls-Proxy-Token": {"abcde1234"}, "Pantahub-Tls-Client-Cert": {url.QueryEscape(string(c.IDevID.Raw))}}), 401, "no-certificate")
}

// A hub without a proxy does not accept the header Client-Cert from any client.
func TestClientCertHeaderWithoutAProxyIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	status, body, _ := s.person(t, "").request("GET", "/device", nil, map[string]string{"Client-Cert": sequence(c.IDevID.Raw)})
	if status != 400 || !bytes.Contains(body, []byte("client-cert-header")) {
		t.Errorf("%d %s", status, body)
	}
}

func TestOnlyTheProxysOwnCertificateMakesAProxy(t *testing.T) {
	t.Parallel()
	b := newBehind(t)
	c := must(b.victim.Onboard(t.Context(), b.client, b.tok))(t)
	stolen := http.Header{"Client-Cert": {sequence(c.IDevID.Raw)}}
	good := b.certificate(t, nil)
	if a := b.asPeer(t, &good, "GET", "/device", stolen); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	strangers, key := newCA(t)
	stranger := behind{ca: strangers, caKey: key}
	for name, cert := range map[string]tls.Certificate{
		"another name":                   b.certificate(t, func(c *x509.Certificate) { c.DNSNames = []string{"other.internal"} }),
		"the name only in the CN":        b.certificate(t, func(c *x509.Certificate) { c.DNSNames = nil }),
		"expired":                        b.certificate(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		"for servers":                    b.certificate(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
		"by a CA of the same name":       stranger.certificate(t, nil),
		"a device's, named as the proxy": b.deviceCertificateNamed(t, c),
	} {
		a := b.asPeer(t, &cert, "GET", "/device", stolen)
		if a.Status == 200 || a.Status == 401 {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	// The proxy's certificate does not identify a device.
	refused(t, b.asPeer(t, &good, "GET", "/device", nil), 401, "no-certificate")
	if a := b.asPeer(t, &good, "POST", "/auth/x509/login", nil); a.Status != 401 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// deviceCertificateNamed returns a certificate with the proxy's name that is issued by the device
// CA. The hub never issues such a certificate. A client with this certificate does not count as the
// proxy, because the certificate is not from the proxy's CA.
func (b *behind) deviceCertificateNamed(t testing.TB, c *fleet.Certificates) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: c.IDevID.Subject, DNSNames: []string{proxyName}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	cert := must(fleet.Issue(template, b.CA.DeviceCA(), key.Public(), b.DeviceCAKey(t)))(t)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func TestForwardedCertificateIsVerifiedAsInTLS(t *testing.T) {
	t.Parallel()
	b := newBehind(t)
	c := must(b.victim.Onboard(t.Context(), b.client, b.tok))(t)
	proxy := b.certificate(t, nil)
	good := sequence(c.IDevID.Raw)
	raw := base64.StdEncoding.EncodeToString(c.IDevID.Raw)
	altered := bytes.Clone(c.IDevID.Raw)
	altered[len(altered)-1] ^= 1
	links := strings.Repeat(sequence(c.DeviceCA.Raw)+", ", wire.MaxIntermediates)
	for name, header := range map[string]http.Header{
		"altered":              {"Client-Cert": {sequence(altered)}},
		"the IAK's":            {"Client-Cert": {sequence(c.IAK.Raw)}, "Client-Cert-Chain": {sequence(c.ACA.Raw)}},
		"the device CA's":      {"Client-Cert": {sequence(c.DeviceCA.Raw)}},
		"the EK's":             {"Client-Cert": {sequence(b.victim.EKCert)}, "Client-Cert-Chain": {sequence(b.maker.Intermediate.Raw)}},
		"the proxy's":          {"Client-Cert": {sequence(proxy.Certificate[0])}, "Client-Cert-Chain": {sequence(b.ca.Raw)}},
		"empty":                {"Client-Cert": {""}},
		"two":                  {"Client-Cert": {good, good}},
		"two in one":           {"Client-Cert": {good + ", " + good}},
		"with parameters":      {"Client-Cert": {good + ";a=1"}},
		"no sequence":          {"Client-Cert": {raw}},
		"half a sequence":      {"Client-Cert": {":" + raw}},
		"a string":             {"Client-Cert": {`"` + raw + `"`}},
		"no base64":            {"Client-Cert": {":" + raw[1:] + ":"}},
		"base64 with a break":  {"Client-Cert": {":" + raw[:8] + " " + raw[8:] + ":"}},
		"base64 for addresses": {"Client-Cert": {":" + strings.NewReplacer("+", "-", "/", "_").Replace(raw) + "-_:"}},
		"PEM for addresses":    {"Client-Cert": {url.QueryEscape("-----BEGIN CERTIFICATE-----\n" + raw)}},
		"trailing bytes":       {"Client-Cert": {sequence(append(bytes.Clone(c.IDevID.Raw), 0))}},
		"only a chain":         {"Client-Cert-Chain": {sequence(c.DeviceCA.Raw)}},
		"a chain of nonsense":  {"Client-Cert": {good}, "Client-Cert-Chain": {":AAAA:"}},
		"a chain too long":     {"Client-Cert": {good}, "Client-Cert-Chain": {links + sequence(c.DeviceCA.Raw)}},
	} {
		a := b.asPeer(t, &proxy, "GET", "/device", header)
		if a.Status != 400 && a.Status != 431 || a.Status == 400 && a.Code() != "client-cert-header" {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	with := http.Header{"Client-Cert": {good}, "Client-Cert-Chain": {sequence(c.DeviceCA.Raw), sequence(b.CA.Root().Raw)}}
	if a := b.asPeer(t, &proxy, "GET", "/device", with); a.Status != 200 {
		t.Errorf("with its chain: %d %s", a.Status, a.Body)
	}
	// The device's certificate must also be active in the store.
	unknown := b.deviceCertificateNamed(t, c)
	refused(t, b.asPeer(t, &proxy, "GET", "/device", http.Header{"Client-Cert": {sequence(unknown.Certificate[0])}}), 403, "certificate-not-active")
	if err := b.Store.DeleteDevice(t.Context(), b.Owner.ID, b.deviceOf(t, b.victim), b.Now()); err != nil {
		t.Fatal(err)
	}
	refused(t, b.asPeer(t, &proxy, "GET", "/device", http.Header{"Client-Cert": {good}}), 403, "certificate-not-active")
}

// Behind a proxy, rate limits apply to the client address that the proxy reports. The hub ignores
// the addresses that the client itself sends in headers.
func TestLimitsBehindTheProxyAreEachClientsOwn(t *testing.T) {
	t.Parallel()
	b := newBehind(t)
	proxy := b.certificate(t, nil)
	guess := func(cert *tls.Certificate, forwarded string) int {
		header := http.Header{"X-Forwarded-For": {forwarded}}
		return b.asPeer(t, cert, "POST", "/auth/login", header).Status
	}
	limited := func(cert *tls.Certificate, forwarded string) bool {
		for range 200 { // on a slow machine, the limit lets more guesses through
			if guess(cert, forwarded) == http.StatusTooManyRequests {
				return true
			}
		}
		return false
	}
	if !limited(&proxy, "203.0.113.1, 192.0.2.1") {
		t.Fatal("guessing is not limited")
	}
	if guess(&proxy, "192.0.2.2") == http.StatusTooManyRequests {
		t.Error("one client's guesses limit another client")
	}
	if guess(&proxy, "203.0.113.2, 192.0.2.1") != http.StatusTooManyRequests {
		t.Error("a client's own header made it another client")
	}
	if !limited(nil, "192.0.2.3") || guess(nil, "192.0.2.4") != http.StatusTooManyRequests {
		t.Error("a client that is not the proxy chose its own address")
	}
}

func TestProxyMustNotBeOfTheHubsOwnCA(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := must(pki.Open(filepath.Join(dir, "pki"), pki.Options{Name: "Test"}))(t)
	db := must(sqlite.Open(t.Context(), filepath.Join(dir, "gangway.db")))(t)
	defer db.Close()
	contents := must(objects.OpenFolder(filepath.Join(dir, "objects")))(t)
	defer contents.Close()
	good, _ := newCA(t)
	leaf := *good
	leaf.IsCA = false
	try := func(p *api.Proxy) error {
		_, err := api.New(api.Config{Store: db, CA: ca, Onboard: new(onboard.Service), Objects: contents, Log: slog.New(slog.DiscardHandler), Now: time.Now, PublicURL: "https://127.0.0.1", Names: []string{"127.0.0.1"}, Proxy: p})
		return err
	}
	if err := try(&api.Proxy{CAs: []*x509.Certificate{good}, Name: proxyName}); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]*api.Proxy{
		"root": {CAs: []*x509.Certificate{ca.Root()}, Name: proxyName}, "device CA": {CAs: []*x509.Certificate{good, ca.DeviceCA()}, Name: proxyName},
		"ACA": {CAs: []*x509.Certificate{ca.ACA()}, Name: proxyName}, "no CA": {CAs: []*x509.Certificate{&leaf}, Name: proxyName},
		"none": {Name: proxyName}, "no name": {CAs: []*x509.Certificate{good}},
	} {
		if try(p) == nil {
			t.Errorf("%s was accepted as the proxy's CA", name)
		}
	}
}
