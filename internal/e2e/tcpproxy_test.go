package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/hubtest"
	"gangway/internal/process"
)

// clientFrom returns a client that connects from the loopback address `from`. The client sends
// `preface`, such as a PROXY header, before TLS.
func clientFrom(t *testing.T, h *hubtest.Hub, from string, preface []byte) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(h.CA.RootPEM())
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err == nil {
				_, err = conn.Write(preface)
			}
			return conn, err
		},
	}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// A TCP proxy tells the hub its clients' addresses with the PROXY protocol. Each client then has
// its own rate limit, and events contain the client's address. The hub accepts a PROXY header only
// from the configured proxy.
func TestTCPProxyNamesItsClients(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("haproxy"); err != nil {
		t.Skip("haproxy is not installed: apt-get install haproxy")
	}
	const proxyAddr = "127.0.0.9"
	h := hubtest.NewWith(t, func(c *api.Config) { c.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix(proxyAddr + "/32")} }, nil, nil)
	dir := t.TempDir()
	config := fmt.Sprintf(`defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen hub
    bind fd@3
    source %s
    server hub %s send-proxy-v2
`, proxyAddr, strings.TrimPrefix(h.URL, "https://"))
	if err := os.WriteFile(filepath.Join(dir, "haproxy.cfg"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	cmd := exec.Command("haproxy", "-db", "-f", filepath.Join(dir, "haproxy.cfg"))
	cmd.ExtraFiles = []*os.File{socket}
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(5 * time.Second) })
	l.Close()
	front := "https://" + l.Addr().String()

	signIn := func(c *http.Client, at, password string) (int, error) {
		body := fmt.Sprintf(`{"username":"ada","password":%q}`, password)
		resp, err := c.Post(at+"/auth/login", "application/json", strings.NewReader(body))
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, nil
	}
	expect := func(what string, c *http.Client, at, password string, want int) {
		t.Helper()
		if status, err := signIn(c, at, password); err != nil || status != want {
			t.Errorf("%s: status %d, %v; want %d", what, status, err, want)
		}
	}
	attacker, person := clientFrom(t, h, "127.0.0.2", nil), clientFrom(t, h, "127.0.0.3", nil)
	for range 10 {
		expect("a wrong password", attacker, front, "a wrong password", 401)
	}
	expect("an eleventh wrong password", attacker, front, "a wrong password", 429)
	expect("another client of the same proxy", person, front, hubtest.Password, 200)
	events, err := h.Store.Events(t.Context(), store.EventFilter{Owner: h.Owner.ID})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, e := range events {
		seen[e.Kind+" "+e.Addr]++
	}
	if seen["account.signed-in 127.0.0.3"] != 1 || seen["account.sign-in-refused 127.0.0.2"] == 0 || seen["account.sign-in-refused "+proxyAddr] != 0 {
		t.Errorf("events by kind and address: %v", seen)
	}

	// Test clients that connect without the proxy, and connections with forged or missing PROXY
	// headers.
	expect("directly", clientFrom(t, h, "127.0.0.4", nil), h.URL, hubtest.Password, 200)
	header := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, 0x11, 0, 12, 127, 0, 0, 5, 127, 0, 0, 1, 0x30, 0x39, 0x30, 0x39)
	for what, c := range map[string]*http.Client{
		"a header from another address":           clientFrom(t, h, "127.0.0.5", header),
		"a proxy that sends no header":            clientFrom(t, h, proxyAddr, nil),
		"a proxy that speaks version 1":           clientFrom(t, h, proxyAddr, []byte("PROXY TCP4 127.0.0.6 127.0.0.1 12345 12345\r\n")),
		"a proxy whose header ends in the middle": clientFrom(t, h, proxyAddr, bytes.Clone(header[:20])),
	} {
		if status, err := signIn(c, h.URL, hubtest.Password); err == nil {
			t.Errorf("%s: status %d, want a broken connection", what, status)
		}
	}
	expect("a proxy's header, as HAProxy sends it", clientFrom(t, h, proxyAddr, header), h.URL, hubtest.Password, 200)

	// Metrics are only for the operator, so no public listener serves them.
	for _, at := range []string{front, h.URL} {
		c := attacker
		resp, err := c.Get(at + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 404 {
			t.Errorf("%s/metrics: %d", at, resp.StatusCode)
		}
	}
}
