package doctor

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/device/install"
	"gangway/internal/connectproxy"
	"gangway/internal/eventlog"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"
	"gangway/wire"

	"github.com/google/go-tpm/tpm2"
)

var makers string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "dr")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		makers = filepath.Join(dir, "maker")
		if err := swtpmtest.NewMaker(makers); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func newTPM(t *testing.T, ek swtpm.EK) *swtpm.TPM {
	t.Helper()
	return swtpmtest.Start(t, swtpm.Options{EK: ek, Maker: makers})
}

// healthy returns the configuration for a machine that has no problem, but is not onboarded.
func healthy(t *testing.T, tpm string, hub *Hub) Config {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("proc/net/route", "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\neth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n")
	write("efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", "\x06\x00\x00\x00\x01")
	_, network, err := net.ParseCIDR("192.0.2.0/24")
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		TPM: tpm, StateDir: filepath.Join(dir, "state"), Hub: hub,
		EventLog: write("log", string(measured.Bytes())),
		getenv:   func(string) string { return "" },
		firmware: install.Firmware(filepath.Join(dir, "efivars")),
		proc:     filepath.Join(dir, "proc"), resolv: write("resolv.conf", "nameserver 192.0.2.53\n"),
		cards: func() ([]Card, error) {
			return []Card{{Name: "eth0", Up: true, Carrier: true, Addresses: []net.IPNet{{IP: net.IPv4(192, 0, 2, 10), Mask: network.Mask}}}}, nil
		},
	}
}

// measured contains the events that the firmware of a healthy machine measures.
var measured = eventlog.Boot(true, "kernel", "quiet")

// measure extends a TPM's PCRs as the firmware of a healthy machine does.
func measure(t *testing.T, tpm *swtpm.TPM) {
	t.Helper()
	if err := measured.Extend(tpm.ExtendPCR); err != nil {
		t.Fatal(err)
	}
}

// The function `find` returns the finding with the given code.
func find(findings []Finding, code string) *Finding {
	if i := slices.IndexFunc(findings, func(f Finding) bool { return f.Code == code }); i >= 0 {
		return &findings[i]
	}
	return nil
}

func codes(findings []Finding, s Severity) (out []string) {
	for _, f := range findings {
		if f.Severity == s {
			out = append(out, f.Code)
		}
	}
	return out
}

// wantFault checks that an examination has exactly one finding with the code `code`, and that this
// finding has the severity `severity` and a remedy.
func wantFault(t *testing.T, findings []Finding, code string, severity Severity) {
	t.Helper()
	f := find(findings, code)
	if f == nil {
		t.Errorf("no finding %s; problems: %v, warnings: %v, notes: %v", code, codes(findings, Problem), codes(findings, Warning), codes(findings, Note))
		return
	}
	if f.Severity != severity || f.Remedy == "" || f.Fact == "" {
		t.Errorf("%s: %+v; want severity %q and a remedy", code, f, severity)
	}
}

// An onboarded machine with a real TPM and a real hub has no problem at first. Then the owner
// deletes the device, and the test causes other faults.
func TestExaminesAnOnboardedMachine(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.RSA2048)
	measure(t, tpm)
	h := hubtest.New(t, tpm.Roots(), []*x509.Certificate{tpm.Issuer()})
	tok := h.Token(t, h.Owner, nil)
	cfg := healthy(t, tpm.Address(), nil)
	a, err := agent.New(agent.Config{TPM: tpm.Address(), StateDir: cfg.StateDir, Token: tok, Model: "test", Serial: "1"})
	if err != nil {
		t.Fatal(err)
	}
	state, err := a.Onboard(t.Context())
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	findings := Examine(t.Context(), cfg)
	if w := Worst(findings); w != OK {
		t.Fatalf("a healthy machine: %s: %+v", w, findings)
	}
	for _, code := range []string{"tpm", "tpm-banks", "tpm-lockout-none", "tpm-ek-certificate", "event-log", "event-log-replays", "secure-boot", "firmware-oneshot", "state", "network", "hub", "clock", "device"} {
		if f := find(findings, code); f == nil || f.Severity != OK {
			t.Errorf("no good finding %s in %+v", code, findings)
		}
	}
	if f := find(findings, "hub"); f == nil || !strings.Contains(f.Fact, tok.HubName) || !strings.Contains(f.Fact, h.URL) {
		t.Errorf("the hub's finding names neither its name nor its address: %+v", f)
	}

	local := cfg
	local.cards = func() ([]Card, error) { return nil, nil }
	if findings := Examine(t.Context(), local); Worst(findings) != Note || find(findings, "network-none") == nil {
		t.Errorf("a hub on the same machine is reached without a network, which is a problem: %+v", findings)
	}

	silent := *state
	silent.LastSeen = time.Now().Add(-time.Hour)
	writeState(t, cfg.StateDir, silent)
	wantFault(t, Examine(t.Context(), cfg), "agent-silent", Warning)

	late := cfg
	late.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	wantFault(t, Examine(t.Context(), late), "clock-off", Warning)

	if err := h.Store.DeleteDevice(t.Context(), h.Owner.ID, state.DeviceID, h.Now()); err != nil {
		t.Fatal(err)
	}
	wantFault(t, Examine(t.Context(), cfg), "device-refused", Problem)

	// The test replaces the machine's TPM with another machine's TPM.
	other := newTPM(t, swtpm.RSA2048)
	cfg.TPM = other.Address()
	wantFault(t, Examine(t.Context(), cfg), "device-key", Problem)
}

// Doctor has a separate finding for each fault that a test can cause in a software TPM.
func TestFaultsOfTheTPM(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code     string
		severity Severity
		ek       swtpm.EK
		spoil    func(*swtpm.TPM) error
	}{
		{"tpm-lockout", Problem, swtpm.RSA2048, (*swtpm.TPM).EnterLockout},
		{"tpm-lockout-near", Warning, swtpm.RSA2048, func(tpm *swtpm.TPM) error { return guess(tpm, 2) }},
		{"tpm-ek-certificate-missing", Note, swtpm.None, func(*swtpm.TPM) error { return nil }},
		{"tpm-endorsement-disabled", Problem, swtpm.RSA2048, (*swtpm.TPM).DisableEndorsement},
		{"tpm-endorsement-password", Problem, swtpm.RSA2048, func(tpm *swtpm.TPM) error { return tpm.SetPassword(tpm2.TPMRHEndorsement, "theirs") }},
		{"tpm-banks-weak", Problem, swtpm.RSA2048, func(tpm *swtpm.TPM) error { return tpm.AllocateBank(t.Context(), tpm2.TPMAlgSHA1) }},
		{"tpm-missing", Problem, swtpm.RSA2048, func(tpm *swtpm.TPM) error { tpm.Stop(); return nil }},
	} {
		t.Run(c.code, func(t *testing.T) {
			tpm := newTPM(t, c.ek)
			if err := c.spoil(tpm); err != nil {
				t.Fatal(err)
			}
			cfg := healthy(t, tpm.Address(), nil)
			cfg.setDefaults()
			findings := checkTPM(t.Context(), &exam{Config: cfg})
			wantFault(t, findings, c.code, c.severity)
			for _, f := range findings {
				if f.Code != c.code && f.Severity != OK {
					t.Errorf("%s as well: %+v", f.Code, f)
				}
			}
		})
	}
}

// guess tries wrong passwords until the TPM has counted `n` wrong passwords. `n` must be below the
// TPM's limit.
func guess(tpm *swtpm.TPM, n int) error {
	link, err := tpm.Open()
	if err != nil {
		return err
	}
	defer link.Close()
	for range n {
		if err := swtpm.Guess(link, "wrong"); err == nil {
			return fmt.Errorf("a wrong password is accepted")
		}
	}
	return nil
}

func TestFaultsOfTheMachine(t *testing.T) {
	t.Parallel()
	hub := &Hub{URL: "https://hub.example:12443"}
	address := func(cidr string) net.IPNet {
		ip, n, err := net.ParseCIDR(cidr)
		if err != nil {
			t.Fatal(err)
		}
		return net.IPNet{IP: ip, Mask: n.Mask}
	}
	write := func(path *string, text string) {
		t.Helper()
		*path = filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(*path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		code     string
		severity Severity
		check    func(context.Context, *exam) []Finding
		spoil    func(*Config)
	}{
		{"event-log-missing", Warning, checkEventLog, func(c *Config) { c.EventLog = "/nowhere" }},
		{"event-log-empty", Warning, checkEventLog, func(c *Config) { write(&c.EventLog, "") }},
		{"event-log-old", Note, checkEventLog, func(c *Config) { write(&c.EventLog, strings.Repeat("\x01", 100)) }},
		{"event-log-large", Warning, checkEventLog, func(c *Config) { write(&c.EventLog, strings.Repeat("x", 1<<20+1)) }},
		{"event-log-unreadable", Warning, checkEventLog, func(c *Config) { c.EventLog = "/dev/null" }},
		{"network-none", Problem, checkNetwork, func(c *Config) { c.cards = func() ([]Card, error) { return nil, nil } }},
		{"network-unreadable", Problem, checkNetwork, func(c *Config) { c.cards = func() ([]Card, error) { return nil, fs.ErrPermission } }},
		{"network-no-link", Problem, checkNetwork, func(c *Config) { c.cards = func() ([]Card, error) { return []Card{{Name: "eth0", Up: true}}, nil } }},
		{"network-no-address", Problem, checkNetwork, func(c *Config) {
			c.cards = func() ([]Card, error) {
				return []Card{{Name: "eth0", Up: true, Carrier: true, Addresses: []net.IPNet{address("fe80::1/64"), address("169.254.3.4/16")}}}, nil
			}
		}},
		{"network-no-route", Warning, checkNetwork, func(c *Config) {
			if err := os.WriteFile(filepath.Join(c.proc, "net/route"), []byte("Iface Destination\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"dns-none", Problem, checkNetwork, func(c *Config) { write(&c.resolv, "# nameserver 192.0.2.1\n") }},
		{"state-unreadable", Problem, checkState, func(c *Config) {
			c.StateDir = t.TempDir()
			if err := os.WriteFile(filepath.Join(c.StateDir, "state.json"), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"disk-full", Warning, checkState, func(c *Config) { c.free = func(string) (uint64, error) { return minFree - 1, nil } }},
		{"device-waiting", Warning, checkDevice, func(c *Config) {
			writeState(t, c.StateDir, agent.State{Phase: agent.PhaseRequested, Waiting: "waiting for the owner"})
		}},
		{"clock-wrong", Problem, checkClock, func(c *Config) {
			c.now = func() time.Time { return time.Unix(0, 0) }
			c.Hub = realHub(t)
		}},
		{"hub-unknown", Note, checkHub, func(c *Config) { c.Hub = nil }},
		{"hub-ca", Problem, checkHub, func(c *Config) { c.Hub = &Hub{URL: hub.URL, Name: "another", CA: realHub(t).CA} }},
		{"proxy-variable", Note, checkHub, func(c *Config) {
			c.Hub = nil
			c.getenv = func(name string) string {
				if name == "https_proxy" {
					return "http://proxy.example:3128"
				}
				return ""
			}
		}},
		{"device-none", Note, checkDevice, func(*Config) {}},
	} {
		t.Run(c.code, func(t *testing.T) {
			cfg := healthy(t, "", hub)
			c.spoil(&cfg)
			wantFault(t, c.check(t.Context(), newExam(cfg)), c.code, c.severity)
		})
	}
}

// realHub returns a hub whose CA is real, but which does not run.
func realHub(t *testing.T) *Hub {
	t.Helper()
	h := hubtest.New(t, nil, nil)
	return hubOf(h.Token(t, h.Owner, nil))
}

func hubOf(tok *wire.TokenFile) *Hub { return &Hub{URL: tok.Hub, Name: tok.HubName, CA: tok.HubCA} }

// Doctor has a separate finding for each obstacle between the machine and a real hub.
func TestFaultsOnTheWayToTheHub(t *testing.T) {
	t.Parallel()
	h, other := hubtest.New(t, nil, nil), hubtest.New(t, nil, nil)
	tok := h.Token(t, h.Owner, nil)
	proxy := func(cfg connectproxy.Config, userinfo string) *agent.HTTPProxy {
		u, err := url.Parse("http://" + userinfo + connectproxy.New(t, cfg).Addr)
		if err != nil {
			t.Fatal(err)
		}
		return &agent.HTTPProxy{URL: u}
	}
	for _, c := range []struct {
		code  string
		spoil func(*Config)
	}{
		{"hub", func(*Config) {}},
		{"proxy", func(c *Config) { c.Proxy = proxy(connectproxy.Config{Name: "ada", Password: "geheim"}, "ada:geheim@") }},
		{"hub-other-server", func(c *Config) { c.Hub.URL = other.URL }},
		{"hub-server-name", func(c *Config) { c.Hub.URL = strings.Replace(h.URL, "127.0.0.1", "localhost", 1) }},
		{"hub-no-answer", func(c *Config) { c.Hub.URL = "https://127.0.0.1:1" }},
		{"hub-dns", func(c *Config) { c.Hub.URL = "https://hub.invalid:1" }},
		{"hub-proxy", func(c *Config) { c.Proxy = proxy(connectproxy.Config{Name: "ada", Password: "geheim"}, "ada:falsch@") }},
		{"hub-intercepted", func(c *Config) {
			c.Proxy = proxy(connectproxy.Config{Intercept: connectproxy.NewCA(t, "Snoop").Server(t, "127.0.0.1")}, "")
		}},
	} {
		t.Run(c.code, func(t *testing.T) {
			cfg := healthy(t, "", hubOf(tok))
			c.spoil(&cfg)
			findings := checkHub(t.Context(), newExam(cfg))
			f := find(findings, c.code)
			if f == nil {
				t.Fatalf("no finding %s: %+v", c.code, findings)
			}
			if good := !strings.HasPrefix(c.code, "hub-"); (f.Severity == OK) != good || (f.Remedy == "") != good {
				t.Errorf("%+v", f)
			}
			raw, err := json.Marshal(findings)
			if err != nil {
				t.Fatal(err)
			}
			if s := string(raw); strings.Contains(s, "geheim") || strings.Contains(s, "falsch") {
				t.Errorf("a finding shows the proxy's password: %s", s)
			}
		})
	}
}

// Attack: a hostile hub, or a person who changed the agent's state file, puts escape sequences into
// texts that doctor's findings contain. The findings must not contain the escape sequences.
func TestFindingsHaveNoTerminalEscapes(t *testing.T) {
	t.Parallel()
	cfg := healthy(t, "", nil)
	writeState(t, cfg.StateDir, agent.State{Phase: agent.PhaseRemoved, Removed: "\x1b[2J", Waiting: "a\x1b]0;b\u202e"})
	f := find(checkDevice(t.Context(), newExam(cfg)), "device-removed")
	if f == nil || strings.ContainsAny(f.Fact+f.Cause, "\x1b\u202e") {
		t.Errorf("%q", f)
	}
}

func writeState(t *testing.T, dir string, s agent.State) {
	t.Helper()
	b, err := json.Marshal(s)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "state.json"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Doctor also finds faults that a test cannot cause in a software TPM. For these, the test calls
// Judge with the properties of a TPM that has the fault.
func TestFaultsOfTPMsThatAreNotSoftware(t *testing.T) {
	t.Parallel()
	sound := TPM{Version: "2.0", Banks: []string{"SHA-256"}, Certificates: 1, Endorsement: true, Owner: true}
	if w := Worst(sound.Judge(false)); w != OK {
		t.Fatalf("a sound TPM is judged %q", w)
	}
	old, disabled, locked := sound, sound, sound
	old.Version, disabled.Owner = "1.2", false
	locked.Lockout.Locked, locked.Lockout.Password = true, true
	wantFault(t, old.Judge(false), "tpm-version", Problem)
	wantFault(t, disabled.Judge(false), "tpm-owner-disabled", Problem)
	wantFault(t, locked.Judge(false), "tpm-lockout", Problem)
	if f := find(locked.Judge(false), "tpm-lockout"); strings.Contains(f.Remedy, "--clear-lockout") {
		t.Errorf("the remedy for a lockout with a password does not work: %s", f.Remedy)
	}
}

func TestEveryObstacleHasARemedy(t *testing.T) {
	t.Parallel()
	cfg := healthy(t, "", &Hub{URL: "https://hub.example"})
	for _, o := range []agent.Obstacle{agent.ObstacleProxy, agent.ObstacleIntercepted, agent.ObstacleOtherServer, agent.ObstacleServerName,
		agent.ObstacleExpired, agent.ObstacleDNS, agent.ObstacleNoAnswer, agent.ObstacleNotReady} {
		f := newExam(cfg).unreached(&agent.Unreached{Obstacle: o, Text: "why"})
		if f.Code != "hub-"+string(o) || f.Remedy == "" || f.Cause != "why" {
			t.Errorf("%s: %+v", o, f)
		}
	}
}
