package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gangway/internal/fleet/load"
	"gangway/internal/locked"
)

// programs are a hub and a fleet that run with one home folder.
type programs struct {
	t              *testing.T
	home           string
	gangway, fleet string // paths of the programs
	data           string // the hub's data folder
	url, metrics   string // the hub's URL, and the address of its metrics
}

// buildCommit builds the program gangway of an earlier commit, and returns its path. `commit` may
// also be the path of such a program. If the repository does not have the commit, for example
// because it is a shallow clone, buildCommit skips the test.
func buildCommit(t *testing.T, commit string) string {
	t.Helper()
	if filepath.IsAbs(commit) {
		return commit
	}
	if out, err := exec.Command("git", "-C", "../..", "cat-file", "-e", commit+"^{commit}").CombinedOutput(); err != nil {
		t.Skipf("the repository does not have the commit %s: fetch it (a shallow clone does not have it): %s", commit, out)
	}
	dir := t.TempDir()
	script := `git -C ../.. archive "$1" | tar -x -C "$2" && cd "$2" && go build -trimpath -buildvcs=false -o gangway.old ./cmd/gangway`
	if out, err := exec.Command("sh", "-c", script, "sh", commit, dir).CombinedOutput(); err != nil {
		t.Fatalf("build the commit %s: %v: %s", commit, err, out)
	}
	return filepath.Join(dir, "gangway.old")
}

// run runs a program to its end and returns its output. `input` is the standard input.
func (p *programs) run(input string, program string, args ...string) (string, error) {
	c := exec.Command(program, args...)
	c.Dir, c.Env = p.home, append(os.Environ(), "HOME="+p.home, "XDG_CONFIG_HOME="+p.home)
	c.Stdin = strings.NewReader(input)
	out, err := c.CombinedOutput()
	return string(out), err
}

func (p *programs) must(input string, args ...string) string {
	p.t.Helper()
	out, err := p.run(input, p.gangway, args...)
	if err != nil {
		p.t.Fatalf("gangway %q: %v: %s", args, err, out)
	}
	return out
}

// serve starts the hub with the current program, and waits until it is ready. It returns a function
// that stops the hub as systemd does.
func (p *programs) serve() (stop func()) {
	p.t.Helper()
	c := exec.Command(p.gangway, "serve", "--data", p.data, "--listen", strings.TrimPrefix(p.url, "https://"), "--metrics-listen", p.metrics,
		"--tpm-roots", "maker/root.pem", "--tpm-intermediates", "maker/intermediate.pem", "--rate", "onboard=1000/1000")
	c.Dir = p.home
	return startHub(p.t, c, p.metrics)
}

// startHub starts the command `c`, which runs a hub with the option --metrics-listen `metrics`, and
// waits until the hub is ready. It returns a function that stops the hub as systemd does.
func startHub(t *testing.T, c *exec.Cmd, metrics string) (stop func()) {
	t.Helper()
	var log locked.Buffer
	c.Stdout, c.Stderr = &log, &log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	t.Cleanup(func() { c.Process.Kill() })
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		answer, err := http.Get("http://" + metrics + "/readyz")
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case err := <-ended:
			t.Fatalf("the hub ended: %v: %s", err, log.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("the hub is not ready after two minutes: %v: %s", err, log.String())
		}
	}
	return func() {
		t.Helper()
		c.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil {
			t.Errorf("the hub ended with %v: %s", err, log.String())
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// load puts the hub under load, and returns the report. Some operations may fail if `failures` is
// true.
func (p *programs) load(failures bool, args ...string) (r load.Report) {
	p.t.Helper()
	out, err := p.run("", p.fleet, append([]string{"run", "--token", "t.json", "--maker", "maker", "--state", "fleet.state", "--timeout", "20s", "--json", "report.json"}, args...)...)
	if exit := (*exec.ExitError)(nil); err != nil && !(failures && errors.As(err, &exit) && exit.ExitCode() == 3) {
		p.t.Fatalf("gangway-fleet %q: %v: %s", args, err, out)
	}
	text, err := os.ReadFile(filepath.Join(p.home, "report.json"))
	if err != nil {
		p.t.Fatal(err)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		p.t.Fatal(err)
	}
	return r
}

// devices returns the number of active devices.
func (p *programs) devices() int {
	p.t.Helper()
	var list []struct{ ID string }
	if err := json.Unmarshal([]byte(p.must("", "device", "ls", "state:active", "--output", "json")), &list); err != nil {
		p.t.Fatal(err)
	}
	return len(list)
}

// A hub of an earlier commit is upgraded while devices onboard and report. Every device whose
// onboarding the hub acknowledged, before or after the upgrade, is active at the end and reports
// with its old certificate. The account, the session and the join token of the earlier commit still
// work, and gangway fsck finds nothing.
func TestUpgradeUnderLoad(t *testing.T) {
	commit := os.Getenv("GANGWAY_UPGRADE_FROM")
	if commit == "" {
		t.Skip("it builds an earlier commit: make upgrade-test runs it")
	}
	p := &programs{t: t, home: t.TempDir(), gangway: buildCommit(t, commit), url: "https://" + freeAddress(t), metrics: freeAddress(t)}
	p.data = filepath.Join(p.home, "hub")
	built, err := filepath.Abs("../../build")
	if err != nil {
		t.Fatal(err)
	}
	p.fleet = filepath.Join(built, "gangway-fleet")
	if out, err := p.run("", p.fleet, "maker", "maker"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	stop := p.serve()
	const password = "correct horse battery staple\n"
	if err := os.WriteFile(filepath.Join(p.home, "policy.yaml"), []byte("version: 1\nsoftware_tpms: [FAKE]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.must("", "policy", "set", "policy.yaml", "--data", p.data)
	p.must(password, "account", "create", "--data", p.data, "--nick", "ada", "--password-stdin")
	p.must(password, "login", p.url, "--data", p.data, "--nick", "ada", "--password-stdin")
	p.must("", "token", "create", "-o", "t.json")
	const aboard, all = 20, 60
	p.load(false, "--devices", fmt.Sprint(aboard), "--mix", "report=10/s,update=2/s", "--for", "3s")
	if n := p.devices(); n != aboard {
		t.Fatalf("%d devices are aboard before the upgrade; %d were expected", n, aboard)
	}

	during := make(chan load.Report)
	go func() {
		during <- p.load(true, "--devices", fmt.Sprint(all), "--onboarded", fmt.Sprint(aboard), "--mix", "onboard=2/s,report=10/s,logs=2/s", "--for", "15s")
	}()
	time.Sleep(5 * time.Second)
	stop()
	p.gangway = filepath.Join(built, "gangway")
	began := time.Now()
	stop = p.serve()
	t.Logf("the new hub was ready after %s", time.Since(began).Round(time.Millisecond))
	report := <-during
	if report.Active <= aboard {
		t.Fatalf("only %d devices are active: none onboarded during the upgrade", report.Active)
	}
	t.Logf("%d devices onboarded around the upgrade", report.Active-aboard)

	// The hub may have activated a device although the fleet did not get the answer.
	if n := p.devices(); n < report.Active {
		t.Errorf("%d devices are active; the hub acknowledged %d", n, report.Active)
	}
	after := p.load(false, "--devices", fmt.Sprint(report.Active), "--mix", "report=20/s,update=2/s", "--for", "3s")
	if after.Active != report.Active {
		t.Errorf("%d of %d devices report after the upgrade", after.Active, report.Active)
	}
	stop()
	if out, err := p.run("", p.gangway, "fsck", "--data", p.data); err != nil {
		t.Errorf("gangway fsck: %v: %s", err, out)
	}
}
