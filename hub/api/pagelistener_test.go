package api_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/webcert"
	"gangway/internal/hubtest"
	"gangway/internal/race"
	"gangway/wire"
)

const pageHost = "fleet.example"

// pageScene is a hub with a separate host name for its web pages, whose certificate is from another
// CA.
type pageScene struct {
	*scene
	listener net.Listener
	roots    *x509.CertPool
}

func newPageScene(t *testing.T) *pageScene {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{pageHost}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	der := must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))(t)
	private := must(x509.MarshalPKCS8PrivateKey(key))(t)
	dir := t.TempDir()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, text := range map[string][]byte{"crt": cert, "key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files := must(webcert.NewFiles(filepath.Join(dir, "crt"), filepath.Join(dir, "key"), pageHost, slog.New(slog.DiscardHandler), time.Now))(t)
	p := &pageScene{roots: x509.NewCertPool()}
	p.roots.AppendCertsFromPEM(cert)
	p.scene = newSceneWith(t, func(c *api.Config) { c.PageURL, c.PageCertificate = "https://"+pageHost, files })
	p.listener = must(net.Listen("tcp", "127.0.0.1:0"))(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Server.ServePages(ctx, p.listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

// visit sends a request to the host name of the hub's web pages, with the device certificate in
// `certs`, if any, as the client certificate.
func (p *pageScene) visit(t *testing.T, method, path, body string, header map[string]string, certs ...tls.Certificate) (int, string, http.Header) {
	t.Helper()
	c := &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: p.roots, Certificates: certs},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", p.listener.Addr().String())
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer c.CloseIdleConnections()
	req := must(http.NewRequestWithContext(t.Context(), method, "https://"+pageHost+path, strings.NewReader(body)))(t)
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp := must(c.Do(req))(t)
	defer resp.Body.Close()
	return resp.StatusCode, string(must(io.ReadAll(resp.Body))(t)), resp.Header
}

// On the listener of the web pages, a device's client certificate gives no identity, and the routes
// for devices do not exist.
func TestPagesOwnNameKnowsNoDevices(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	p := newPageScene(t)
	p.Server.Unlimited()
	certs := must(p.victim.Onboard(t.Context(), p.client, p.tok))(t)
	device := p.asDevice(t, p.victim, certs)
	want[struct{ ID string }](device, "GET", "/device", nil, 200) // the device's certificate is valid on the other listener
	token := want[struct{ Token string }](device, "POST", "/auth/x509/login", nil, 200).Token
	values := strings.NewReplacer("{id}", wire.NewID(), "{rev}", "0", "{sha}", strings.Repeat("0", 64), "{token}", "AAAA", "{file}", "00.crt", "{owner}", "nobody", "{code}", "AAAA")
	forDevices := []string{"activeDevice", "tlsDevice", "unmeasuredDevice", "pendingDevice"}
	proving := []string{"POST /onboard", "POST /enroll/request", "POST /register", "POST /devices/register", "POST /devices/?", "GET /claims/{code}", "POST /auth/signature/verify"}
	n := 0
	for _, r := range api.Routes() {
		route := r.Method + " " + r.Path
		for name, header := range map[string]map[string]string{"certificate": nil, "token": {"Authorization": "Bearer " + token}} {
			if testing.Short() && name == "token" {
				continue // each request needs a TLS handshake
			}
			status, body, _ := p.visit(t, r.Method, values.Replace(strings.TrimSuffix(r.Path, "/?")), "", header, certs.TLS(p.victim))
			var problem api.Problem
			_ = json.Unmarshal([]byte(body), &problem) // ignore the error: the body of a page is not JSON
			switch {
			case slices.Contains(forDevices, r.Access) || slices.Contains(proving, route):
				n++
				if status != 404 || problem.Code != "device-route" || !strings.Contains(problem.Hint, p.URL) {
					t.Errorf("%s with a device's %s: %d %.200s", route, name, status, body)
				}
			case slices.Contains([]string{"accountOrDevice", "scopedAccount", "anySignIn", "anySession", "fullSession", "operator"}, r.Access):
				if status != 401 || problem.Code != "not-signed-in" {
					t.Errorf("%s with a device's %s: %d %.200s", route, name, status, body)
				}
			}
		}
	}
	least := 30
	if testing.Short() {
		least /= 2
	}
	if n < least {
		t.Errorf("only %d requests were for devices", n)
	}
	status, body, _ := p.visit(t, "POST", "/auth/login", `{"username":"`+wire.DevicePRN+wire.NewID()+`","password":"x"}`, nil)
	if status != 404 || !strings.Contains(body, "device-route") {
		t.Errorf("a device signs in: %d %s", status, body)
	}
	forged := map[string]string{"Client-Cert": ":AAAA:"}
	if status, body, _ := p.visit(t, "GET", "/ui/overview", "", forged); status != 400 {
		t.Errorf("a forged Client-Cert header: %d %s", status, body)
	}
}

// The listener of the web pages does not request a client certificate, because browsers would then
// ask their users to choose one.
func TestPagesOwnNameAsksForNoCertificate(t *testing.T) {
	t.Parallel()
	p := newPageScene(t)
	asked := false
	c := must(tls.Dial("tcp", p.listener.Addr().String(), &tls.Config{
		ServerName: pageHost, RootCAs: p.roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			return new(tls.Certificate), nil
		},
	}))(t)
	defer c.Close()
	if asked || c.ConnectionState().Version != tls.VersionTLS13 {
		t.Errorf("asked: %v, version %x", asked, c.ConnectionState().Version)
	}
}

// A person can sign in at both host names. A cookie is valid for one host name only, and the hub
// refuses a form from a page of the other host name.
func TestSignInWorksAtBothNames(t *testing.T) {
	t.Parallel()
	p := newPageScene(t)
	p.signedIn(t, "ada")
	form := url.Values{"nick": {"ada"}, "password": {hubtest.Password}}.Encode()
	header := map[string]string{"Content-Type": "application/x-www-form-urlencoded", "Origin": "https://" + pageHost, "Sec-Fetch-Site": "same-origin"}
	status, body, h := p.visit(t, "POST", "/sign-in", form, header)
	cookie, _, _ := strings.Cut(h.Get("Set-Cookie"), ";")
	if status != 303 || !strings.HasPrefix(cookie, "__Host-gangway=") || strings.Contains(strings.ToLower(h.Get("Set-Cookie")), "domain=") {
		t.Fatalf("sign-in: %d %s %q", status, body, h.Get("Set-Cookie"))
	}
	if status, body, _ = p.visit(t, "GET", "/ui/overview", "", map[string]string{"Cookie": cookie}); status != 200 || !strings.Contains(body, "Overview") {
		t.Errorf("the overview: %d %.200s", status, body)
	}
	for _, origin := range []string{p.URL, "https://evil.example"} {
		header["Origin"] = origin
		delete(header, "Sec-Fetch-Site") // an old browser
		if status, body, _ = p.visit(t, "POST", "/sign-in", form, header); status != 403 || !strings.Contains(body, "cross-origin") {
			t.Errorf("a form of %s is accepted: %d %.200s", origin, status, body)
		}
	}
}

// Each answer announces the URL of the hub's web pages, and all other URLs in the answer have the
// host name that the client used.
func TestAddressesFollowTheName(t *testing.T) {
	t.Parallel()
	p := newPageScene(t)
	ada := p.person(t, "ada")
	if _, _, h := ada.request("GET", "/healthz", nil, nil); h.Get(wire.PagesHeader) != "https://"+pageHost {
		t.Errorf("%s: %q", wire.PagesHeader, h.Get(wire.PagesHeader))
	}
	bearer := map[string]string{"Authorization": "Bearer " + ada.token, "Content-Type": "application/json"}
	object := `{"objectname":"x","size":"1","sha256sum":"` + strings.Repeat("ab", 32) + `"}`
	status, body, _ := p.visit(t, "POST", "/objects", object, bearer)
	var made api.ObjectView
	if err := json.Unmarshal([]byte(body), &made); status != 200 || err != nil || !strings.HasPrefix(made.PutURL, "https://"+pageHost+"/local-s3/") {
		t.Errorf("%d %s", status, body)
	}
	if made = want[api.ObjectView](ada, "POST", "/objects", object, 200); !strings.HasPrefix(made.GetURL, p.URL+"/local-s3/") {
		t.Errorf("at the hub's own URL: %s", made.GetURL)
	}
	if _, _, h := p.visit(t, "GET", "/auth/", "", nil); !strings.Contains(h.Get("WWW-Authenticate"), "https://"+pageHost+"/auth") {
		t.Errorf("WWW-Authenticate: %s", h.Get("WWW-Authenticate"))
	}
}

// The hub refuses a configuration that has the URL of the web pages but no certificate for them, or
// a certificate but no URL.
func TestPagesOwnNameNeedsURLAndCertificate(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for _, u := range []string{"https://fleet.example", "http://fleet.example"} {
		if _, err := api.New(api.Config{Store: s.Store, CA: s.CA, Onboard: s.Service, Objects: s.Objects, Log: s.Log(), Now: s.Now, PublicURL: s.URL, Names: []string{"127.0.0.1"}, PageURL: u}); err == nil {
			t.Errorf("%s without a certificate is accepted", u)
		}
	}
	if err := s.Server.ServePages(t.Context()); err == nil {
		t.Error("the web pages are served without a host name of their own")
	}
}
