package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/term"

	"gangway/internal/locked"
	"gangway/internal/pty"
)

// runMain is the name of an environment variable. If the variable is set, the test binary runs as
// gangway-agent.
const runMain = "GANGWAY_AGENT_TEST_RUNS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(runMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// The console runs on the kinds of terminals that real machines have. One of them, like a terminal
// on a serial port, does not know its size. When the console ends, it must restore the terminal's
// settings.
func TestConsoleOnATerminal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind          string
		columns, rows uint16
	}{{"vt220", 0, 0}, {"vt100", 80, 24}, {"linux", 80, 25}, {"xterm-256color", 132, 43}} {
		t.Run(c.kind, func(t *testing.T) {
			if testing.Short() && c.kind != "linux" {
				t.Skip("runs only the terminal of the machine's own screen")
			}
			t.Parallel()
			controller, terminal := pty.New(t, c.columns, c.rows)
			before, err := term.GetState(int(terminal.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			var out locked.Buffer
			go io.Copy(&out, controller) // the copy ends when the terminal is closed
			dir := t.TempDir()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "console", "--state", dir, "--tpm", "unix:"+filepath.Join(dir, "none"), "--log-file", filepath.Join(dir, "log"))
			cmd.Env = []string{runMain + "=1", "TERM=" + c.kind, "PATH=" + os.Getenv("PATH")}
			cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			see := func(text string) {
				t.Helper()
				for end := time.Now().Add(30 * time.Second); !strings.Contains(out.String(), text); time.Sleep(10 * time.Millisecond) {
					if time.Now().After(end) {
						cmd.Process.Kill()
						t.Fatalf("no %q in %.2000q", text, out.String())
					}
				}
			}
			see("onboarded")
			controller.WriteString("9")
			see("restart")
			time.Sleep(2500 * time.Millisecond) // wait until the console has read the facts again
			quiet := len(out.String())
			time.Sleep(4 * time.Second)
			if sent := len(out.String()) - quiet; sent > 400 {
				t.Errorf("in 4 s without news, the console sent %d bytes", sent)
			}
			controller.WriteString("q")
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v: %q", err, out.String())
			}
			after, err := term.GetState(int(terminal.Fd()))
			if err != nil || fmt.Sprint(*after) != fmt.Sprint(*before) {
				t.Errorf("the terminal's settings changed: %v to %v, %v", before, after, err)
			}
		})
	}
}

// Without a terminal, 'gangway-agent console' returns an error instead of waiting.
func TestConsoleNeedsATerminal(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"", "dumb", "nonsense"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "console", "--state", t.TempDir())
		cmd.Env = []string{runMain + "=1", "TERM=" + kind}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "terminal") {
			t.Errorf("TERM=%q: %v, %q", kind, err, out)
		}
	}
}
