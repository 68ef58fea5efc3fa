package qemu_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gangway/image/stick"
	"gangway/internal/locked"
	"gangway/internal/qemu"
)

// A person can boot an image with `gangway image try` until the emulated machine is onboarded.
// However the command ends, it leaves no process and no temporary file.
func TestImageTry(t *testing.T) {
	long(t)
	t.Parallel()
	s := newSite(t, stick.Config{})
	dir, tmp := t.TempDir(), filepath.Join(scratch, "try")
	for _, d := range []string{tmp, filepath.Join(dir, "gangway")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// Make the hub trust the maker of this run's TPMs.
	if err := os.Symlink(makers, filepath.Join(dir, "gangway", "tpm-maker")); err != nil {
		t.Fatal(err)
	}
	gangway := filepath.Join(dir, "gangway-command")
	if out, err := exec.Command("go", "build", "-o", gangway, "gangway/cmd/gangway").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	start := func() (*exec.Cmd, io.Writer, *locked.Buffer) {
		t.Helper()
		cmd, out := exec.Command(gangway, "image", "try", s.stick, "--accel", "tcg"), &locked.Buffer{}
		cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+dir, "TMPDIR="+tmp)
		cmd.Stdout, cmd.Stderr = out, out
		keys, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		return cmd, keys, out
	}
	waitWords := func(out *locked.Buffer, words string, limit time.Duration) {
		t.Helper()
		for end := time.Now().Add(limit); !strings.Contains(out.String(), words); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				text := out.String()
				t.Fatalf("%q was not printed within %s; the end of the output:\n%s", words, limit, text[max(0, len(text)-2000):])
			}
		}
	}

	cmd, _, out := start()
	waitWords(out, "BdsDxe", time.Minute)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it was stopped, but its exit code is 0")
	}
	nothingLeft(t, tmp)

	cmd, keys, out := start()
	waitWords(out, "this boot is good", bootTime)
	if _, err := io.WriteString(keys, "\x01x"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-A X: %v", err)
	}
	for _, words := range []string{"gangway trust import", "10.0.2.2", "Ctrl-A X", "The machine is off."} {
		if !strings.Contains(out.String(), words) {
			t.Errorf("%q was not printed", words)
		}
	}
	if n := len(s.hub.Devices(t, s.hub.Owner)); n != 1 {
		t.Errorf("the hub has %d devices, want 1", n)
	}
	nothingLeft(t, tmp)
}

// nothingLeft checks that a folder for temporary files is empty, and that no process uses a file in
// it.
func nothingLeft(t *testing.T, tmp string) {
	t.Helper()
	if files, err := os.ReadDir(tmp); err != nil || len(files) > 0 {
		t.Errorf("temporary files are left: %v, %v", files, err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range lines {
		b, err := os.ReadFile(file)
		if err == nil && bytes.Contains(b, []byte(tmp)) {
			t.Errorf("a process is left: %s", bytes.ReplaceAll(b, []byte{0}, []byte{' '}))
		}
	}
}

// The error about missing programs names each missing program and the program's Debian package.
func TestMissingProgramsAreNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, p := range []*qemu.Person{{}, {Window: true}} {
		if m := p.Missing(); !strings.Contains(m, "apt-get install qemu-system-x86") {
			t.Errorf("window %v: %q", p.Window, m)
		}
	}
}
