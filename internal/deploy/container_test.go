package deploy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Environment variables that this test binary sets when it runs itself again. inNetwork is set in
// the process that has a network of its own. asContainer is set in the first process of a
// container, and names the file with its spec.
const (
	inNetwork   = "GANGWAY_DEPLOY_NETWORK"
	asContainer = "GANGWAY_DEPLOY_CONTAINER"
)

// spec describes a container: what a container engine would read from the compose file or from the
// Kubernetes manifests.
type spec struct {
	Name     string
	Work     string // an empty folder for the container's file system
	Root     string // the unpacked image
	ReadOnly bool   // the root file system is read-only
	Args     []string
	Env      []string
	Dir      string
	UID, GID int
	Groups   []int
	Mounts   []mount
	Files    map[string]string // files that the engine adds to the image, such as /etc/hosts
	Alone    bool              // no network, not even the network of the other containers
}

// mount is a mount in a container. Without a source, it is a new tmpfs.
type mount struct {
	Source, Target, Options string
	ReadOnly                bool
}

// container is a running container.
type container struct {
	spec
	cmd  *exec.Cmd
	done chan struct{}
	err  error // result of the first process; valid when `done` is closed
	out  *output
}

func TestMain(m *testing.M) {
	if path := os.Getenv(asContainer); path != "" {
		fmt.Fprintln(os.Stderr, becomeContainer(path))
		os.Exit(125) // as container engines do if they cannot start a container
	}
	os.Exit(m.Run())
}

// ownNetwork runs the calling test again in a new process, which has its own network with nothing
// but loopback, its own mounts and its own process ids. In the inner process, ownNetwork returns
// true. In the outer process, it fails or skips the test if the inner process did, and returns
// false. When the inner process ends, the kernel ends all containers.
func ownNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNetwork) != "" {
		// /proc must show the process ids of this namespace.
		if err := errors.Join(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""), unix.Mount("proc", "/proc", "proc", 0, ""), loopbackUp()); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("containers need root")
	}
	c := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "8m")
	c.Env = append(os.Environ(), inNetwork+"=yes")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	out, err := c.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("no namespaces can be made here")
	}
	if bytes.Contains(out, []byte("--- SKIP: "+t.Name())) {
		t.Skipf("%s", out)
	}
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}

// start starts a container. The container ends with the test.
func start(t *testing.T, s spec) *container {
	t.Helper()
	s.Work = t.TempDir()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "spec.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c := &container{spec: s, done: make(chan struct{}), out: &output{}}
	c.cmd = exec.Command(os.Args[0])
	c.cmd.Env = []string{asContainer + "=" + file}
	c.cmd.Stdout, c.cmd.Stderr = c.out, c.out
	flags := unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	if s.Alone {
		flags |= unix.CLONE_NEWNET
	}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: uintptr(flags), Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		<-c.done
		if t.Failed() {
			t.Logf("%s printed\n%s", s.Name, c.out.tail())
		}
	})
	return c
}

// exec runs a program in a running container, with the container's user, as "docker exec" does.
func (c *container) exec(args ...string) (string, error) {
	out, err := c.command(args...).CombinedOutput()
	return string(out), err
}

// printed does the same as the method `exec`, but returns only the standard output.
func (c *container) printed(args ...string) (string, error) {
	cmd := c.command(args...)
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errors.String())
	}
	return string(out), err
}

// command returns a command that runs a program in the container.
func (c *container) command(args ...string) *exec.Cmd {
	nsenter := []string{"--target", strconv.Itoa(c.cmd.Process.Pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd",
		"--setgid", strconv.Itoa(c.GID), "--setuid", strconv.Itoa(c.UID), "--"}
	cmd := exec.Command("nsenter", append(nsenter, args...)...)
	cmd.Env = c.Env
	return cmd
}

// stop sends a signal to the container's first process, and then does the same as the method
// `wait`.
func (c *container) stop(t *testing.T, signal os.Signal, grace time.Duration) int {
	t.Helper()
	if err := c.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	return c.wait(t, grace)
}

// wait waits at most `grace` until the container's first process has ended, and returns its exit
// code.
func (c *container) wait(t *testing.T, grace time.Duration) int {
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(grace):
		t.Errorf("%s does not end %s after the signal to stop", c.Name, grace)
		c.cmd.Process.Kill()
		<-c.done
	}
	return c.cmd.ProcessState.ExitCode()
}

// await waits until `check` returns nil, and fails the test if the container ends first.
func (c *container) await(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(3 * time.Minute) // a busy machine is slow
	for err := check(); err != nil; err = check() {
		select {
		case <-c.done:
			t.Fatalf("%s ended (%v) before it was %s: %v\n%s", c.Name, c.err, what, err, c.out.tail())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not %s after three minutes: %v\n%s", c.Name, what, err, c.out.tail())
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// checkConfined checks that the container's first process has no capability and cannot get one,
// that it does not run as root, and that its root file system is read-only.
func (c *container) checkConfined(t *testing.T) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", c.cmd.Process.Pid)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d", c.UID)} {
		if !strings.Contains(string(status), "\n"+line+"\n") {
			t.Errorf("%s: its status has no line %q:\n%s", c.Name, line, status)
		}
	}
	mounts, err := os.ReadFile(proc + "mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[4] == "/" && !strings.HasPrefix(f[5], "ro,") {
			t.Errorf("%s: its root file system is not read-only: %s", c.Name, line)
		}
	}
}

// becomeContainer makes the file system of the container, gives up all privileges, and becomes the
// container's program. It returns only an error.
func becomeContainer(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var s spec
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	runtime.LockOSThread() // capabilities belong to a thread
	if err := s.mountAll(); err != nil {
		return err
	}
	if s.Alone {
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	for c := uintptr(0); unix.Prctl(unix.PR_CAPBSET_READ, c, 0, 0, 0) == nil; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return err
		}
	}
	if err := errors.Join(syscall.Setgroups(s.Groups), syscall.Setresgid(s.GID, s.GID, s.GID), syscall.Setresuid(s.UID, s.UID, s.UID)); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := os.Chdir(s.Dir); err != nil {
		return err
	}
	return fmt.Errorf("%q: %w", s.Args[0], unix.Exec(s.Args[0], s.Args, s.Env))
}

func (s *spec) mountAll() error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Mount("container", s.Work, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	root := filepath.Join(s.Work, "root")
	upper, work := filepath.Join(s.Work, "upper"), filepath.Join(s.Work, "work")
	for _, dir := range []string{root, upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", s.Root, upper, work)); err != nil {
		return err
	}
	for path, content := range s.Files {
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			return err
		}
	}
	all := append([]mount{{"proc", "/proc", "", false}, {"", "/dev", "mode=755", false}, {"", "/dev/shm", "mode=1777", false}}, s.Mounts...)
	for _, m := range all {
		if err := m.in(root); err != nil {
			return fmt.Errorf("%s: %w", m.Target, err)
		}
	}
	for _, device := range []string{"null", "zero", "full", "random", "urandom"} {
		if err := (mount{"/dev/" + device, "/dev/" + device, "", false}).in(root); err != nil {
			return fmt.Errorf("%s: %w", device, err)
		}
	}
	if s.ReadOnly {
		// The flag MS_RDONLY applies only to the mount of the root folder, and not to the mounts
		// below this folder.
		if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return err
		}
	}
	return errors.Join(unix.Chroot(root), os.Chdir("/"))
}

// The method `in` mounts `m` in a container whose root folder is `root`. A container engine makes
// the mount point if the image does not have it.
func (m mount) in(root string) error {
	target := filepath.Join(root, m.Target)
	info, err := os.Stat(m.Source)
	switch {
	case m.Source == "proc" || m.Source == "" || err == nil && info.IsDir():
		err = os.MkdirAll(target, 0o755)
	case err == nil:
		if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
			var f *os.File
			if f, err = os.OpenFile(target, os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
				err = f.Close()
			}
		}
	}
	if err != nil {
		return err
	}
	const careful = unix.MS_NOSUID | unix.MS_NODEV
	switch m.Source {
	case "proc":
		return unix.Mount("proc", target, "proc", careful|unix.MS_NOEXEC, "")
	case "":
		return unix.Mount("tmpfs", target, "tmpfs", careful&^unix.MS_NODEV, m.Options)
	}
	if err := unix.Mount(m.Source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil || !m.ReadOnly {
		return err
	}
	return unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|careful, "")
}
