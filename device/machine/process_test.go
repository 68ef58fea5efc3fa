package machine

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asFirstProcess runs a test again in a separate process. The kernel makes that process the parent
// of its children's orphans, like the first process of a machine. asFirstProcess reports whether
// the current process is that separate process. A separate process is necessary, because Reap would
// also wait for the children of other tests.
func asFirstProcess(t *testing.T) bool {
	t.Helper()
	const env = "GANGWAY_FIRST_PROCESS"
	if os.Getenv(env) != "" {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), env+"=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	return false
}

func TestProgramsAreStartedAndReaped(t *testing.T) {
	t.Parallel()
	if !asFirstProcess(t) {
		return
	}
	p := NewProcesses()
	go p.Reap()
	for _, c := range []struct {
		script, out string
		code        int
		err         string
	}{
		{`echo "$0 in $PWD"; exit 3`, "sh in /\n", 3, ""},
		{`echo to both >&2; read x || echo no input`, "to both\nno input\n", 0, ""},
		{`echo $PATH $HOME`, "/bin /\n", 0, ""},
		{`kill -9 $$`, "", -1, "killed by signal 9"},
	} {
		var out string
		code, err := p.Run(func(r io.Reader) { b, _ := io.ReadAll(r); out = string(b) }, "/bin/sh", "-c", c.script, "sh")
		if code != c.code || out != c.out || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, code %d, %v", c.script, out, code, err)
		}
	}
	if _, err := p.Run(func(r io.Reader) { io.Copy(io.Discard, r) }, "/bin/not-there"); err == nil {
		t.Error("a program that is not there runs")
	}
	if err := p.Shell("/dev/not-there"); err == nil {
		t.Error("a shell runs on a terminal that is not there")
	}
	// Only Reap waits for an orphan. When Reap has waited for the orphan, the orphan must not be a
	// zombie any more.
	var out string
	if _, err := p.Run(func(r io.Reader) { b, _ := io.ReadAll(r); out = string(b) }, "/bin/sh", "-c", "sleep 0.2 >/dev/null 2>&1 & echo $!"); err != nil {
		t.Fatal(err)
	}
	var pid int
	fmt.Sscan(out, &pid)
	for end := time.Now().Add(20 * time.Second); unix.Kill(pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the orphan %d is not reaped", pid)
		}
	}
}
