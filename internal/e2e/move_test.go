package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/hub/api"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
	"gangway/wire"
)

// forwarder is a second address of a hub. It forwards TCP connections to the hub until it is
// closed.
type forwarder struct {
	URL   string
	close func()
}

// forwardTo starts a forwarder to a hub's URL.
func forwardTo(t *testing.T, to string) *forwarder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn // guarded by mu
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", strings.TrimPrefix(to, "https://"))
			if err != nil {
				c.Close()
				continue
			}
			mu.Lock()
			open = append(open, c, up)
			mu.Unlock()
			done.Go(func() { io.Copy(up, c); up.Close() })
			done.Go(func() { io.Copy(c, up); c.Close() })
		}
	})
	a := &forwarder{URL: "https://" + l.Addr().String()}
	a.close = sync.OnceFunc(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		done.Wait()
	})
	t.Cleanup(a.close)
	return a
}

// movedHub is a hub with an old and a new address, and a device that onboarded at the old address.
type movedHub struct {
	*onboardedDevice
	old *forwarder
}

// onboardAtOldAddress onboards a device at a hub's old address. The hub sends its list of addresses
// to the device: both addresses if `named` is true, otherwise only the old address.
func onboardAtOldAddress(t *testing.T, named bool) *movedHub {
	t.Helper()
	m := &movedHub{onboardedDevice: &onboardedDevice{tpm: newTPM(t, swtpm.P384), state: filepath.Join(t.TempDir(), "state")}}
	m.hub = hubtest.NewWith(t, func(c *api.Config) {
		m.old = forwardTo(t, c.PublicURL)
		if named {
			c.AlsoURLs = []string{m.old.URL}
		} else {
			c.PublicURL = m.old.URL
		}
	}, m.tpm.Roots(), []*x509.Certificate{m.tpm.Issuer()})
	m.tok = m.hub.Token(t, m.hub.Owner, nil)
	m.tok.Hub = m.old.URL
	s, err := onboard(t, m.tpm, m.tok, m.state)
	if err != nil {
		t.Fatal(err)
	}
	m.id = s.DeviceID
	return m
}

// waitForReportAt waits until the agent has sent one more report and the agent's state contains the
// address `at`.
func (m *movedHub) waitForReportAt(t *testing.T, at string) {
	t.Helper()
	start := time.Now().Truncate(time.Second)
	time.Sleep(time.Until(start.Add(time.Second))) // the hub stores the time of the last report in whole seconds
	for range 400 {
		if s, err := agent.ReadState(m.state); err == nil && s.LastSeen.After(start) && s.Hub == at {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	s, err := agent.ReadState(m.state)
	t.Fatalf("the agent does not report at %s: %s, %v", at, brief.Of(s), err)
}

// A device follows a hub that announces its new address. If the device cannot reach the hub at its
// current address, it uses another announced address, while it runs and after a restart. A token
// file with the old address does not make the device return to the old address.
func TestDeviceFollowsAHubThatNamesItsNewAddress(t *testing.T) {
	t.Parallel()
	m := onboardAtOldAddress(t, true)
	stop := runAgent(t, agent.Config{TPM: m.tpm.Address(), StateDir: m.state})
	defer stop()
	m.waitForReportAt(t, m.old.URL)
	m.old.close()
	m.waitForReportAt(t, m.hub.URL)
	stop()
	stopAgain := onboardAndRun(t, agent.Config{Token: m.tok, TPM: m.tpm.Address(), StateDir: m.state})
	m.waitForReportAt(t, m.hub.URL)
	stopAgain()
	if s, err := onboard(t, m.tpm, m.tok, m.state); err != nil || s.Hub != m.hub.URL {
		t.Errorf("onboarding with the old address in the token file: %v", err)
	}
	m.wantDevicesAndUses(t, 1, 1) // no second device
}

// onboardAndRun onboards and runs as 'gangway-agent run' does. Call the function `stop` to end it.
func onboardAndRun(t *testing.T, cfg agent.Config) (stop func()) {
	t.Helper()
	cfg.ReportEvery = 50 * time.Millisecond
	cfg.Progress = func(s agent.Progress) { t.Logf("%-9s %s", s.Name, s.Detail) }
	a, err := agent.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := withCancel(t)
	done := make(chan error, 1)
	go func() { done <- a.OnboardAndRun(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		a.Close()
	})
}

// A machine that was off while the hub moved gets the new address from a token file or a hub file
// of the same hub. It stays the same device, and does not use the new join token.
func TestTokenOfTheSameHubMovesADevice(t *testing.T) {
	for name, move := range map[string]func(*movedHub, *wire.TokenFile){
		"onboard": func(m *movedHub, tok *wire.TokenFile) {
			s, err := onboard(t, m.tpm, tok, m.state)
			if err != nil || s.Hub != m.hub.URL || s.DeviceID != m.id {
				t.Errorf("state %s, error %v", brief.Of(s), err)
			}
		},
		"run":      func(*movedHub, *wire.TokenFile) {},
		"hub file": func(*movedHub, *wire.TokenFile) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := onboardAtOldAddress(t, false)
			m.old.close()
			tok := m.hub.Token(t, m.hub.Owner, nil)
			move(m, tok)
			cfg := agent.Config{Token: tok, TPM: m.tpm.Address(), StateDir: m.state}
			if name == "hub file" {
				cfg.Token, cfg.Hub = nil, &wire.HubFile{Hub: tok.Hub, HubName: tok.HubName, HubCA: tok.HubCA}
			}
			stop := onboardAndRun(t, cfg)
			defer stop()
			m.waitForReportAt(t, m.hub.URL)
			m.wantDevicesAndUses(t, 1, 1) // no second device
			if n := m.hub.Uses(t, tok); n != 0 {
				t.Errorf("%d uses of the new join token, want none", n)
			}
		})
	}
}

// If an attacker forges a token file that has the hub's name and another hub's address, the device
// does not connect to the other hub, and still connects to its own hub.
func TestTokenFileLeadsNoDeviceToAnotherHub(t *testing.T) {
	t.Parallel()
	m := onboardAtOldAddress(t, false)
	evil := newHub(t, m.tpm)
	var asked atomic.Int32
	thief := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set(wire.AddressesHeader, "https://thief.example")
	}))
	thief.TLS = &tls.Config{GetCertificate: evil.CA.TLSCertificate(time.Now, []string{"127.0.0.1"}), ClientAuth: tls.RequestClientCert}
	thief.StartTLS()
	defer thief.Close()
	before := readState(t, m.state)

	mine := *m.tok
	mine.HubCA, mine.Hub = string(evil.CA.RootPEM()), thief.URL
	both := mine
	both.HubCA += m.tok.HubCA
	other := *evil.Token(t, evil.Owner, nil)
	for name, c := range map[string]struct {
		tok  *wire.TokenFile
		says string
	}{
		"name of the hub, CA of another": {&mine, "a key that does not match"},
		"name of the hub, CAs of both":   {&both, "a key that does not match"},
		"another hub":                    {&other, "another hub"},
	} {
		if _, err := onboard(t, m.tpm, c.tok, m.state); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %q", name, err, c.says)
		}
		stop := onboardAndRun(t, agent.Config{Token: c.tok, TPM: m.tpm.Address(), StateDir: m.state})
		m.waitForReportAt(t, m.old.URL)
		stop()
		after := readState(t, m.state)
		if after.HubCA != before.HubCA || after.HubName != before.HubName || slices.ContainsFunc(after.Addresses.URLs, func(u string) bool { return u == thief.URL || u == evil.URL }) {
			t.Errorf("%s: the state is %s", name, brief.Of(after))
		}
	}
	// This token file has the right CA, but another server answers at its address.
	address := *m.tok
	address.Hub = thief.URL
	stop := onboardAndRun(t, agent.Config{Token: &address, TPM: m.tpm.Address(), StateDir: m.state})
	defer stop()
	m.waitForReportAt(t, m.old.URL)
	if n := asked.Load(); n != 0 {
		t.Errorf("%d requests reached the other server", n)
	}
	if n := len(evil.Devices(t, evil.Owner)); n != 0 {
		t.Errorf("%d devices at the other hub, want 0", n)
	}
	m.wantDevicesAndUses(t, 1, 1) // no second device
}

func readState(t *testing.T, dir string) *agent.State {
	t.Helper()
	s, err := agent.ReadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// An onboarding that began at the hub's old address continues at the new address, with the same
// request.
func TestRequestGoesOnAtANewAddress(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	tok := h.Token(t, h.Owner, nil)
	old := *tok
	gone := forwardTo(t, h.URL)
	gone.close()
	old.Hub = gone.URL
	state := t.TempDir()
	ctx, cancel := withCancel(t)
	a, err := agent.New(agent.Config{Token: &old, TPM: tpm.Address(), StateDir: state, Progress: func(s agent.Progress) {
		if s.Name == "waiting" {
			cancel()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Onboard(ctx); err == nil {
		t.Fatal("the device onboarded at an address that reaches no hub")
	}
	a.Close()
	request, err := os.ReadFile(filepath.Join(state, "request.bin"))
	if err != nil || readState(t, state).Phase != agent.PhaseRequested {
		t.Fatalf("phase %v, error %v", readState(t, state).Phase, err)
	}
	s, err := onboard(t, tpm, tok, state)
	if err != nil {
		t.Fatal(err)
	}
	if s.Hub != h.URL || s.TokenID != tok.ID || len(request) == 0 || h.Uses(t, tok) != 1 {
		t.Errorf("state %s, %d uses of the join token", brief.Of(s), h.Uses(t, tok))
	}
}

// The proxy follows a hub that moves to a new address.
func TestProxyFollowsAHubThatMoves(t *testing.T) {
	t.Parallel()
	m := onboardAtOldAddress(t, true)
	ctx, cancel := withCancel(t)
	defer cancel()
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- agent.Proxy(ctx, agent.ProxyConfig{TPM: m.tpm.Address(), StateDir: m.state, TCP: "127.0.0.1:0", Ready: func(addr string) { ready <- addr }})
	}()
	proxy := "http://" + <-ready
	get := func() string {
		resp, err := http.Get(proxy + "/device")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var d struct{ ID string }
		json.NewDecoder(resp.Body).Decode(&d)
		return d.ID
	}
	if id := get(); id != m.id {
		t.Fatalf("before the move: device %q, want %q", id, m.id)
	}
	m.old.close()
	id := ""
	for range 5 { // requests on the broken connections fail
		if id = get(); id == m.id {
			break
		}
	}
	if id != m.id {
		t.Error("the proxy does not reach the hub at its new address")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestPantavisorGetsTheNewAddress(t *testing.T) {
	t.Parallel()
	m := onboardAtOldAddress(t, true)
	p := agent.Pantavisor{Config: filepath.Join(t.TempDir(), "pantahub.config")}
	with := func(do func(*agent.Agent) (bool, error)) bool {
		t.Helper()
		a, err := agent.New(agent.Config{TPM: m.tpm.Address(), StateDir: m.state})
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		restart, err := do(a)
		if err != nil {
			t.Fatal(err)
		}
		return restart
	}
	port := func(url string) string { return "PH_CREDS_PORT=" + url[strings.LastIndex(url, ":")+1:] + "\n" }
	has := func(line string) bool {
		t.Helper()
		text, err := os.ReadFile(p.Config)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(text), line)
	}
	with(func(a *agent.Agent) (bool, error) { return a.RegisterPantavisor(t.Context(), p) })
	if !has(port(m.old.URL)) {
		t.Fatal("the file has no address")
	}
	keep := func(a *agent.Agent) (bool, error) { return a.KeepPantavisor(t.Context(), p) }
	if with(keep) {
		t.Error("Pantavisor is restarted although the address is the same")
	}
	m.old.close()
	if !with(keep) || !has(port(m.hub.URL)) || has(port(m.old.URL)) {
		t.Error("the new address is not in the file, or Pantavisor is not restarted to read it")
	}
	if with(keep) {
		t.Error("Pantavisor is restarted again")
	}
}

// withCancel returns a context that ends with the test, or when cancel is called.
func withCancel(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	return ctx, cancel
}
