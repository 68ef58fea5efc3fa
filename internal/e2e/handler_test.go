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
	"syscall"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
)

// hooks is a Pantavisor's root as far as its credential handler sees it.
type hooks struct {
	t   *testing.T
	dir string
	hub *hubtest.Hub
	tpm *swtpm.TPM
}

// newHooks installs the agent as the handler, with a join token.
func newHooks(t *testing.T) *hooks {
	t.Helper()
	tpm := newTPM(t, swtpm.P384)
	h := &hooks{t: t, dir: t.TempDir(), hub: newHub(t, tpm), tpm: tpm}
	for _, d := range []string{"btools", "phconfig", "state"} {
		if err := os.Mkdir(h.path(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// A link and a copy: both are ways of installing.
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

// endRest ends what the hooks left running: this test's agents alone, by their
// state folder.
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

// call calls a hook as Pantavisor does: no arguments, both outputs read to
// their end, the exit status ignored.
func (h *hooks) call(verb string) string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, h.path("btools", "ext-gangway."+verb))
	c.Env = []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin"}
	out, err := c.CombinedOutput()
	if ctx.Err() != nil {
		h.t.Fatalf("the hook %s took longer than Pantavisor waits: %s", verb, out)
	}
	h.t.Logf("%s: %v: %s", verb, err, out)
	return string(out)
}

// config reads pantahub.config as Pantavisor does: lines of key=value.
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

// restarted serves the control socket, as Pantavisor does once its hook has
// ended, until it is told to start the machine anew.
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
			h.t.Errorf("asked: %s", got)
		}
	case <-time.After(patience):
		h.t.Fatal("Pantavisor is not told to start anew")
	}
}

// client is Pantavisor after its restart, signed in with what is in its file.
func (h *hooks) client() *pantavisor {
	h.t.Helper()
	device := &pantavisor{t: h.t, tls: hubRoots(h.t, h.hub)}
	c := h.config()
	device.host, device.id = c["PH_CREDS_HOST"]+":"+c["PH_CREDS_PORT"], c["PH_CREDS_ID"]
	return device
}

// signIn signs Pantavisor in by its file, and returns the status.
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

// Pantavisor calls its register hook, which onboards, writes the credentials
// and has it start anew; then it signs in, and does all that it does. Later its
// login hook gives it a token, and keeps its secret good.
func TestPantavisorsCredentialHandler(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	// Bound, and not answered while Pantavisor waits for its hook.
	l, err := net.Listen("unix", h.path("pv-ctrl"))
	if err != nil {
		t.Fatal(err)
	}
	h.call("register")
	first := h.config()
	for key, want := range map[string]string{"PH_CREDS_HOST": "127.0.0.1", "PH_CREDS_TYPE": "ext-gangway", "PH_UPDATER_INTERVAL": "5", "PH_FACTORY_AUTOTOK": ""} {
		if first[key] != want {
			t.Errorf("%s is %q, not %q", key, first[key], want)
		}
	}
	if info, err := os.Stat(h.path("phconfig", "pantahub.config")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	// It calls again, since it is not gone yet: the same credentials.
	h.call("register")
	if again := h.config(); again["PH_CREDS_SECRET"] != first["PH_CREDS_SECRET"] || again["PH_CREDS_ID"] != first["PH_CREDS_ID"] {
		t.Error("a second call makes other credentials")
	}
	if n := len(h.hub.Devices(t, h.hub.Owner)); n != 1 {
		t.Errorf("%d devices", n)
	}
	h.waitForReboot(l)

	p := h.client()
	if status := h.signIn(p); status != 200 {
		t.Fatalf("it cannot sign in: %d", status)
	}
	if owner := find(p.must("GET", "/devices/"+p.id, ""), "owner"); owner == "" {
		t.Error("it is nobody's")
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

	// The login hook prints the answer of a sign-in, and nothing else.
	out := h.call("login")
	token, found := strings.CutPrefix(out, `{"token":"`)
	token, end := strings.CutSuffix(token, `"}`)
	if !found || !end || strings.ContainsAny(token, "\"\n ") || len(token) > 1016 {
		t.Fatalf("it prints %q", out)
	}
	p.token = token
	if id := find(p.must("GET", "/devices/"+p.id, ""), "id"); id != p.id {
		t.Errorf("the token is of %q", id)
	}
	// The machine was off for days: its secret has ended, and is good again
	// when its TPM has vouched for it.
	hash := store.Hash(sha256.Sum256([]byte(first["PH_CREDS_SECRET"])))
	if err := h.hub.Store.PutDeviceSecret(t.Context(), p.id, h.hub.Devices(t, h.hub.Owner)[0].IDevIDHash, hash, h.hub.Now().Add(-48*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if status := h.signIn(p); status != 401 {
		t.Errorf("a secret that has ended signs in: %d", status)
	}
	h.call("login")
	if status := h.signIn(p); status != 200 {
		t.Errorf("its secret is not good again: %d", status)
	}
	if h.config()["PH_CREDS_SECRET"] != first["PH_CREDS_SECRET"] {
		t.Error("Pantavisor has another secret in memory than there is in its file")
	}
}

// Pantavisor ends its hook when it takes too long: whenever that is, there is
// one device, and the file has all of the credentials or none.
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
		t.Errorf("%d devices", n)
	}
	if status := h.signIn(h.client()); status != 200 {
		t.Errorf("its secret signs in with %d", status)
	}
}

// Where the owner's policy wants to see what was booted, the hooks show it, and
// Pantavisor's own connections go by that.
func TestHandlerShowsWhatWasBooted(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	if err := h.tpm.ExtendPCR(4, make([]byte, 32)); err != nil { // something is measured
		t.Fatal(err)
	}
	h.hub.Policy(t, h.hub.Owner.ID, "version: 1\nmeasured_boot: require\n")
	h.call("register")
	p := h.client()
	if status := h.signIn(p); status != 200 {
		t.Fatalf("%d", status)
	}
	p.must("GET", "/trails/", "")
}

// The login hook of a device that its owner deleted prints nothing.
func TestLoginHookOfADeletedDevicePrintsNothing(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	h.call("register")
	if err := h.hub.Store.DeleteDevice(t.Context(), h.hub.Owner.ID, h.config()["PH_CREDS_ID"], h.hub.Now()); err != nil {
		t.Fatal(err)
	}
	if out := h.call("login"); out != "" {
		t.Errorf("it prints %q", out)
	}
	p := h.client()
	if status := h.signIn(p); status != 401 {
		t.Errorf("its secret signs in: %d", status)
	}
}

// A copied disk's secret is worth nothing once its own TPM no longer vouches
// for it, and a copy of the state cannot: the key is in the TPM.
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
		t.Errorf("it prints %q", out)
	}
	if status := h.signIn(h.client()); status != 401 {
		t.Errorf("%d", status)
	}
}

// hubRoots trusts the hub's root, and shows no certificate.
func hubRoots(t *testing.T, h *hubtest.Hub) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(h.CA.RootPEM())
	return &tls.Config{RootCAs: roots}
}
