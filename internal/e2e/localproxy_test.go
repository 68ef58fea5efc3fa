package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/locked"
	"gangway/internal/process"
	"gangway/internal/swtpm"
)

// proxyProcess is a running `gangway-agent proxy`.
type proxyProcess struct {
	network, addr string
	said          string // the proxy's output before it was ready
	proc          *process.Process
}

// startProxy starts the real command `gangway-agent proxy`. The proxy ends with the test, or when
// the method `stop` is called.
func (o *onboardedDevice) startProxy(t testing.TB, args ...string) *proxyProcess {
	t.Helper()
	c := exec.Command(agentBinary, append([]string{"proxy", "--tpm", o.tpm.Address(), "--state", o.state}, args...)...)
	var said locked.Buffer
	c.Stderr = &said
	p, err := process.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(10 * time.Second) })
	for range 1000 {
		if _, addr, ok := strings.Cut(said.String(), "Listening on "); ok && strings.HasSuffix(addr, "\n") {
			l := &proxyProcess{network: "tcp", addr: strings.TrimSpace(addr), said: said.String(), proc: p}
			if strings.HasPrefix(l.addr, "/") {
				l.network = "unix"
			}
			return l
		}
		select {
		case <-p.Done():
			t.Fatalf("the proxy ended: %v: %s", p.Err(), said.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("the proxy does not listen: %s", said.String())
	return nil
}

// socketPath returns a path for a Unix socket that is short enough for the kernel.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "px")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "hub.sock")
}

func (l *proxyProcess) stop() { l.proc.Stop(10 * time.Second) }

func (l *proxyProcess) dial(t testing.TB) net.Conn {
	t.Helper()
	c, err := net.Dial(l.network, l.addr)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { c.Close() })
	return c
}

// sendRaw sends these bytes on a new connection to the proxy, and returns the status and body of
// the response.
func (l *proxyProcess) sendRaw(t testing.TB, request string) (int, string) {
	t.Helper()
	c := l.dial(t)
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	return resp.StatusCode, string(body)
}

// client returns an HTTP client that connects through the proxy.
func (l *proxyProcess) client() *http.Client {
	return &http.Client{
		Timeout:       time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, l.network, l.addr)
		}},
	}
}

// ask sends one request through the proxy and returns the status, the error code and the body of
// the response.
func (l *proxyProcess) ask(t testing.TB, method, path string, body io.Reader, header ...string) (int, string, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if l.network == "tcp" {
		req.Host = l.addr
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Add(header[i], header[i+1])
	}
	client := l.client()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	var refused struct{ Error string }
	json.Unmarshal(answer, &refused) // no error code if the body is not an error
	return resp.StatusCode, refused.Error, answer
}

// Local programs can use the hub through the proxy without a key, while the agent uses the same
// TPM. The test uses curl as in the documentation, an HTTP/1.0 client, and a client that uploads
// and downloads an object.
func TestLocalProgramsUseTheHubWithoutAKey(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.RSA2048, "")
	at := socketPath(t)
	l := o.startProxy(t, "--unix", at)
	stop := runAgent(t, agent.Config{TPM: o.tpm.Address(), StateDir: o.state})
	defer stop()

	if _, err := exec.LookPath("curl"); err != nil {
		t.Log("curl is not installed: scripts/install.sh installs it")
	} else if out, err := exec.CommandContext(t.Context(), "curl", "-q", "-sS", "--unix-socket", at, "http://localhost/device").CombinedOutput(); err != nil || !o.isRecord(out) {
		t.Errorf("curl: %v: %s", err, out)
	}
	if code, body := l.sendRaw(t, "GET /device HTTP/1.0\r\n\r\n"); code != 200 || !o.isRecord([]byte(body)) {
		t.Errorf("HTTP/1.0: %d %s", code, brief.Of(body))
	}
	if code, _, body := l.ask(t, "PATCH", "/devices/"+o.id+"/device-meta", strings.NewReader(`{"from":"a local program"}`), "Content-Type", "application/json"); code != 200 {
		t.Errorf("device-meta: %d %s", code, brief.Of(body))
	}
	if meta := o.hub.Devices(t, o.hub.Owner)[0].DeviceMeta; meta["from"] != "a local program" {
		t.Errorf("the hub has %v", meta)
	}

	// The program uploads and downloads an object of 8 MiB, at the URLs that the hub returns.
	content := make([]byte, 8<<20)
	rand.Read(content)
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	var object struct {
		Put string `json:"signed-puturl"`
	}
	code, _, body := l.ask(t, "POST", "/objects", strings.NewReader(fmt.Sprintf(`{"sha256sum":%q,"size":"%d","objectname":"o"}`, sum, len(content))), "Content-Type", "application/json")
	if err := json.Unmarshal(body, &object); code != 200 || err != nil {
		t.Fatalf("status %d: %s", code, brief.Of(body))
	}
	put, err := url.Parse(object.Put)
	if err != nil {
		t.Fatal(err)
	}
	if code, _, body := l.ask(t, "PUT", put.RequestURI(), bytes.NewReader(content)); code != 200 {
		t.Fatalf("upload: %d %s", code, brief.Of(body))
	}
	var got struct {
		Get string `json:"signed-geturl"`
	}
	code, _, body = l.ask(t, "GET", "/objects/"+sum, nil)
	if err := json.Unmarshal(body, &got); code != 200 || err != nil {
		t.Fatalf("status %d: %s", code, brief.Of(body))
	}
	get, err := url.Parse(got.Get)
	if err != nil {
		t.Fatal(err)
	}
	if code, _, body := l.ask(t, "GET", get.RequestURI(), nil); code != 200 || !bytes.Equal(body, content) {
		t.Errorf("download: %d, %d bytes", code, len(body))
	}
	if code, _, body := l.ask(t, "GET", get.RequestURI(), nil, "Range", "bytes=100-199"); code != 206 || !bytes.Equal(body, content[100:200]) {
		t.Errorf("download of a range: %d, %d bytes", code, len(body))
	}

	// A program that disconnects during a download must not occupy a connection of the proxy.
	for range 20 {
		c := l.dial(t)
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", get.RequestURI())
		if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	// Many programs send requests at the same time.
	var wg sync.WaitGroup
	for range 24 {
		wg.Go(func() {
			if code, _, body := l.ask(t, "GET", "/device", nil); code != 200 || !o.isRecord(body) {
				t.Errorf("status %d: %s", code, brief.Of(body))
			}
		})
	}
	wg.Wait()
	l.stop()
	if _, err := os.Lstat(at); !os.IsNotExist(err) {
		t.Errorf("the proxy left its socket: %v", err)
	}
}

// A local program cannot use the proxy to connect to a server other than the hub.
func TestProxyIsNoWayToElsewhere(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.RSA2048, "")
	l := o.startProxy(t, "--unix", socketPath(t))
	var reached atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer elsewhere.Close()
	host := strings.TrimPrefix(elsewhere.URL, "http://")
	for _, request := range []string{
		"CONNECT " + host + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n",
		"GET " + elsewhere.URL + "/device HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET " + o.hub.URL + "/device HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET //" + host + "/device HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET @" + host + "/device HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		if code, body := l.sendRaw(t, request); code < 400 || code > 499 {
			t.Errorf("%q: %d %s", request, code, brief.Of(body))
		}
	}
	// The Host header has no effect on which server gets the request, or on the host name that the
	// hub receives.
	if code, body := l.sendRaw(t, "GET /device HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n"); code != 200 || !o.isRecord([]byte(body)) {
		t.Errorf("status %d: %s", code, brief.Of(body))
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("%d requests went elsewhere", n)
	}
	code, body := l.sendRaw(t, "GET /device HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	if code != 400 || !strings.Contains(body, "proxy-upgrade") {
		t.Errorf("upgrade: %d %s", code, brief.Of(body))
	}
}

// The proxy passes requests to the routes that local programs need, and only for its own device. It
// refuses all other routes, for example the sign-in and the routes of other devices.
func TestProxyLetsTheDevicesOwnAPIThroughAlone(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.RSA2048, "")
	l := o.startProxy(t, "--unix", socketPath(t))
	other := strings.Repeat("ab", 12)
	for _, c := range []struct{ method, path string }{
		{"POST", "/onboard"}, {"POST", "/onboard/activate"}, {"GET", "/device/boot"}, {"POST", "/device/boot"},
		{"POST", "/device/secret"}, {"POST", "/auth/x509/login"}, {"POST", "/auth/login"}, {"GET", "/auth/login"},
		{"POST", "/enroll/request"}, {"POST", "/register"}, {"POST", "/devices/register"}, {"POST", "/devices"},
		{"POST", "/devices/tokens"}, {"GET", "/devices/" + other}, {"GET", "/trails/" + other}, {"PUT", "/trails/" + other + "/steps/1/progress"},
		{"DELETE", "/devices/" + o.id}, {"PUT", "/devices/" + o.id}, {"PATCH", "/devices/" + o.id + "/user-meta"}, {"PUT", "/policy"}, {"GET", "/"}, {"GET", "/metrics"},
		{"OPTIONS", "/device"}, {"TRACE", "/device"},
	} {
		if code, name, body := l.ask(t, c.method, c.path, nil); code != 403 || name != "proxy-route" {
			t.Errorf("%s %s: %d %s", c.method, c.path, code, brief.Of(body))
		}
	}
	// The proxy refuses paths that another program could normalise to a different route.
	for _, path := range []string{
		"/device/../device/secret", "/./device", "//device", "/device%2fsecret", "/%64evice", "/devices/" + o.id + "/..%2f..%2fauth/login",
		"/trails/" + o.id + "/../../auth/login", "/trails/" + o.id + "/%2e%2e/%2e%2e/device/secret", "/trails/" + o.id + "//steps",
	} {
		for _, method := range []string{"GET", "POST"} {
			if code, body := l.sendRaw(t, method+" "+path+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); code != 400 || !strings.Contains(body, "proxy-path") {
				t.Errorf("%s %s: %d %s", method, path, code, brief.Of(body))
			}
		}
	}
	l.stop()
	l = o.startProxy(t, "--unix", socketPath(t), "--allow", "POST /device/secret")
	if code, _, body := l.ask(t, "POST", "/device/secret", nil); code != 200 || !strings.Contains(string(body), `"secret"`) {
		t.Errorf("allowed: %d %s", code, brief.Of(body))
	}
	if code, name, _ := l.ask(t, "POST", "/auth/x509/login", nil); code != 403 || name != "proxy-route" {
		t.Errorf("not allowed: %d %s", code, name)
	}
	for _, allow := range []string{"/device", "POST", "get /device", "POST device", "CONNECT /", "POST /{", "GET  x"} {
		err := agent.Proxy(t.Context(), agent.ProxyConfig{TPM: o.tpm.Address(), StateDir: o.state, Unix: socketPath(t), Allow: []string{allow}})
		if err == nil || !strings.Contains(err.Error(), "the route") {
			t.Errorf("--allow %q: %v", allow, err)
		}
	}
}

// A local program cannot pass another identity through the proxy: the proxy removes credentials,
// headers that name another client, and hop-by-hop headers.
func TestProxyPassesNobodysWordButTheDevices(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.RSA2048, "")
	l := o.startProxy(t, "--unix", socketPath(t))
	for _, header := range [][]string{
		{"Client-Cert", ":AAAA:"}, {"Client-Cert-Chain", ":AAAA:"}, {"Authorization", "Bearer nobody"}, {"Authorization", "Basic bm9ib2R5"},
		{"Cookie", "gangway=nobody; session=nobody"}, {"Cookie", "__Host-gangway=x"}, {"X-Forwarded-For", "192.0.2.1"}, {"Forwarded", "for=192.0.2.1"},
		{"Connection", "Client-Cert", "Client-Cert", ":AAAA:"}, {"Te", "trailers"}, {"Proxy-Authorization", "Basic bm9ib2R5"},
		{"Pantahub-Devices-Auto-Token-V1", "bm9ib2R5"}, {"X-Http-Method-Override", "DELETE"},
	} {
		code, _, body := l.ask(t, "GET", "/devices/"+o.id, nil, header...)
		if code != 200 || !o.isRecord(body) {
			t.Errorf("%s: %d %s", header, code, brief.Of(body))
		}
	}
	if addr := o.hub.Devices(t, o.hub.Owner)[0].LastSeenAddr; addr != "127.0.0.1" {
		t.Errorf("the hub saw the device at %s", addr)
	}
}

// A web page in a browser on the device's machine cannot use the proxy: the proxy refuses other
// host names and the headers that browsers add.
func TestWebPageCannotUseTheProxy(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.RSA2048, "")
	l := o.startProxy(t, "--tcp", "127.0.0.1:0")
	if !strings.Contains(l.said, "every user of this machine") {
		t.Errorf("the proxy does not warn that every user can use it: %q", l.said)
	}
	_, port, _ := net.SplitHostPort(l.addr)
	for _, host := range []string{"evil.example", "evil.example:" + port, "localhost.evil.example:" + port, "127.0.0.1.evil.example", "192.0.2.1:" + port, "[2001:db8::1]:" + port, "0.0.0.0:" + port} {
		if code, name, body := l.ask(t, "GET", "/device", nil, "Host", host); code != 403 || name != "proxy-host" {
			t.Errorf("Host %s: %d %s", host, code, brief.Of(body))
		}
	}
	for _, header := range [][]string{
		{"Origin", "https://evil.example"}, {"Origin", "null"}, {"Origin", "http://" + l.addr}, {"Origin", ""},
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Mode", "no-cors"}, {"Access-Control-Request-Method", "PATCH"},
	} {
		for _, method := range []string{"GET", "PATCH", "OPTIONS"} {
			if code, name, body := l.ask(t, method, "/device", nil, header...); code != 403 || name != "proxy-browser" {
				t.Errorf("%s %v: %d %s", method, header, code, brief.Of(body))
			}
		}
	}
	if code, body := l.sendRaw(t, "GET /device HTTP/1.1\r\nHost:\r\n\r\n"); code != 403 {
		t.Errorf("without a host: %d %s", code, brief.Of(body))
	}
	for _, host := range []string{"localhost:" + port, "LOCALHOST", "127.0.0.1:" + port, "[::1]:" + port} {
		if code, _, body := l.ask(t, "GET", "/device", nil, "Host", host); code != 200 || !o.isRecord(body) {
			t.Errorf("Host %s: %d %s", host, code, brief.Of(body))
		}
	}
	if code, body := l.sendRaw(t, "GET /device HTTP/1.0\r\n\r\n"); code != 200 {
		t.Errorf("HTTP/1.0: %d %s", code, brief.Of(body))
	}
}

// With --token-file, the proxy serves only programs that send the token of this run. Only the user
// of the proxy can read the token's file.
func TestProxyTokenKeepsOtherUsersOut(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.RSA2048, "")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("old, for all to read"), 0o644); err != nil {
		t.Fatal(err)
	}
	var before string
	for range 2 {
		l := o.startProxy(t, "--tcp", "127.0.0.1:0", "--token-file", file)
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("the token file: %v, %v; want mode 0600", info, err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		token := strings.TrimSpace(string(text))
		if len(token) < 26 || token == before {
			t.Errorf("the token is %q, the token before was %q", token, before)
		}
		for _, header := range [][]string{
			nil, {"Authorization", "Bearer "}, {"Authorization", "Bearer " + before}, {"Authorization", token}, {"Authorization", "Bearer " + token + "x"},
			{"Authorization", "Bearer " + token, "Authorization", "Bearer x"}, {"Cookie", "token=" + token},
		} {
			if code, name, body := l.ask(t, "GET", "/device", nil, header...); code != 401 || name != "proxy-token" {
				t.Errorf("%v: %d %s", header, code, brief.Of(body))
			}
		}
		if code, _, body := l.ask(t, "GET", "/device", nil, "Authorization", "Bearer "+token); code != 200 || !o.isRecord(body) {
			t.Errorf("status %d: %s", code, brief.Of(body))
		}
		before = token
		l.stop()
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("the proxy left its token file: %v", err)
		}
	}
}

// Only the user of the proxy, or the members of a group that the options name, can use the proxy's
// Unix socket.
func TestProxySocketIsItsOwnersAlone(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.RSA2048, "")
	at := socketPath(t)
	mode := func() (os.FileMode, uint32) {
		t.Helper()
		info, err := os.Lstat(at)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm(), info.Sys().(*syscall.Stat_t).Gid
	}
	// If the file at the proxy's path is a socket that no process uses, the proxy replaces it. If
	// it is any other file, the proxy does not replace it.
	if err := os.WriteFile(at, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := agent.ProxyConfig{TPM: o.tpm.Address(), StateDir: o.state, Unix: at}
	if err := agent.Proxy(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("listening where a file is: %v", err)
	}
	os.Remove(at)
	l := o.startProxy(t, "--unix", at)
	if perm, _ := mode(); perm != 0o600 {
		t.Errorf("the socket has mode %o, want 600", perm)
	}
	if err := agent.Proxy(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "another program listens") {
		t.Errorf("listening where another proxy listens: %v", err)
	}
	if os.Getuid() == 0 {
		if err := os.Chmod(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		c := exec.CommandContext(t.Context(), "curl", "-q", "-sS", "--unix-socket", at, "http://localhost/device")
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		c.Dir = "/"
		if out, err := c.CombinedOutput(); err == nil {
			t.Errorf("another user reads %s", brief.Of(out))
		}
	}
	l.proc.Stop(0) // SIGKILL: the socket stays, and the next proxy must replace it
	if _, err := os.Lstat(at); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		return // only root can set a group to which the user does not belong
	}
	l = o.startProxy(t, "--unix", at, "--group", "nogroup")
	if perm, gid := mode(); perm != 0o660 || gid != 65534 {
		t.Errorf("the socket has mode %o and group %d, want 660 and 65534", perm, gid)
	}
	l.stop()
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(at), ".gw*")); len(left) > 0 {
		t.Errorf("the proxy left temporary files: %s", left)
	}
}

// The proxy refuses to listen on an address that is not a loopback address.
func TestProxyListensOnThisMachineAlone(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.RSA2048, "")
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:80", "localhost.example:80", "127.0.0.1", "example.org:80"} {
		err := agent.Proxy(t.Context(), agent.ProxyConfig{TPM: o.tpm.Address(), StateDir: o.state, TCP: addr})
		if err == nil || !strings.Contains(err.Error(), "not a loopback address") {
			t.Errorf("listening on %s: %v", addr, err)
		}
	}
	for _, cfg := range []agent.ProxyConfig{{}, {TCP: "127.0.0.1:0", Unix: socketPath(t)}, {TCP: "127.0.0.1:0", Group: "nogroup"}} {
		cfg.TPM, cfg.StateDir = o.tpm.Address(), o.state
		if err := agent.Proxy(t.Context(), cfg); err == nil {
			t.Errorf("the proxy accepted the configuration %+v", cfg)
		}
	}
}

// The proxy refuses bodies and headers that are too large, and still serves the next request.
func TestProxyBoundsWhatProgramsSend(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.RSA2048, "")
	l := o.startProxy(t, "--unix", socketPath(t), "--max-body", "1000")
	path := "/devices/" + o.id + "/device-meta"
	long := `{"a":"` + strings.Repeat("x", 2000) + `"}`
	if code, name, body := l.ask(t, "PATCH", path, strings.NewReader(long)); code != 413 || name != "proxy-body" {
		t.Errorf("a large body with its length: %d %s", code, brief.Of(body))
	}
	if code, name, body := l.ask(t, "PATCH", path, io.MultiReader(strings.NewReader(long))); code != 413 || name != "proxy-body" {
		t.Errorf("a large body in chunks: %d %s", code, brief.Of(body))
	}
	c := l.dial(t)
	go io.WriteString(c, "GET /device HTTP/1.1\r\nHost: localhost\r\nX: "+strings.Repeat("x", 1<<20)) // this write ends when the proxy closes the connection
	if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil && resp.StatusCode != 431 {
		t.Errorf("a header of 1 MiB: %s", resp.Status)
	} else if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a header of 1 MiB: %v", err)
	}
	if code, _, body := l.ask(t, "PATCH", path, strings.NewReader(`{"a":"b"}`)); code != 200 {
		t.Errorf("status %d: %s", code, brief.Of(body))
	}
	if meta := o.hub.Devices(t, o.hub.Owner)[0].DeviceMeta; fmt.Sprint(meta["a"]) != "b" {
		t.Errorf("the hub has %v", meta)
	}
	// An attacker cannot smuggle requests: a request with two lengths, or with a length and chunks,
	// does not become two requests.
	for _, request := range []string{
		"PATCH " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
		"PATCH " + path + " HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"PATCH " + path + " HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\n{}",
	} {
		if code, body := l.sendRaw(t, request); code != 400 && code != 501 {
			t.Errorf("%q: %d %s", request, code, brief.Of(body))
		}
	}
}

// If the owner's policy requires boot measurements, the proxy sends a measurement on each of its
// connections, and the hub refuses a boot that does not match. The test is not parallel, because it
// measures how often the proxy uses the TPM.
func TestProxyShowsTheBootWhereThePolicyAsksForIt(t *testing.T) {
	o := newOnboarded(t, swtpm.RSA2048, "")
	if err := o.tpm.ExtendPCR(4, make([]byte, 32)); err != nil { // so that the TPM has a measured boot
		t.Fatal(err)
	}
	measured := func() bool {
		b, err := o.hub.Store.LatestBoot(t.Context(), o.id)
		return err == nil && len(b.State) > 0
	}
	path := "/devices/" + o.id
	l := o.startProxy(t, "--unix", socketPath(t))
	if code, _, body := l.ask(t, "GET", path, nil); code != 200 || measured() {
		t.Fatalf("without a policy: %d %s, measured: %v", code, brief.Of(body), measured())
	}
	// Change the policy while a connection is open.
	o.hub.Policy(t, o.hub.Owner.ID, "version: 1\nmeasured_boot: require\n")
	if code, _, body := l.ask(t, "GET", path, nil); code != 200 || !measured() {
		t.Fatalf("under the policy: %d %s, measured: %v", code, brief.Of(body), measured())
	}
	if code, _, body := l.ask(t, "PATCH", path+"/device-meta", strings.NewReader(`{"a":1}`)); code != 200 {
		t.Errorf("status %d: %s", code, brief.Of(body))
	}
	l.stop()
	// Start the proxy after the policy change, and use many connections at the same time, with
	// bodies that cannot be sent twice.
	l = o.startProxy(t, "--unix", socketPath(t))
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			if code, _, body := l.ask(t, "PATCH", path+"/device-meta", io.MultiReader(strings.NewReader(`{"a":2}`))); code != 200 {
				t.Errorf("status %d: %s", code, brief.Of(body))
			}
		})
	}
	wg.Wait()
	l.stop()
	if err := o.tpm.ExtendPCR(4, make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	l = o.startProxy(t, "--unix", socketPath(t))
	if code, name, body := l.ask(t, "GET", path, nil); code != 403 || name != "boot-changed" {
		t.Errorf("another boot: %d %s", code, brief.Of(body))
	}
	// The proxy does not repeat the measurement for each request, so local programs cannot keep the
	// TPM busy.
	first, err := o.hub.Store.LatestBoot(t.Context(), o.id)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if code, name, body := l.ask(t, "GET", path, nil); code != 403 || name != "boot-changed" {
			t.Errorf("another boot: %d %s", code, brief.Of(body))
		}
	}
	if last, err := o.hub.Store.LatestBoot(t.Context(), o.id); err != nil || !last.Time.Equal(first.Time) {
		t.Errorf("measured at %s and again at %s, %v", first.Time, last.Time, err)
	}
	// After the owner accepts the boot, the hub accepts the device's requests at once.
	var accepted any
	signIn(t, o.hub).call("POST", path+"/boot/reference", map[string]any{"from": "latest", "lock": true}, &accepted)
	if code, _, body := l.ask(t, "GET", path, nil); code != 200 {
		t.Errorf("after the owner accepted the boot: %d %s", code, brief.Of(body))
	}
	// Routes that do not require a boot measurement work even before the owner accepts the boot.
	if code, _, body := l.ask(t, "GET", "/device", nil); code != 200 {
		t.Errorf("status %d: %s", code, brief.Of(body))
	}
}

// The proxy does not start if its state folder was copied from a machine with another TPM. After
// the owner has deleted the device, programs get no more answers from the hub.
func TestProxyOfARevokedOrCopiedDeviceOpensNothing(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.RSA2048, "")
	other := newTPM(t, swtpm.RSA2048)
	err := agent.Proxy(t.Context(), agent.ProxyConfig{TPM: other.Address(), StateDir: o.state, Unix: socketPath(t)})
	if err == nil || !strings.Contains(err.Error(), "another TPM") {
		t.Errorf("the proxy with another TPM: %v", err)
	}
	l := o.startProxy(t, "--unix", socketPath(t))
	if code, _, body := l.ask(t, "GET", "/device", nil); code != 200 {
		t.Fatalf("status %d: %s", code, brief.Of(body))
	}
	ada := signIn(t, o.hub)
	ada.call("DELETE", "/devices/"+o.id, nil, new(any))
	if code, _, body := l.ask(t, "GET", "/device", nil); code != 401 && code != 403 {
		t.Errorf("status %d: %s", code, brief.Of(body))
	}
}

// The proxy sends no request to another server at the hub's address.
func TestProxyTrustsNoOtherHub(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.RSA2048, "")
	other := hubtest.New(t, nil, nil)
	file := filepath.Join(o.state, "state.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.ReplaceAll(text, []byte(o.hub.URL), []byte(other.URL)), 0o600); err != nil {
		t.Fatal(err)
	}
	l := o.startProxy(t, "--unix", socketPath(t))
	for range 2 {
		if code, name, body := l.ask(t, "GET", "/healthz", nil); code != 502 || name != "proxy-hub" {
			t.Errorf("status %d: %s", code, brief.Of(body))
		}
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	l.stop()
	if code, _, body := o.startProxy(t, "--unix", socketPath(t)).ask(t, "GET", "/healthz", nil); code != 200 {
		t.Errorf("the hub itself: %d %s", code, brief.Of(body))
	}
}
