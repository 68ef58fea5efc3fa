package e2e_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
)

// hooks is the part of Pantavisor's root file system that its credential handler (gangway-agent)
// uses.
type hooks struct {
	t   *testing.T
	dir string
	hub *hubtest.Hub
	tpm *swtpm.TPM

	secrets secretCounter
}

// secretCounter counts how often the hub stores a device's secret or a new expiry of the secret.
type secretCounter struct {
	api.Store
	stored atomic.Int32
}

// PutDeviceSecret stores a secret and adds one to the count.
func (s *secretCounter) PutDeviceSecret(ctx context.Context, device string, idevid, secret store.Hash, expires time.Time) error {
	err := s.Store.PutDeviceSecret(ctx, device, idevid, secret, expires)
	if err == nil {
		s.stored.Add(1)
	}
	return err
}

// newHooks installs the agent as the credential handler, with a join token.
func newHooks(t *testing.T) *hooks {
	t.Helper()
	tpm := newTPM(t, swtpm.P384)
	h := &hooks{t: t, dir: t.TempDir(), tpm: tpm}
	h.hub = hubtest.NewWith(t, func(c *api.Config) {
		h.secrets.Store = c.Store
		c.Store = &h.secrets
	}, tpm.Roots(), []*x509.Certificate{tpm.Issuer()})
	for _, d := range []string{"btools", "phconfig", "state"} {
		if err := os.Mkdir(h.path(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// Install one hook as a copy of the program and one as a link to it, because people may install
	// the hooks in either way.
	program, err := os.ReadFile(agentBinary)
	if err == nil {
		err = errors.Join(os.WriteFile(h.path("btools", "ext-gangway.register"), program, 0o755), os.Symlink(agentBinary, h.path("btools", "ext-gangway.login")))
	}
	if err != nil {
		t.Fatal(err)
	}
	token, err := json.Marshal(h.hub.Token(t, h.hub.Owner, nil))
	if err != nil {
		t.Fatal(err)
	}
	h.write(string(token), "btools", "token.json")
	h.write("# settings\ntpm="+tpm.Address()+"\nstate="+h.path("state")+"\ntoken-file="+h.path("btools", "token.json")+
		"\nconfig="+h.path("phconfig", "pantahub.config")+"\ncontrol="+h.path("pv-ctrl")+"\n", "btools", "ext-gangway.conf")
	h.write("PH_CREDS_TYPE=ext-gangway\nPH_CREDS_HOST=api.pantahub.com\nPH_CREDS_PORT=443\nPH_FACTORY_AUTOTOK=a-secret-of-the-owners\nPH_UPDATER_INTERVAL=5\n", "phconfig", "unclaimed.config")
	t.Cleanup(h.killLeftovers)
	return h
}

func (h *hooks) path(name ...string) string {
	return filepath.Join(append([]string{h.dir}, name...)...)
}

func (h *hooks) write(content string, name ...string) {
	h.t.Helper()
	if err := os.WriteFile(h.path(name...), []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// killLeftovers kills the agents that this test's hooks started and that still run. It finds them
// by their state folder.
func (h *hooks) killLeftovers() {
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		h.t.Error(err)
	}
	for _, path := range list {
		line, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(line), "\x00"+h.path("state")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// call runs a hook as Pantavisor does: without arguments. It reads both outputs to the end and
// ignores the exit status.
func (h *hooks) call(verb string) string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, h.path("btools", "ext-gangway."+verb))
	c.Env = []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin"}
	out, err := c.CombinedOutput()
	if ctx.Err() != nil {
		h.t.Fatalf("the hook %s takes longer than Pantavisor waits: %s", verb, out)
	}
	h.t.Logf("%s: %v: %s", verb, err, out)
	return string(out)
}

// config returns the lines key=value of the file pantahub.config, as Pantavisor reads them.
func (h *hooks) config() map[string]string {
	h.t.Helper()
	b, err := os.ReadFile(h.path("phconfig", "pantahub.config"))
	if err != nil {
		h.t.Fatal(err)
	}
	m := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			m[key] = value
		}
	}
	return m
}

// waitForReboot serves Pantavisor's control socket until the agent asks for a reboot of the
// machine. Pantavisor serves this socket after its hook has ended.
func (h *hooks) waitForReboot(l net.Listener) {
	h.t.Helper()
	asked := make(chan string, 10)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var command struct{ Op, Payload string }
		if err := json.NewDecoder(r.Body).Decode(&command); err != nil || command.Payload == "" {
			http.Error(w, "Command has bad format", http.StatusBadRequest)
			return
		}
		asked <- r.Method + " " + r.URL.Path + " " + command.Op
	})}
	go server.Serve(l)
	defer server.Close()
	select {
	case got := <-asked:
		if got != "POST /commands REBOOT_DEVICE" {
			h.t.Errorf("the agent asked for %q, want POST /commands REBOOT_DEVICE", got)
		}
	case <-time.After(patience):
		h.t.Fatal("the agent does not ask Pantavisor to reboot the machine")
	}
}

// client returns a client that behaves as Pantavisor after a restart. It uses the hub and the
// device id in Pantavisor's configuration file.
func (h *hooks) client() *pantavisor {
	h.t.Helper()
	device := &pantavisor{t: h.t, tls: hubRoots(h.t, h.hub)}
	c := h.config()
	device.host, device.id = c["PH_CREDS_HOST"]+":"+c["PH_CREDS_PORT"], c["PH_CREDS_ID"]
	return device
}

// signIn signs in with the credentials in Pantavisor's configuration file, and returns the HTTP
// status.
func (h *hooks) signIn(p *pantavisor) int {
	h.t.Helper()
	c := h.config()
	body, err := json.Marshal(map[string]string{"username": c["PH_CREDS_PRN"], "password": c["PH_CREDS_SECRET"]})
	if err != nil {
		h.t.Fatal(err)
	}
	p.token = ""
	status, answer := p.send(p.tls, p.host, "HTTP/1.1", "POST", "/auth/login", body)
	if status == 200 {
		p.token = find(answer, "token")
	}
	return status
}

// Pantavisor works with gangway-agent as its credential handler. The register hook onboards the
// device, writes the credentials and asks for a reboot. Pantavisor then signs in and runs its usual
// sequence. Later the login hook prints an access token and extends the expiry of the secret.
func TestPantavisorsCredentialHandler(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	// Pantavisor has bound the control socket, but it accepts no connections while it waits for its
	// hook.
	l, err := net.Listen("unix", h.path("pv-ctrl"))
	if err != nil {
		t.Fatal(err)
	}
	h.call("register")
	first := h.config()
	for key, want := range map[string]string{"PH_CREDS_HOST": "127.0.0.1", "PH_CREDS_TYPE": "ext-gangway", "PH_UPDATER_INTERVAL": "5", "PH_FACTORY_AUTOTOK": ""} {
		if first[key] != want {
			t.Errorf("%s is %q, want %q", key, first[key], want)
		}
	}
	if info, err := os.Stat(h.path("phconfig", "pantahub.config")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("pantahub.config: %v %v, want mode 0600", info, err)
	}
	// If Pantavisor calls the hook again before it reboots, the credentials stay the same.
	h.call("register")
	if again := h.config(); again["PH_CREDS_SECRET"] != first["PH_CREDS_SECRET"] || again["PH_CREDS_ID"] != first["PH_CREDS_ID"] {
		t.Error("a second call made other credentials")
	}
	if n := len(h.hub.Devices(t, h.hub.Owner)); n != 1 {
		t.Errorf("%d devices, want 1", n)
	}
	h.waitForReboot(l)

	p := h.client()
	if status := h.signIn(p); status != 200 {
		t.Fatalf("signing in: status %d, want 200", status)
	}
	if owner := find(p.must("GET", "/devices/"+p.id, ""), "owner"); owner == "" {
		t.Error("the device has no owner")
	}
	p.firstSync(map[string][]byte{"bsp/kernel": []byte("kernel")})
	ada := signIn(t, h.hub)
	sum := p.upload("app/root", []byte("root"))
	ada.call("POST", "/trails/"+p.id+"/steps", json.RawMessage(`{"rev":-1,"commit-msg":"x","state":{"#spec":"pantavisor-service-system@1","app/root":"`+sum+`"}}`), new(any))
	if rev, files := p.update("DONE"); rev != 1 || string(files["app/root"]) != "root" {
		t.Errorf("rev %d, %q", rev, files)
	}
	p.must("PUT", "/devices/"+p.id+"/device-meta", `{"pantavisor.version":"test"}`)
	p.must("GET", "/devices/"+p.id+"/user-meta", "")

	// The login hook prints only the hub's response to the sign-in. The hook extends the expiry of
	// the secret, and starts 'gangway-agent pantavisor keep', which extends it again a moment
	// later. Wait for both: below, the test lets the secret expire, and a command that is still
	// running would renew it.
	stored := h.secrets.stored.Load()
	out := h.call("login")
	eventually(t, "the hook and the command keep extend the secret", func() bool { return h.secrets.stored.Load() == stored+2 })
	token, found := strings.CutPrefix(out, `{"token":"`)
	token, end := strings.CutSuffix(token, `"}`)
	if !found || !end || strings.ContainsAny(token, "\"\n ") || len(token) > 1016 {
		t.Fatalf("the login hook prints %q", out)
	}
	p.token = token
	if id := find(p.must("GET", "/devices/"+p.id, ""), "id"); id != p.id {
		t.Errorf("the token belongs to device %q, want %q", id, p.id)
	}
	// If the machine was off until its secret expired, the login hook renews the secret with the
	// key in the TPM.
	hash := store.Hash(sha256.Sum256([]byte(first["PH_CREDS_SECRET"])))
	if err := h.hub.Store.PutDeviceSecret(t.Context(), p.id, h.hub.Devices(t, h.hub.Owner)[0].IDevIDHash, hash, h.hub.Now().Add(-48*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if status := h.signIn(p); status != 401 {
		t.Errorf("signing in with an expired secret: status %d, want 401", status)
	}
	h.call("login")
	if status := h.signIn(p); status != 200 {
		t.Errorf("signing in with the renewed secret: status %d, want 200", status)
	}
	if h.config()["PH_CREDS_SECRET"] != first["PH_CREDS_SECRET"] {
		t.Error("the login hook changed the secret, which Pantavisor keeps in memory")
	}
}

// Pantavisor kills a hook that takes too long. A kill at any instant leaves exactly one device, and
// a configuration file with either all credentials or none.
func TestRegisterHookIsKilledAtAnyInstant(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	for n := range 15 {
		c := exec.Command(h.path("btools", "ext-gangway.register"))
		c.Env = []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin"}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(10+rand.IntN(30*(n+1))) * time.Millisecond)
		c.Process.Kill()
		c.Wait()
		if _, err := os.Stat(h.path("phconfig", "pantahub.config")); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		config := h.config()
		for _, key := range []string{"PH_CREDS_TYPE", "PH_CREDS_HOST", "PH_CREDS_PORT", "PH_CREDS_ID", "PH_CREDS_PRN", "PH_CREDS_SECRET"} {
			if config[key] == "" {
				t.Fatalf("%s is missing after a kill", key)
			}
		}
	}
	h.call("register")
	if n := len(h.hub.Devices(t, h.hub.Owner)); n != 1 {
		t.Errorf("%d devices, want 1", n)
	}
	if status := h.signIn(h.client()); status != 200 {
		t.Errorf("signing in: status %d, want 200", status)
	}
}

// If the owner's policy requires a measured boot, the hooks send the boot measurement. The hub then
// also accepts Pantavisor's own connections.
func TestHandlerShowsWhatWasBooted(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	if err := h.tpm.ExtendPCR(4, make([]byte, 32)); err != nil { // so that the TPM has a measured boot
		t.Fatal(err)
	}
	h.hub.Policy(t, h.hub.Owner.ID, "version: 1\nmeasured_boot: require\n")
	h.call("register")
	p := h.client()
	if status := h.signIn(p); status != 200 {
		t.Fatalf("signing in: status %d, want 200", status)
	}
	p.must("GET", "/trails/", "")
}

// If the owner deleted the device, the login hook prints no access token.
func TestLoginHookOfADeletedDevicePrintsNothing(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	h.call("register")
	if err := h.hub.Store.DeleteDevice(t.Context(), h.hub.Owner.ID, h.config()["PH_CREDS_ID"], h.hub.Now()); err != nil {
		t.Fatal(err)
	}
	if out := h.call("login"); out != "" {
		t.Errorf("the login hook prints %q", out)
	}
	p := h.client()
	if status := h.signIn(p); status != 401 {
		t.Errorf("signing in as a deleted device: status %d, want 401", status)
	}
}

// A thief of the disk can use the secret only until it expires. Only the TPM that has the device's
// key can renew the secret; a copy of the disk with another TPM cannot.
func TestCopiedPantavisorConfigEndsWithItsTPM(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	h.call("register")
	other := newTPM(t, swtpm.P384)
	text, err := os.ReadFile(h.path("btools", "ext-gangway.conf"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(strings.TrimPrefix(string(text), "# settings\n"), "\n")
	h.write("tpm="+other.Address()+"\n"+rest, "btools", "ext-gangway.conf")
	hash := store.Hash(sha256.Sum256([]byte(h.config()["PH_CREDS_SECRET"])))
	if err := h.hub.Store.PutDeviceSecret(t.Context(), h.config()["PH_CREDS_ID"], h.hub.Devices(t, h.hub.Owner)[0].IDevIDHash, hash, h.hub.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if out := h.call("login"); out != "" {
		t.Errorf("the login hook prints %q", out)
	}
	if status := h.signIn(h.client()); status != 401 {
		t.Errorf("signing in with the expired secret: status %d, want 401", status)
	}
}

// hubRoots returns a TLS configuration that trusts the hub's root and has no client
// certificate.
func hubRoots(t *testing.T, h *hubtest.Hub) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(h.CA.RootPEM())
	return &tls.Config{RootCAs: roots}
}
