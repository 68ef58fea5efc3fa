package e2e_test

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/hubtest"
	"gangway/internal/locked"
	"gangway/internal/swtpm"
)

// machine is a device with real parts: a software TPM, the agent as a process, and a hook for
// revisions. The test can cut its network link to the hub.
type machine struct {
	t     *testing.T
	hub   *hubtest.Hub
	ada   *owner
	files *uploader
	link  *link
	tpm   *swtpm.TPM
	dir   string
	id    string
	nick  string
	args  []string // arguments of `gangway-agent run`

	proc *exec.Cmd
	log  *locked.Buffer
}

// hookScript is the hook. It appends each call to the file `calls`, and runs the revision's file
// files/hook/VERB.sh, if there is one. The symbolic link "installed" points to the installed
// revision.
const hookScript = `#!/bin/sh
# Called as: hook VERB FOLDER
cd "$(dirname "$0")" || exit 1
echo "$1 $GANGWAY_REV" >>calls
script=$2/files/hook/$1.sh
if [ -f "$script" ]; then . "$script"; fi
case $1 in
install) ln -sfn "$2" installed ;;
test) [ "$(readlink installed)" = "$2" ] && echo "revision $GANGWAY_REV is good" ;;
commit) : ;;
rollback) ln -sfn "$GANGWAY_FORMER" installed ;;
reboot) : ;;
esac
`

// newMachine onboards a machine. The agent does not run yet.
func newMachine(t *testing.T) *machine {
	t.Helper()
	tpm := newTPM(t, swtpm.P384)
	w := newLink(t, "")
	// The hub names the link as its only address, so that the device cannot reach the hub
	// directly while the link is cut.
	h := hubtest.NewWith(t, func(c *api.Config) { c.PublicURL = "https://" + w.addr() }, tpm.Roots(), []*x509.Certificate{tpm.Issuer()})
	w.setTarget(strings.TrimPrefix(h.URL, "https://"))
	return newMachineAt(t, tpm, h, w, h.Owner)
}

// newMachineAt does the same as newMachine for an existing hub and any account of this hub.
func newMachineAt(t *testing.T, tpm *swtpm.TPM, h *hubtest.Hub, l *link, owner store.Account) *machine {
	t.Helper()
	m := &machine{t: t, tpm: tpm, hub: h, dir: t.TempDir(), log: new(locked.Buffer)}
	m.ada = signInAs(t, h, owner.Nick)
	m.files = &uploader{url: h.URL, client: m.ada.client, token: m.ada.token}
	m.link = l
	tok := h.Token(t, owner, nil)
	tok.Hub = "https://" + m.link.addr()
	s, err := onboard(t, m.tpm, tok, m.path("state"))
	if err != nil {
		t.Fatal(err)
	}
	m.id, m.nick = s.DeviceID, s.Nick
	if err := os.WriteFile(m.path("hook"), []byte(hookScript), 0o755); err != nil {
		t.Fatal(err)
	}
	m.setBootID("first")
	m.args = []string{"--hook", m.path("hook"), "--poll", "100ms", "--report-every", "300ms", "--boot-id", m.path("boot-id")}
	return m
}

func (m *machine) path(name ...string) string {
	return filepath.Join(append([]string{m.dir}, name...)...)
}

// setBootID sets the kernel's boot id. The agent detects a restart of the machine by a new boot id.
func (m *machine) setBootID(id string) {
	m.t.Helper()
	if err := os.WriteFile(m.path("boot-id"), []byte(id+"\n"), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// run starts the agent, which is killed when the test ends.
func (m *machine) run() {
	m.t.Helper()
	if m.proc != nil {
		m.t.Fatal("the agent runs already")
	}
	m.proc = exec.Command(agentBinary, append([]string{"run", "--tpm", m.tpm.Address(), "--state", m.path("state")}, m.args...)...)
	m.proc.Stderr = m.log
	m.proc.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.proc.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		if m.t.Failed() {
			m.t.Logf("the agent said:\n%s", m.log)
		}
		m.kill()
	})
}

// kill ends the agent with SIGKILL, as a power cut would.
func (m *machine) kill() {
	if m.proc != nil {
		m.proc.Process.Kill()
		m.proc.Wait()
		m.proc = nil
	}
}

// stop ends the agent with SIGTERM, as a service manager would.
func (m *machine) stop() {
	m.t.Helper()
	m.proc.Process.Signal(syscall.SIGTERM)
	if err := m.proc.Wait(); err != nil {
		m.t.Errorf("the agent ended with %v", err)
	}
	m.proc = nil
}

// object uploads an object and returns its hash.
func (m *machine) object(content string) string {
	m.t.Helper()
	sum := sha256.Sum256([]byte(content))
	if err := m.files.upload(m.t.Context(), []byte(content), sum); err != nil {
		m.t.Fatal(err)
	}
	return fmt.Sprintf("%x", sum)
}

// post posts a revision with these files and returns its number.
func (m *machine) post(files map[string]string) int {
	m.t.Helper()
	state := map[string]any{"#spec": "pantavisor-service-system@1", "a.json": map[string]int{"n": 1}}
	for name, content := range files {
		state[name] = m.object(content)
	}
	var step struct{ Rev int }
	m.ada.call("POST", "/trails/"+m.id+"/steps", map[string]any{"rev": -1, "commit-msg": "try", "state": state}, &step)
	return step.Rev
}

// progress is the progress of a revision, as the hub returns it.
type progress struct {
	Status   string `json:"status"`
	Message  string `json:"status-msg"`
	Progress int    `json:"progress"`
	Retries  int    `json:"retries"`
}

func (m *machine) progress(rev int) progress {
	m.t.Helper()
	var step struct{ Progress progress }
	m.ada.call("GET", fmt.Sprintf("/trails/%s/steps/%d", m.id, rev), nil, &step)
	return step.Progress
}

// patience is the longest wait for one event. It is long, so that the tests pass on a slow
// machine too.
const patience = 90 * time.Second

// eventually waits until the function `is` returns true. `what` names the condition in the error
// message.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timeout after %s waiting: %s", patience, what)
		}
	}
}

// waitForStatus waits until a revision has this status. It fails the test if the revision gets
// another final status.
func (m *machine) waitForStatus(rev int, status string) progress {
	m.t.Helper()
	var p progress
	eventually(m.t, fmt.Sprintf("revision %d is %s", rev, status), func() bool {
		p = m.progress(rev)
		if p.Status != status && slices.Contains([]string{"DONE", "ERROR", "WONTGO", "UPDATED", "CANCEL"}, p.Status) {
			m.t.Fatalf("revision %d is %s (%s), want %s", rev, p.Status, p.Message, status)
		}
		return p.Status == status
	})
	return p
}

// waitForTrail waits until the device has a trail.
func (m *machine) waitForTrail() {
	m.t.Helper()
	eventually(m.t, "the device has a trail", func() bool {
		_, err := m.hub.Store.Trail(m.t.Context(), m.id)
		return err == nil
	})
}

// The method `calls` returns the calls of the hook in order, each as "verb rev".
func (m *machine) calls() []string {
	b, err := os.ReadFile(m.path("calls"))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// The method `installed` returns the content of a file in the installed revision, or "" if the file
// does not exist.
func (m *machine) installed(name string) string {
	b, err := os.ReadFile(m.path("installed", "files", name))
	if err != nil {
		return ""
	}
	return string(b)
}

// link forwards TCP connections to an address. A test can cut the link or make it stall.
type link struct {
	l net.Listener

	mu    sync.Mutex
	to    string // guarded by mu
	cut   bool   // guarded by mu
	limit int64  // guarded by mu: bytes to the device until one connection breaks; 0 means no limit
	// Guarded by mu: when `carried` reaches this value, all connections stall; 0 means no limit.
	stall int64
	open  []net.Conn // guarded by mu

	carried atomic.Int64 // bytes forwarded to the device so far
}

func newLink(t *testing.T, to string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &link{l: l, to: to}
	go w.serve()
	t.Cleanup(func() { l.Close(); w.setCut(true) })
	return w
}

func (w *link) addr() string { return w.l.Addr().String() }

// setTarget sets the address that the link forwards new connections to.
func (w *link) setTarget(to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.to = to
}

// setCut cuts the link and closes its connections, or restores the link.
func (w *link) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	for _, c := range w.open {
		c.Close()
	}
	w.open = nil
}

// breakOnceAfter breaks one connection after the link has carried `n` more bytes to the device.
func (w *link) breakOnceAfter(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = n
}

// stallAfter stalls all connections after the link has carried `n` more bytes to the device. If `n`
// is 0, the connections continue.
func (w *link) stallAfter(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stall = n
	if n > 0 {
		w.stall += w.carried.Load()
	}
}

// waitWhileStalled waits until the link no longer stalls or the connection is closed.
func (w *link) waitWhileStalled(c net.Conn) {
	for {
		w.mu.Lock()
		still := w.stall > 0 && w.carried.Load() >= w.stall && slices.Contains(w.open, c)
		w.mu.Unlock()
		if !still {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (w *link) serve() {
	for {
		c, err := w.l.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		cut := w.cut
		if !cut {
			w.open = append(w.open, c)
		}
		w.mu.Unlock()
		if cut {
			c.Close()
			continue
		}
		go w.carry(c)
	}
}

func (w *link) carry(c net.Conn) {
	defer c.Close()
	w.mu.Lock()
	to := w.to
	w.mu.Unlock()
	far, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer far.Close()
	go func() { io.Copy(far, c); far.Close() }()
	buf := make([]byte, 16<<10)
	for {
		n, err := far.Read(buf)
		if n > 0 && w.countBytes(int64(n)) {
			return
		}
		w.waitWhileStalled(c)
		w.carried.Add(int64(n))
		if _, e := c.Write(buf[:n]); e != nil || err != nil {
			return
		}
	}
}

// countBytes counts bytes to the device against the limit of breakOnceAfter, and reports
// whether the connection must break now.
func (w *link) countBytes(n int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.limit == 0 {
		return false
	}
	if w.limit -= n; w.limit <= 0 {
		w.limit = 0
		return true
	}
	return false
}
