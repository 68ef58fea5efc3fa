package docs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gangway/hub/store/postgres/pgtest"
	"gangway/internal/locked"
	"gangway/internal/pty"
	"gangway/internal/swtpm"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inRoom is the name of an environment variable. It is set in the process of a test that runs
// inside a sandbox (type room), and contains the folder in which the sandbox is built.
const inRoom = "GANGWAY_DOCS_ROOM"

// room is a sandbox for the commands of one documentation page: a container with Linux namespaces.
// The test types the commands exactly as the page has them. The sandbox has separate mounts,
// processes, network and /etc/hosts. The mounts are a copy of the root file system that keeps
// writes in memory; the network has only loopback. So no command can change the machine outside the
// sandbox.
type room struct {
	t        *testing.T
	dir      string // folder in which the commands run
	env      []string
	answers  map[string]string // the text that the test types at each prompt
	tpm      *swtpm.TPM        // the machine's TPM; nil if the machine has no TPM
	stopS3   func()
	database *pgtest.Server

	mu      sync.Mutex
	running map[string]*program // background programs by the first two words of their commands; guarded by mu
}

// program is a command that runs in the background.
type program struct {
	locked.Buffer // the program's output

	cmd     *exec.Cmd
	started time.Time
	done    chan struct{} // closed when the program has ended
}

// enter makes the calling test run in a sandbox. If it is called outside a sandbox, it runs the
// test again in a new process inside a sandbox, reports the result, and returns nil.
func enter(t *testing.T) *room {
	t.Helper()
	base := os.Getenv(inRoom)
	if base == "" && testing.Short() {
		t.Skip("it runs every command of a page")
	}
	if base == "" {
		runInside(t)
		return nil
	}
	r := &room{t: t, dir: "/root/work", running: map[string]*program{}, answers: map[string]string{}}
	if err := build(base); err != nil {
		t.Fatalf("the room cannot be built: %v", err)
	}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.env = append(os.Environ(), "HOME=/root", "PWD="+r.dir, "PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/bin:"+os.Getenv("PATH"), "XDG_CONFIG_HOME=", "CI=", "PSQL_PAGER=cat")
	t.Cleanup(r.endAll)
	return r
}

// runInside runs the calling test again, in a new process with new namespaces.
func runInside(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a room of its own needs root")
	}
	c := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "12m")
	c.Env = append(os.Environ(), inRoom+"="+t.TempDir())
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC, Pdeathsig: syscall.SIGKILL}
	out, err := c.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("no namespaces can be made here")
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if bytes.Contains(out, []byte("--- SKIP: "+t.Name())) {
		t.Skipf("%s", out)
	}
}

// build makes the sandbox's file system and network, and changes the root folder to the sandbox's
// root.
func build(base string) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	repository := filepath.Join(here, root)
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Mount("room", base, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	inside := filepath.Join(base, "root")
	if err := overlay(base, "system", "/", inside); err != nil {
		return err
	}
	// The repository may be on a separate file system. An overlay of / does not include other file
	// systems, so mount the repository separately.
	if _, err := os.Stat(filepath.Join(inside, repository, "go.mod")); errors.Is(err, fs.ErrNotExist) {
		if err := overlay(base, "repository", repository, filepath.Join(inside, repository)); err != nil {
			return err
		}
	}
	for _, m := range []struct{ path, kind, options string }{{"proc", "proc", ""}, {"tmp", "tmpfs", ""}, {"run", "tmpfs", "mode=755"}, {"dev", "tmpfs", "mode=755"}, {"dev/pts", "devpts", "newinstance,ptmxmode=0666"}} {
		path := filepath.Join(inside, m.path)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, path, m.kind, 0, m.options); err != nil {
			return fmt.Errorf("%s: %w", m.path, err)
		}
	}
	for _, device := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		path := filepath.Join(inside, "dev", device)
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+device, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", device, err)
		}
	}
	if err := unix.Mount("/sys", filepath.Join(inside, "sys"), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	for name, to := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink(to, filepath.Join(inside, "dev", name)); err != nil {
			return err
		}
	}
	if err := unix.Chroot(inside); err != nil {
		return err
	}
	if err := os.Chdir(here); err != nil {
		return err
	}
	os.Setenv("TMPDIR", "/tmp")
	hosts := "127.0.0.1 localhost hub.example new.example proxy.example s3.example\n::1 localhost\n"
	if err := os.WriteFile("/etc/hosts", []byte(hosts), 0o644); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// overlay mounts a copy of the folder `lower` at `target`. Writes to `target` go to `base` and do
// not change `lower`.
func overlay(base, name, lower, target string) error {
	upper, work := filepath.Join(base, name), filepath.Join(base, name+".work")
	for _, dir := range []string{upper, work, target} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return unix.Mount("overlay", target, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work))
}

// The method `types` runs one command exactly as the page has it, and returns its output. It
// answers prompts with r.answers. The commands "gangway serve", "gangway demo", "gangway-agent run"
// and "gangway-agent proxy" continue in the background; each ends an earlier run of the same
// command.
func (r *room) types(line string) string {
	r.t.Helper()
	r.t.Logf("$ %s", line)
	if dir, ok := strings.CutPrefix(line, "cd "); ok && !strings.ContainsAny(line, "&;|") {
		r.dir = strings.Replace(dir, "~", "/root", 1)
		return ""
	}
	if assignment, ok := strings.CutPrefix(line, "export "); ok {
		assignment, _, _ = strings.Cut(assignment, " ")
		r.env = append(r.env, assignment)
		return ""
	}
	if m := regexp.MustCompile(`(?:^| )(gangway serve|gangway demo|gangway-agent run|gangway-agent proxy)(?: |$)`).FindStringSubmatch(line); m != nil {
		r.background(m[1], line)
		return ""
	}
	out, err := r.run(line)
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", line, err, short(out))
	}
	return out
}

// run runs a command on a new pseudo terminal and returns its output.
func (r *room) run(line string) (string, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Minute) // a busy machine needs minutes to link the programs
	defer cancel()
	controller, terminal, err := pty.Open(0, 0)
	if err != nil {
		return "", err
	}
	defer controller.Close()
	c := exec.CommandContext(ctx, "sh", "-c", line)
	c.Dir, c.Env = r.dir, r.env
	c.Stdin, c.Stdout, c.Stderr = terminal, terminal, terminal
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		terminal.Close()
		return "", err
	}
	terminal.Close()
	var out strings.Builder
	answered := 0
	for buf := make([]byte, 4096); ; {
		n, err := controller.Read(buf)
		out.Write(buf[:n])
		for prompt, answer := range r.answers {
			if strings.HasSuffix(out.String()[answered:], prompt) {
				answered = out.Len()
				if _, err := controller.WriteString(answer + "\n"); err != nil {
					return out.String(), err
				}
			}
		}
		if err != nil { // the program has closed its side of the terminal
			break
		}
	}
	return strings.ReplaceAll(out.String(), "\r\n", "\n"), c.Wait()
}

// background starts a command that continues to run, and waits until it is ready.
func (r *room) background(name, line string) {
	r.t.Helper()
	r.end(name)
	// With exec, the program replaces the shell, so signals go to the program.
	words := strings.Replace(line, name, "exec "+name, 1)
	if strings.HasPrefix(line, "runuser ") {
		words = "exec " + line
	}
	// Programs print times in whole seconds. Wait for the next second, so that the times of two
	// programs differ.
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
	p := &program{cmd: exec.Command("sh", "-c", words), started: time.Now(), done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = r.dir, r.env, p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // runuser does not forward SIGINT, so `end` signals the group
	if err := p.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	r.mu.Lock()
	r.running[name] = p
	r.mu.Unlock()
	if name != "gangway serve" {
		return
	}
	listens := regexp.MustCompile(`--listen (\S+)`).FindAllStringSubmatch(line, -1)
	if listens == nil {
		listens = [][]string{{"", "127.0.0.1:12443"}} // the default address of gangway serve
	}
	for _, m := range listens {
		address := m[1]
		if strings.HasPrefix(address, ":") {
			address = "127.0.0.1" + address
		}
		r.await(name, "it listens at "+address, func() bool {
			conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", address, &tls.Config{InsecureSkipVerify: true})
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
}

// await waits until `happened` returns true for a background program. `what` names the expected
// event in the error message.
func (r *room) await(name, what string, happened func() bool) {
	r.t.Helper()
	r.mu.Lock()
	p := r.running[name]
	r.mu.Unlock()
	if p == nil {
		r.t.Fatalf("%s does not run", name)
	}
	for deadline := time.Now().Add(time.Minute); !happened(); time.Sleep(50 * time.Millisecond) {
		select {
		case <-p.done:
			r.t.Fatalf("%s ended before %s:\n%s", name, what, short(p.String()))
		default:
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not in a minute: %s\n%s", name, what, short(p.String()))
		}
	}
}

// The method `says` waits until a background program has printed this text.
func (r *room) says(name, text string) {
	r.t.Helper()
	r.mu.Lock()
	p := r.running[name]
	r.mu.Unlock()
	r.await(name, fmt.Sprintf("it prints %q", text), func() bool { return p != nil && strings.Contains(p.String(), text) })
}

// end sends SIGINT to a background program and waits until the program has ended.
func (r *room) end(name string) {
	r.mu.Lock()
	p := r.running[name]
	delete(r.running, name)
	r.mu.Unlock()
	if p == nil {
		return
	}
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGINT)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
		r.t.Errorf("%s does not end when it is interrupted", name)
	}
}

// The method `keeps` lets a background program continue to run while the page runs another one with
// the same name. It returns a function that ends the program.
func (r *room) keeps(name string) (end func()) {
	r.mu.Lock()
	p := r.running[name]
	delete(r.running, name)
	r.mu.Unlock()
	return func() {
		r.mu.Lock()
		r.running[name] = p
		r.mu.Unlock()
		r.end(name)
	}
}

func (r *room) endAll() {
	for _, name := range []string{"gangway-agent proxy", "gangway-agent run", "gangway demo", "gangway serve"} {
		r.end(name)
	}
}

// The method `writes` creates a file that a page expects to exist.
func (r *room) writes(path, text string, mode fs.FileMode) {
	r.t.Helper()
	if !filepath.IsAbs(path) {
		path = filepath.Join(r.dir, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		r.t.Fatal(err)
	}
}

// The function `short` shortens a long text to its first and last 1000 bytes.
func short(s string) string {
	if len(s) > 2000 {
		return s[:1000] + "\n...\n" + s[len(s)-1000:]
	}
	return s
}
