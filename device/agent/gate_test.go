package agent

import (
	"bufio"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The proxy's gate accepts only requests for the device's own API. Each request in the table is the
// text that a local program sends to the proxy.
func TestGateLetsOnlyTheDevicesOwnAPIThrough(t *testing.T) {
	t.Parallel()
	const id = fakeDevice
	for _, c := range []struct {
		request string   // the request line and the header lines, separated by \n
		want    *refusal // nil: the gate lets the request pass
	}{
		{"GET /device HTTP/1.1\nHost: localhost", nil},
		{"PATCH /device/meta HTTP/1.1\nHost: 127.0.0.1:8080", nil},
		{"GET /devices/" + id + " HTTP/1.1\nHost: [::1]:8080", nil},
		{"POST /trails/" + id + "/steps HTTP/1.1\nHost: localhost", nil},
		{"GET /device HTTP/1.0", nil}, // without a Host header
		{"GET /devices/ffffffffffffffffffffffff HTTP/1.1\nHost: localhost", noRoute},
		{"POST /device/secret HTTP/1.1\nHost: localhost", noRoute},
		{"POST /device/boot HTTP/1.1\nHost: localhost", noRoute},
		{"POST /onboard HTTP/1.1\nHost: localhost", noRoute},
		{"POST /auth/x509/login HTTP/1.1\nHost: localhost", noRoute},
		{"DELETE /devices/" + id + " HTTP/1.1\nHost: localhost", noRoute},
		{"CONNECT elsewhere.example:443 HTTP/1.1\nHost: elsewhere.example:443", noForward},
		{"GET http://elsewhere.example/device HTTP/1.1\nHost: elsewhere.example", noForward},
		{"GET /device HTTP/1.1\nHost: rebound.example", noHost},
		{"GET /device HTTP/1.1\nHost: 10.0.0.1", noHost},
		{"GET /device HTTP/1.1\nHost: localhost\nOrigin: https://page.example", noBrowser},
		{"GET /device HTTP/1.1\nHost: localhost\nSec-Fetch-Site: cross-site", noBrowser},
		{"OPTIONS /device HTTP/1.1\nHost: localhost\nAccess-Control-Request-Method: GET", noBrowser},
		{"GET /device HTTP/1.1\nHost: localhost\nConnection: Upgrade\nUpgrade: websocket", noUpgrade},
		{"GET /device/../onboard HTTP/1.1\nHost: localhost", noPath},
		{"GET //device HTTP/1.1\nHost: localhost", noPath},
		{"GET /devices/%2e%2e/device HTTP/1.1\nHost: localhost", noPath},
		{"GET /devices/" + id + "%2Fuser-meta HTTP/1.1\nHost: localhost", noPath},
	} {
		g, err := newGate(id, nil)
		if err != nil {
			t.Fatal(err)
		}
		g.loopback = true
		if got := g.check(request(t, c.request)); got != c.want {
			t.Errorf("%q: %+v; want %+v", c.request, got, c.want)
		}
	}
}

func request(t *testing.T, text string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.ReplaceAll(text, "\n", "\r\n") + "\r\n\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestGateRequiresItsToken(t *testing.T) {
	t.Parallel()
	g, err := newGate(fakeDevice, nil)
	if err != nil {
		t.Fatal(err)
	}
	g.guard("secret")
	for header, want := range map[string]*refusal{
		"":                               noToken,
		"\nAuthorization: Bearer other":  noToken,
		"\nAuthorization: Bearer ":       noToken,
		"\nAuthorization: Basic secret":  noToken,
		"\nAuthorization: secret":        noToken,
		"\nAuthorization: Bearer secret": nil,
		"\nAuthorization: bearer secret": nil,
		"\nAuthorization: Bearer secret\nAuthorization: Bearer secret": noToken,
	} {
		if got := g.check(request(t, "GET /device HTTP/1.1\nHost: localhost"+header)); got != want {
			t.Errorf("%q: %+v", header, got)
		}
	}
}

func TestGateAddsRoutes(t *testing.T) {
	t.Parallel()
	g, err := newGate(fakeDevice, []string{"POST /device/secret"})
	if err != nil {
		t.Fatal(err)
	}
	if got := g.check(request(t, "POST /device/secret HTTP/1.1\nHost: x")); got != nil {
		t.Errorf("the added route: %+v", got)
	}
	for _, bad := range []string{"", "/device", "post /x", "CONNECT /x", "GET x", "GET /{", "GET https://elsewhere.example/"} {
		if _, err := newGate(fakeDevice, []string{bad}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// The proxy forwards to the hub only the headers that the hub's API uses. The proxy does not
// forward a local program's headers for signing in (Authorization, Cookie) or about the sender
// (X-Forwarded-For).
func TestGatePassesNoSignIn(t *testing.T) {
	t.Parallel()
	in := http.Header{}
	for _, name := range []string{"Authorization", "Cookie", "X-Forwarded-For", "Forwarded", "Client-Cert", "Client-Cert-Chain", "X-Real-Ip", "Proxy-Authorization", "Gangway-Test"} {
		in.Set(name, "x")
	}
	in.Set("Content-Type", "application/json")
	in.Set("Range", "bytes=1-")
	out := forwardHeader(in)
	if len(out) != 3 || out.Get("Content-Type") != "application/json" || out.Get("Range") != "bytes=1-" || out.Get("User-Agent") != "gangway-agent proxy" {
		t.Errorf("%v", out)
	}
}

// The proxy refuses to listen on an address that other machines could reach.
func TestProxyListensOnlyOnThisMachine(t *testing.T) {
	t.Parallel()
	at := filepath.Join(t.TempDir(), "s")
	for _, bad := range []ProxyConfig{
		{}, {Unix: at, TCP: "127.0.0.1:0"}, {TCP: "0.0.0.0:0"}, {TCP: "[::]:0"}, {TCP: "192.0.2.1:0"}, {TCP: "example.com:80"}, {TCP: ":0"}, {TCP: "127.0.0.1:0", Group: "root"}, {Unix: at, Group: "no-such-group"},
	} {
		if l, err := bad.listen(); err == nil {
			t.Errorf("%+v: listens on %s", bad, l.Addr())
			l.Close()
		}
	}
	for _, good := range []ProxyConfig{{TCP: "127.0.0.1:0"}, {TCP: "localhost:0"}} {
		l, err := good.listen()
		if err != nil {
			t.Errorf("%+v: %v", good, err)
			continue
		}
		l.Close()
	}
}

func TestProxySocketBelongsToItsOwner(t *testing.T) {
	t.Parallel()
	at := filepath.Join(t.TempDir(), "s")
	l, err := (&ProxyConfig{Unix: at}).listen()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(at); err != nil || info.Mode().Perm() != 0o600 || info.Mode()&os.ModeSocket == 0 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if second, err := (&ProxyConfig{Unix: at}).listen(); err == nil {
		second.Close()
		t.Error("two proxies listen on one socket")
	}
	l.Close()
	if _, err := os.Stat(at); err == nil {
		t.Error("the socket is left behind")
	}
	if err := os.WriteFile(at, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (&ProxyConfig{Unix: at}).listen(); err == nil {
		t.Error("a file was replaced by a socket")
	}
	// A proxy that was killed leaves the file of its socket on the disk. The next proxy replaces
	// this file, because no program listens on the socket any more.
	os.Remove(at)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	if l, err = (&ProxyConfig{Unix: at}).listen(); err != nil {
		t.Fatal(err)
	}
	l.Close()
}
