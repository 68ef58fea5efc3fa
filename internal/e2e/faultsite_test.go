package e2e_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/store/sqlstore"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/internal/process"
	"gangway/wire"
)

// site is a hub on simulated machines: replicas behind HAProxy.
type site struct {
	t        *testing.T
	bin      string // the program gangway
	url      string // of HAProxy
	database string // value of --database for commands on this machine; empty: SQLite
	dir      string
	keys     string // folder with a copy of the hub's keys
	balancer *node
	replicas []*hubReplica
	maker    *fleet.Maker
	token    *wire.TokenFile
}

// hubReplica is a `gangway serve` process on a node. It starts again when it ends, as systemd would
// start it.
type hubReplica struct {
	*node
	dir  string   // data folder
	args []string // of gangway
	log  *os.File
	done chan struct{} // closed when no process runs any more

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended bool // do not start the process again
	kills int
	runs  int
}

// run starts the process, and starts it again whenever it ends, until the method `end` is called.
func (r *hubReplica) run(bin string) {
	defer close(r.done)
	for {
		r.mu.Lock()
		if r.ended {
			r.mu.Unlock()
			return
		}
		cmd := exec.Command(bin, r.args...)
		cmd.Stderr = r.log
		err := r.start(cmd)
		r.cmd = cmd
		r.runs++
		r.mu.Unlock()
		if err != nil {
			r.t.Error(err)
			return
		}
		_ = cmd.Wait() // it ends with an error while the database does not answer
		time.Sleep(100 * time.Millisecond)
	}
}

func (r *hubReplica) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.cmd.Process.Kill()
	r.kills++
}

// end kills the process, which does not start again.
func (r *hubReplica) end() {
	r.mu.Lock()
	r.ended = true
	_ = r.cmd.Process.Kill()
	r.mu.Unlock()
	<-r.done
}

// newSite prepares a site with n replicas. Call `serve` when the database runs.
func newSite(t *testing.T, n int) *site {
	t.Helper()
	if _, err := exec.LookPath("haproxy"); err != nil {
		t.Skipf("%v: scripts/install.sh installs it", err)
	}
	s := &site{t: t, dir: t.TempDir(), balancer: newNode(t, 1)}
	s.bin, s.keys = filepath.Join(s.dir, "gangway"), filepath.Join(s.dir, "keys")
	s.check(os.Mkdir(s.keys, 0o700))
	for i := range n {
		r := &hubReplica{node: newNode(t, byte(10+i)), dir: filepath.Join(s.dir, fmt.Sprint("replica", i)), done: make(chan struct{})}
		s.replicas = append(s.replicas, r)
		s.check(os.Mkdir(r.dir, 0o700))
	}
	var err error
	s.maker, err = fleet.NewMaker("good", fleet.MakerOptions{})
	s.check(err)
	return s
}

func (s *site) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// serve starts HAProxy, with the configuration of docs/operations.md, and the replicas. If
// `database` is not empty, it is the value of the replicas' flag --database. It also makes an
// account, and a join token for `devices` devices.
func (s *site) serve(database string, devices int) {
	s.t.Helper()
	buildGangway(s.t, s.bin)
	var addrs []string
	for _, r := range s.replicas {
		addrs = append(addrs, r.addr+":12443")
	}
	url, haproxy := haproxyCommand(s.t, documentedReplicas(s.t, s.keys, addrs))
	s.url = url
	haproxy.Stderr = s.create("haproxy.log")
	s.check(s.balancer.start(haproxy))
	s.t.Cleanup(func() { _ = haproxy.Process.Kill(); _ = haproxy.Wait() })
	s.makerFile()
	for i, r := range s.replicas {
		s.give(r)
		r.log = s.create(fmt.Sprintf("replica%d.log", i))
		r.args = []string{"serve", "--data", r.dir, "--listen", r.addr + ":12443", "--url", url, "--proxy-protocol-from", s.balancer.addr,
			"--tpm-roots", filepath.Join(s.dir, "root.pem"), "--tpm-intermediates", filepath.Join(s.dir, "intermediate.pem"), "--rate", "onboard=100000/100000"}
		if database != "" {
			r.args = append(r.args, "--database", database)
		}
	}
	s.firstStart()
	for i, r := range s.replicas {
		go r.run(s.bin)
		s.t.Cleanup(r.end)
		if i == 0 {
			s.waitUntilReady()
		}
	}
	const password = "correct horse battery\n"
	s.local(password, "account", "create", "--nick", "ada", "--password-stdin")
	s.command(password, "login", url, "--data", s.keys, "--nick", "ada", "--password-stdin")
	s.local(hubtest.LabPolicy, "policy", "set", "-")
	var err error
	s.token, err = wire.ParseTokenFile(s.command("", "token", "create", "--max-uses", fmt.Sprint(devices)))
	s.check(err)
}

// firstStart runs the first replica once, with an empty database.
func (s *site) firstStart() {
	s.t.Helper()
	r := s.replicas[0]
	cmd := exec.Command(s.bin, append(r.args, "--new-database")...)
	cmd.Stderr = r.log
	s.check(r.start(cmd))
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	s.waitUntilReady()
}

func (s *site) create(name string) *os.File {
	s.t.Helper()
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	s.check(err)
	s.t.Cleanup(func() { f.Close() })
	return f
}

func (s *site) makerFile() {
	s.t.Helper()
	for name, der := range map[string][]byte{"root.pem": s.maker.Root.Raw, "intermediate.pem": s.maker.Intermediate.Raw} {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		s.check(os.WriteFile(filepath.Join(s.dir, name), text, 0o600))
	}
}

// give copies the hub's keys to a replica's data folder. It also gives all replicas the same name
// for their objects (in the file objects.id), as if they shared one folder. This is safe, because
// the devices of these tests have no objects.
func (s *site) give(r *hubReplica) {
	s.t.Helper()
	id := filepath.Join(s.keys, "objects.id")
	s.check(os.WriteFile(id, []byte("shared\n"), 0o600))
	cmd := exec.Command("cp", "-a", filepath.Join(s.keys, "pki"), id, r.dir)
	s.output("", cmd, func() error { return r.start(cmd) })
}

// waitUntilReady waits until HAProxy passes a request to a replica that is ready.
func (s *site) waitUntilReady() {
	s.t.Helper()
	hub, err := pki.Open(filepath.Join(s.keys, "pki"), pki.Options{Name: "Test"})
	s.check(err)
	client := clientOf(hub)
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		resp, err := client.Get(s.url + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == 200 {
				return
			}
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("no replica is ready: %v: %s", err, s.logs())
		}
	}
}

// command runs a command of gangway that connects to the hub.
func (s *site) command(stdin string, args ...string) []byte {
	s.t.Helper()
	cmd := exec.Command(s.bin, args...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+filepath.Join(s.dir, "settings"))
	return s.output(stdin, cmd, cmd.Start)
}

// local runs a command of gangway that uses the database, on the first replica's node.
func (s *site) local(stdin string, args ...string) []byte {
	s.t.Helper()
	r := s.replicas[0]
	cmd := exec.Command(s.bin, append(args, "--data", r.dir)...)
	if s.database != "" {
		cmd.Env = append(os.Environ(), "GANGWAY_DATABASE="+s.database)
	}
	return s.output(stdin, cmd, func() error { return r.start(cmd) })
}

// output starts a program with the function `start`, and returns its output.
func (s *site) output(stdin string, cmd *exec.Cmd, start func() error) []byte {
	s.t.Helper()
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := start()
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		s.t.Fatalf("%s: %v: %s %s", strings.Join(cmd.Args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes()
}

// logs returns the ends of all logs.
func (s *site) logs() string {
	var all strings.Builder
	names, _ := filepath.Glob(filepath.Join(s.dir, "*.log"))
	for _, name := range names {
		text, _ := os.ReadFile(name)
		fmt.Fprintf(&all, "\n%s: %s", filepath.Base(name), process.Tail(text))
	}
	return all.String()
}

// The method `panics` fails the test if a replica's log contains a panic.
func (s *site) panics() {
	s.t.Helper()
	for i := range s.replicas {
		text, err := os.ReadFile(filepath.Join(s.dir, fmt.Sprintf("replica%d.log", i)))
		s.check(err)
		if at := bytes.Index(text, []byte("panic")); at >= 0 {
			s.t.Errorf("replica %d: %.3000s", i, text[at:])
		}
	}
}

// killOne kills a replica at random, and then waits for a random time of less than a second.
func (s *site) killOne() {
	s.replicas[rand.N(len(s.replicas))].kill()
	time.Sleep(rand.N(time.Second))
}

// checkStore compares the database with the devices' own records.
func (s *site) checkStore(ctx context.Context, db *sqlstore.Store, f *faultFleet) {
	t := s.t
	t.Helper()
	account, err := db.AccountByNickOrEmail(ctx, "ada")
	s.check(err)
	byID := map[string]store.Device{}
	serials := map[string]bool{}
	for after := ""; ; {
		list, err := db.Devices(ctx, account.ID, after, 1000)
		s.check(err)
		for _, d := range list {
			byID[d.ID], serials[d.ProdSerial], after = d, true, d.Nick
		}
		if len(list) < 1000 {
			break
		}
	}
	token, err := db.JoinToken(ctx, s.token.ID)
	s.check(err)
	if n := len(f.devices); len(byID) != n || len(serials) != n || token.Uses != n {
		t.Errorf("%d devices, %d serial numbers, %d uses of the join token; want %d of each", len(byID), len(serials), token.Uses, n)
	}
	for _, d := range f.devices {
		row, ok := byID[d.id]
		if !ok {
			t.Errorf("device %s is not in the database", d.id)
			continue
		}
		if beat := number(row.DeviceMeta["beat"]); beat < d.acknowledged {
			t.Errorf("device %s: the hub acknowledged report %d, and the database has report %d", d.id, d.acknowledged, beat)
		}
		for _, hash := range d.certificates {
			e, err := db.EnrolmentByCertificate(ctx, hash)
			if err != nil || e.DeviceID != d.id || e.State != store.Active && e.State != store.Superseded && e.State != store.Pending {
				t.Errorf("a certificate of device %s: device %s, state %s, %v", d.id, e.DeviceID, e.State, err)
			}
		}
	}
}
