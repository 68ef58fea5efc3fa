package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/sqlite"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/wire"
)

// hubProcess is a real `gangway serve` process. A test can kill it and start it again with the same
// data folder.
type hubProcess struct {
	t          *testing.T
	bin        string
	data       string
	addr       string
	flags, env []string // more flags and variables of `gangway serve`
	cmd        *exec.Cmd
	log        bytes.Buffer
	logFile    *os.File // if not nil, the hub writes to this file, so that it never waits for this process
}

func (h *hubProcess) start() {
	h.t.Helper()
	h.cmd = exec.Command(h.bin, append([]string{"serve", "--data", h.data, "--listen", h.addr}, h.flags...)...)
	h.cmd.Env = append(os.Environ(), h.env...)
	h.cmd.Stderr = &h.log
	if h.logFile != nil {
		h.cmd.Stderr = h.logFile
	}
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		// The TLS handshake succeeds only when the hub serves requests, which is later than when it
		// listens. This client need not verify the hub, because it sends nothing; all other clients
		// verify it.
		c, err := tls.Dial("tcp", h.addr, &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("the hub does not serve at %s: %s", h.addr, h.log.Bytes())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (h *hubProcess) kill() {
	h.cmd.Process.Kill()
	h.cmd.Wait()
}

func (h *hubProcess) run(stdin string, args ...string) []byte {
	h.t.Helper()
	c := exec.Command(h.bin, args...)
	c.Env = append(os.Environ(), "XDG_CONFIG_HOME="+h.data)
	c.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		h.t.Fatalf("gangway %s: %v: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}

// A hub that is killed loses no acknowledged data. 200 devices onboard while the hub is killed
// (SIGKILL) at random moments and started again. At the end each machine is one active device, the
// database has every certificate that a device has, and the join token has 200 uses. The test is
// not parallel, because the hub must make progress between two kills.
func TestKilledHubForgetsNothing(t *testing.T) {
	needFullRun(t)
	const devices = 200
	dir := t.TempDir()
	h := &hubProcess{t: t, bin: filepath.Join(dir, "gangway"), data: filepath.Join(dir, "hub")}
	buildGangway(t, h.bin)
	maker, err := fleet.NewMaker("good", fleet.MakerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	makers := filepath.Join(dir, "makers.pem")
	var bundle []byte
	for _, c := range []*x509.Certificate{maker.Root, maker.Intermediate} {
		bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if err := os.WriteFile(makers, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	l.Close()
	h.start()
	t.Cleanup(h.kill)
	h.run("", "trust", "import", "--data", h.data, makers)
	h.run("correct horse battery\n", "account", "create", "--data", h.data, "--nick", "ada", "--password-stdin")
	h.run("correct horse battery\n", "login", "https://"+h.addr, "--data", h.data, "--nick", "ada", "--password-stdin")
	h.run(hubtest.LabPolicy, "policy", "set", "-", "--data", h.data)
	tok, err := wire.ParseTokenFile(h.run("", "token", "create", "--max-uses", fmt.Sprint(devices)))
	if err != nil {
		t.Fatal(err)
	}

	fleetDevices := make([]*fleet.Device, devices)
	for i := range fleetDevices {
		if fleetDevices[i], err = fleet.New(maker, "H-2"); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	var active atomic.Int64
	var mu sync.Mutex
	held := map[[32]byte]string{} // device id by the hash of each certificate that a device has; guarded by mu
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for _, d := range fleetDevices {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			id, _, hashes, err := onboardUntilActive(ctx, d, tok)
			if err != nil {
				t.Errorf("onboarding a device: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, hash := range hashes {
				held[hash] = id
			}
			active.Add(1)
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	kills := 0
killing:
	for {
		select {
		case <-done:
			break killing
		case <-time.After(20*time.Millisecond + rand.N(180*time.Millisecond)):
			h.kill()
			kills++
			h.start()
		}
	}
	if active.Load() != devices {
		t.Fatalf("%d of %d devices are active after %d kills", active.Load(), devices, kills)
	}
	if kills < 3 {
		t.Errorf("%d kills, want at least 3", kills)
	}
	h.kill()
	t.Logf("%d kills", kills)

	s, err := sqlite.Open(t.Context(), filepath.Join(h.data, "gangway.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	account, err := s.AccountByNickOrEmail(t.Context(), "ada")
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.Devices(t.Context(), account.ID, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	serials := map[string]bool{}
	for _, d := range list {
		serials[d.ProdSerial] = true
	}
	token, err := s.JoinToken(t.Context(), tok.ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != devices || len(serials) != devices || token.Uses != devices {
		t.Errorf("%d devices, %d serial numbers, %d uses of the join token; want %d of each", len(list), len(serials), token.Uses, devices)
	}
	for hash, id := range held {
		e, err := s.EnrolmentByCertificate(t.Context(), hash)
		if err != nil {
			t.Fatalf("a certificate of device %s is not in the database: %v", id, err)
		}
		if e.DeviceID != id || (e.State != store.Active && e.State != store.Superseded && e.State != store.Pending) {
			t.Errorf("a certificate of device %s: the database has device %s, state %s", id, e.DeviceID, e.State)
		}
	}
}

// onboardUntilActive onboards a device as the agent does: it repeats the same request until the hub
// answers, and then the same activation. It returns the device's id, its certificates, and the
// hashes of all certificates that the device received.
func onboardUntilActive(ctx context.Context, d *fleet.Device, tok *wire.TokenFile) (id string, c *fleet.Certificates, given [][32]byte, err error) {
	request, err := d.Request(tok, fleet.RequestChange{})
	if err != nil {
		return "", nil, nil, err
	}
	client, err := fleet.NewHub(tok)
	if err != nil {
		return "", nil, nil, err
	}
	defer client.Close()
	pause := func() error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10*time.Millisecond + rand.N(40*time.Millisecond)):
			return nil
		}
	}
	for {
		answer, err := within(ctx, func(ctx context.Context) (*fleet.Answer, error) {
			return client.Post(ctx, "/onboard", bytes.NewReader(request))
		})
		if err == nil && answer.Status == 200 {
			if c, err = d.Open(request, answer.Body); err != nil {
				return "", nil, nil, err
			}
			given = append(given, c.IDevIDHash())
			break
		}
		if err == nil && answer.Status/100 == 4 && answer.Status != 429 {
			return "", nil, nil, fmt.Errorf("the hub refused the request: %s", brief.Of(answer.Body))
		}
		if err := pause(); err != nil {
			return "", nil, nil, err
		}
	}
	for {
		answer, err := within(ctx, func(ctx context.Context) (*fleet.Answer, error) { return d.Activate(ctx, client, c) })
		if err == nil && answer.Status == 200 {
			var view struct {
				ID string `json:"id"`
			}
			err := json.Unmarshal(answer.Body, &view)
			return view.ID, c, given, err
		}
		if err == nil && answer.Status/100 == 4 && answer.Status != 429 {
			return "", nil, nil, fmt.Errorf("the hub refused the activation: %s", brief.Of(answer.Body))
		}
		if err := pause(); err != nil {
			return "", nil, nil, err
		}
	}
}

// The function `within` sends a request, and waits for the answer no longer than a device does.
func within(ctx context.Context, send func(context.Context) (*fleet.Answer, error)) (*fleet.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	return send(ctx)
}
