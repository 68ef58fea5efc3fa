package main

import (
	"context"
	"os"
	"strings"
	"testing"

	"gangway/internal/locked"
	"gangway/internal/swtpm"
)

// Each command that the demo prints works without changes, and the person's current context stays
// the same.
func TestCommandsOfTheDemoWork(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a demo with three devices")
	}
	if missing := swtpm.Missing(); missing != "" {
		t.Skip(missing)
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Chdir(t.TempDir())
	for _, name := range []string{"BROWSER", "DISPLAY", "WAYLAND_DISPLAY"} {
		t.Setenv(name, "")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var out, notes locked.Buffer
	done := make(chan int, 1)
	go func() {
		done <- (&app{stdin: os.Stdin, stdout: &out, stderr: &notes}).run(ctx, []string{"demo", "--devices", "1"})
	}()
	until(t, "the end of the demo's output", func() bool { return strings.Contains(out.String(), "Ctrl-C ends") || len(done) > 0 })
	commands := 0
	for line := range strings.Lines(out.String()) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != program() {
			continue
		}
		commands++
		code, _, stderr := typed(t, words[1:]...)
		if code != 0 {
			t.Errorf("%q ends with %d: %s", line, code, stderr)
		}
	}
	if commands < 4 {
		t.Errorf("the demo prints %d commands:\n%s%s", commands, out.String(), notes.String())
	}
	if current, err := currentContext(); err != nil || current != defaultContext {
		t.Errorf("the demo changed the current context to %q, %v", current, err)
	}
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("the demo ended with %d: %s", code, notes.String())
	}
	if names, err := contextNames(); err != nil || len(names) != 0 {
		t.Errorf("after the demo, there are the contexts %q, %v", names, err)
	}
}

// A new demo replaces the context of a demo that was killed, but not the context of a running demo.
func TestDemoReplacesOnlyLeftovers(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for name, pid := range map[string]int{"gone": 1 << 30, "running": os.Getpid(), "mine": 0} {
		if err := (&signIn{context: name, Demo: pid}).save(); err != nil {
			t.Fatal(err)
		}
		if got := isLeftover(name); got != (name == "gone") {
			t.Errorf("the context %s is a leftover: %t", name, got)
		}
	}
}
