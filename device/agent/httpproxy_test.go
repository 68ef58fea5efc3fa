package agent

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/internal/connectproxy"
)

const behind = "hub.example:443" // an address that only the proxy knows

// behindProxy returns a connection to a hub through a proxy. The proxy's URL has a name and a
// password.
func behindProxy(t *testing.T, cfg connectproxy.Config, server *httptest.Server, ca *testCA, trusted ...*x509.Certificate) (*hub, *connectproxy.Proxy) {
	t.Helper()
	cfg.To = map[string]string{behind: server.Listener.Addr().String()}
	p := connectproxy.New(t, cfg)
	u := &url.URL{Scheme: "http", Host: p.Addr, User: url.UserPassword("ada", "hunter2")}
	if cfg.TLS != nil {
		u.Scheme = "https"
	}
	h, err := newHub(newAddresses([]string{"https://" + behind}, ""), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})), &HTTPProxy{u, trusted})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	h.now = func() time.Time { return day(1550) }
	return h, p
}

func named(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = []string{name}, nil }
}

// The agent sends its requests to the hub through the proxy. It also downloads and uploads objects
// through the proxy.
func TestHubIsReachedThroughAProxy(t *testing.T) {
	t.Parallel()
	ca, proxyCA := newTestCA(t), connectproxy.NewCA(t, "proxy")
	s := ca.serve(1500, 1600, 1550, named("hub.example"))
	for name, cfg := range map[string]connectproxy.Config{
		"http":            {},
		"with a password": {Name: "ada", Password: "hunter2"},
		"https":           {TLS: proxyCA.Server(t, "127.0.0.1"), Name: "ada", Password: "hunter2"},
	} {
		t.Run(name, func(t *testing.T) {
			h, p := behindProxy(t, cfg, s, ca, proxyCA.Certificate)
			for range 2 {
				if _, err := h.send(t.Context(), "GET", "/", "", nil); err != nil {
					t.Fatal(err)
				}
			}
			if n := h.connections.Load(); n != 1 || len(p.Seen()) != 1 {
				t.Errorf("%d connections, and the proxy made %q", n, p.Seen())
			}
			blobs := h.newBlobClient(h.url())
			defer blobs.CloseIdleConnections()
			resp, err := blobs.Get("https://" + behind + "/")
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if got := p.Seen(); !slices.Equal(got, []string{behind, behind}) {
				t.Errorf("the proxy made %q", got)
			}
			client, _ := h.http.get()
			if client.Transport.(*http.Transport).Proxy != nil || blobs.Transport.(*http.Transport).Proxy != nil {
				t.Error("the environment names a proxy too")
			}
		})
	}
}

// The agent refuses a proxy that intercepts the agent's TLS connection to the hub. In the first
// case, the proxy's certificate for the hub's name is from an unknown CA. In the second case, it is
// from a CA that the network settings trust, but only for connections to the proxy.
func TestInterceptingProxyIsRefused(t *testing.T) {
	t.Parallel()
	ca, proxyCA, other := newTestCA(t), connectproxy.NewCA(t, "proxy"), connectproxy.NewCA(t, "inspection")
	s := ca.serve(1500, 1600, 1550, named("hub.example"))
	for name, c := range map[string]struct {
		cfg    connectproxy.Config
		issuer string
	}{
		"another CA":               {connectproxy.Config{Intercept: other.Server(t, "hub.example")}, "CN=inspection"},
		"the CA that is trusted":   {connectproxy.Config{Intercept: proxyCA.Server(t, "hub.example"), TLS: proxyCA.Server(t, "127.0.0.1")}, "CN=proxy"},
		"its own certificate even": {connectproxy.Config{Intercept: proxyCA.Server(t, "127.0.0.1"), TLS: proxyCA.Server(t, "127.0.0.1")}, "CN=proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			h, p := behindProxy(t, c.cfg, s, ca, proxyCA.Certificate)
			_, err := h.send(t.Context(), "GET", "/", "", nil)
			var wrong *tls.CertificateVerificationError
			if !errors.As(err, &wrong) {
				t.Fatalf("got %v", err)
			}
			said := describe(err)
			for _, want := range []string{"intercepts TLS connections", c.issuer, "cannot use an intercepting proxy", "exempt hub.example from TLS inspection", p.Addr} {
				if !strings.Contains(said, want) {
					t.Errorf("%q does not say %q", said, want)
				}
			}
			if strings.Contains(said+err.Error(), "hunter2") {
				t.Errorf("the password is shown: %s, %v", said, err)
			}
			blobs := h.newBlobClient(h.url())
			defer blobs.CloseIdleConnections()
			if _, err := blobs.Get("https://" + behind + "/"); !errors.As(err, &wrong) {
				t.Errorf("contents: %v", err)
			}
		})
	}
}

// If the connection through a proxy fails, the agent's error names the cause and the remedy. The
// error does not contain the proxy's password.
func TestProxyThatDoesNotLetThroughSaysWhy(t *testing.T) {
	t.Parallel()
	ca, proxyCA, other := newTestCA(t), connectproxy.NewCA(t, "proxy"), connectproxy.NewCA(t, "other")
	s := ca.serve(1500, 1600, 1550, named("hub.example"))
	for name, c := range map[string]struct {
		cfg    connectproxy.Config
		change func(h *hub)
		want   string
	}{
		"wrong password":    {connectproxy.Config{Name: "ada", Password: "other"}, nil, "refused the name and password"},
		"no password":       {connectproxy.Config{Name: "ada", Password: "other"}, func(h *hub) { h.proxy.URL.User = nil }, "requires a name and a password: write the proxy as http://NAME:PASSWORD@HOST:PORT"},
		"not allowed":       {connectproxy.Config{Answer: "HTTP/1.1 403 Forbidden\r\n\r\n"}, nil, "does not allow connections to hub.example:443 (status 403): allow CONNECT"},
		"no way to the hub": {connectproxy.Config{Answer: "HTTP/1.1 503 No\r\n\r\n"}, nil, "cannot reach hub.example:443 (status 503)"},
		"a web server":      {connectproxy.Config{Answer: "HTTP/1.1 404 Not Found\r\n\r\n"}, nil, "is this an HTTP proxy"},
		"not HTTP":          {connectproxy.Config{Answer: "SSH-2.0-OpenSSH\r\n"}, nil, "is it an HTTP proxy"},
		"a header that never ends": {connectproxy.Config{Answer: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("x", 1000)+"\r\n", 200)}, nil,
			"sent an answer that is not HTTP"},
		"bytes in the hub's place": {connectproxy.Config{Answer: "HTTP/1.1 200 OK\r\n\r\n\x16\x03\x01"}, nil, "sent data before the hub could answer"},
		"another CA":               {connectproxy.Config{TLS: other.Server(t, "127.0.0.1")}, nil, "has a certificate from a CA that is not in the network settings"},
		"another name":             {connectproxy.Config{TLS: proxyCA.Server(t, "proxy.example")}, nil, "failed the TLS handshake"},
		"http in https's place":    {connectproxy.Config{}, func(h *hub) { h.proxy.URL.Scheme = "https" }, "failed the TLS handshake"},
		"nobody there":             {connectproxy.Config{}, func(h *hub) { h.proxy.URL.Host = nobody(t) }, "cannot be reached: connect: connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := behindProxy(t, c.cfg, s, ca, proxyCA.Certificate)
			if c.change != nil {
				c.change(h)
			}
			_, err := h.send(t.Context(), "GET", "/", "", nil)
			if err == nil {
				t.Fatal("it works")
			}
			if said := describe(err); !strings.Contains(said, c.want) || strings.Contains(said+err.Error(), "hunter2") {
				t.Errorf("said %q", said)
			}
		})
	}
}

// nobody returns a TCP address at which no program listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A machine with a wrong clock reaches its hub through a proxy with an https URL.
func TestWrongClockDoesNotKeepTheProxyOut(t *testing.T) {
	t.Parallel()
	ca, proxyCA := newTestCA(t), connectproxy.NewCA(t, "proxy")
	s := ca.serve(1500, 1600, 1550, named("hub.example"))
	for _, clock := range []time.Time{time.Unix(0, 0), time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)} {
		h, _ := behindProxy(t, connectproxy.Config{TLS: proxyCA.Server(t, "127.0.0.1")}, s, ca, proxyCA.Certificate)
		h.now = func() time.Time { return clock }
		if _, err := h.send(t.Context(), "GET", "/", "", nil); err != nil {
			t.Errorf("%s: %v", clock, err)
		}
	}
}
