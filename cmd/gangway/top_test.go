package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/fleet"
	"gangway/internal/locked"
	"gangway/internal/pty"

	"github.com/gdamore/tcell/v2"
	"golang.org/x/sys/unix"
)

// The function `drawn` returns the lines that top draws on a screen of the given size.
func drawn(t *testing.T, m *top, width, height int) []string {
	t.Helper()
	s := tcell.NewSimulationScreen("UTF-8")
	if err := s.Init(); err != nil {
		t.Fatal(err)
	}
	defer s.Fini()
	s.SetSize(width, height)
	m.draw(s)
	cells, w, h := s.GetContents()
	var lines []string
	for y := range h {
		var b strings.Builder
		for x := range w {
			b.WriteString(string(cells[y*w+x].Runes))
		}
		lines = append(lines, strings.TrimRight(b.String(), " "))
	}
	return lines
}

func fullTop() *top {
	m := &top{hub: "https://hub.example:12443", nick: "ada"}
	m.data.at = time.Now()
	m.data.fleet = api.FleetSummary{Total: 1204, Waiting: 2, States: map[string]int{store.StateActive: 1180, store.StateQuiet: 12, store.StateFailed: 3, store.StateUpdating: 8}}
	for i := range 30 {
		m.data.fleet.Arrivals = append(m.data.fleet.Arrivals, api.Arrival{N: i % 7})
	}
	for i := range 40 {
		m.data.needs = append(m.data.needs, topRow{fmt.Sprintf("need%02d", i), "failed", badStyle, fmt.Sprintf("need-%02d", i), "NUC\x1b[2J\u202e", time.Now()})
		m.data.newest = append(m.data.newest, topRow{fmt.Sprintf("new%02d", i), "active", goodStyle, fmt.Sprintf("new-%02d", i), "model", time.Now()})
	}
	return m
}

func press(m *top, keys string) (last act) {
	for _, r := range keys {
		ev := tcell.NewEventKey(tcell.KeyRune, r, 0)
		switch r {
		case '\r':
			ev = tcell.NewEventKey(tcell.KeyEnter, 0, 0)
		case '\x1b':
			ev = tcell.NewEventKey(tcell.KeyEscape, 0, 0)
		}
		last = m.key(ev, 24)
	}
	return last
}

// At every size of the terminal, the chosen row is visible. Text from a device cannot control the
// terminal.
func TestTopFitsEverySize(t *testing.T) {
	t.Parallel()
	for _, size := range [][2]int{{80, 24}, {40, 12}, {20, 6}, {132, 50}, {10, 3}} {
		m := fullTop()
		for step := range 90 {
			lines := drawn(t, m, size[0], size[1])
			all := strings.Join(lines, "\n")
			if bad := obeyed(all); bad != "" {
				t.Fatalf("%v: prints %q", size, bad)
			}
			if size[0] >= 40 && strings.Count(all, "\n> ") != 1 {
				t.Fatalf("%v after %d steps: the choice is not on the screen:\n%s", size, step, all)
			}
			press(m, "j")
		}
		if m.chosen != "new39" {
			t.Errorf("%v: at the end, %q is chosen", size, m.chosen)
		}
	}
	lines := drawn(t, fullTop(), 80, 24)
	for _, want := range []string{"hub.example:12443", "1,204 devices", "2 waiting for you", "12 quiet", "3 failed", "Arrivals: 1 today", "▂", "Needs a person (17)", "Newest devices", "new-00", "need-00", "j k move"} {
		if !strings.Contains(strings.Join(lines, "\n"), want) {
			t.Errorf("there is no %q at 80x24:\n%s", want, strings.Join(lines, "\n"))
		}
	}
}

// When the list changes, the same device remains selected.
func TestTopKeepsTheChoice(t *testing.T) {
	t.Parallel()
	m := fullTop()
	press(m, "jjj")
	m.data.needs = append([]topRow{{id: "fresh", name: "fresh"}}, m.data.needs...)
	drawn(t, m, 80, 24)
	if m.chosen != "need03" || m.row != 4 {
		t.Errorf("%q at %d is chosen", m.chosen, m.row)
	}
	m.data.needs, m.data.newest = nil, m.data.newest[:1]
	drawn(t, m, 80, 24)
	if m.chosen != "new00" {
		t.Errorf("when the row is gone, %q is chosen", m.chosen)
	}
	m.data.newest = nil
	if lines := strings.Join(drawn(t, m, 80, 24), "\n"); m.chosenID() != "" || !strings.Contains(lines, "gangway token create") {
		t.Errorf("an empty fleet: %s", lines)
	}
	if press(m, "jkgG\r") != show {
		t.Error("Enter does nothing")
	}
	m.failed = errors.New("the hub cannot be reached\x1b[2J")
	if lines := strings.Join(drawn(t, m, 80, 24), "\n"); !strings.Contains(lines, "cannot be reached") || obeyed(lines) != "" {
		t.Errorf("the failure is not shown: %s", lines)
	}
}

func TestTopKeys(t *testing.T) {
	m := fullTop()
	for keys, want := range map[string]act{"q": quit, "\x1b": quit, "r": again, "o": browse, "\r": show, "j": nothing, "x": nothing} {
		if got := press(m, keys); got != want {
			t.Errorf("%q does %v, want %v", keys, got, want)
		}
	}
	for _, name := range []string{"BROWSER", "DISPLAY", "WAYLAND_DISPLAY"} {
		t.Setenv(name, "")
	}
	press(m, "g")
	m.pages = "https://fleet.example"
	drawn(t, m, 80, 24)
	if m.browse(); m.said != "https://fleet.example/ui/devices/need00" {
		t.Errorf("without a browser, o prints %q", m.said)
	}
	m.detail = strings.Split(strings.Repeat("a long line of evidence that is wider than a small screen\n", 60), "\n")
	press(m, "jjG")
	if lines := drawn(t, m, 40, 12); !strings.Contains(lines[len(lines)-1], "q back") {
		t.Errorf("%q", lines)
	}
	if press(m, "q") != nothing || m.detail != nil {
		t.Error("q does not go back to the lists")
	}
}

// terminalProgram starts gangway with the arguments `arg` on a pseudo terminal.
func terminalProgram(t *testing.T, arg ...string) (controller, terminal *os.File, c *exec.Cmd, screen *locked.Buffer) {
	t.Helper()
	controller, terminal = pty.New(t, 80, 24)
	screen = new(locked.Buffer)
	go io.Copy(screen, controller) // the copy ends when the terminal is closed
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The argument "gangway" makes the test binary run as the command gangway: see TestMain.
	c = &exec.Cmd{Path: self, Args: append([]string{"gangway"}, arg...), Stdin: terminal, Stdout: terminal, Stderr: terminal,
		Env: append(os.Environ(), "TERM=xterm-256color"), SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true}}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill() })
	return controller, terminal, c, screen
}

func resize(t *testing.T, f *os.File, width, height uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width}); err != nil {
		t.Fatal(err)
	}
}

// 'gangway top' works on a real terminal. It restores the terminal, however the command ends.
func TestTopRestoresTheTerminal(t *testing.T) {
	h, run, send := connected(t, nil)
	d := only(t, h)
	send("POST", "/trails/", `{"#spec":"pantavisor-service-system@1"}`)
	if _, _, err := run("", "device", "rename", d.Nick, "flagship"); err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]func(controller *os.File, p *os.Process) error{
		"q":      func(c *os.File, _ *os.Process) error { _, err := c.WriteString("q"); return err },
		"Ctrl-C": func(c *os.File, _ *os.Process) error { _, err := c.WriteString("\x03"); return err },
		"INT":    func(_ *os.File, p *os.Process) error { return p.Signal(os.Interrupt) },
		"TERM":   func(_ *os.File, p *os.Process) error { return p.Signal(syscall.SIGTERM) },
		"HUP":    func(_ *os.File, p *os.Process) error { return p.Signal(syscall.SIGHUP) },
		"QUIT":   func(_ *os.File, p *os.Process) error { return p.Signal(syscall.SIGQUIT) },
	} {
		controller, terminal, c, screen := terminalProgram(t, "top")
		before, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		until(t, "the list", func() bool { return strings.Contains(screen.String(), "flagship") })
		if name == "q" {
			resize(t, controller, 100, 30)
			if err := c.Process.Signal(syscall.SIGWINCH); err != nil {
				t.Fatal(err)
			}
			if _, err := controller.WriteString("jk\r"); err != nil {
				t.Fatal(err)
			}
			until(t, "the evidence", func() bool { return strings.Contains(screen.String(), "ek-chain") })
			if _, err := controller.WriteString("q"); err != nil {
				t.Fatal(err)
			}
			seen := len(screen.String())
			until(t, "the list again", func() bool { return strings.Contains(screen.String()[seen:], "Newest") })
		}
		if err := end(controller, c.Process); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); err != nil {
			t.Errorf("%s: top ends with %v", name, err)
		}
		after, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		if *before != *after {
			t.Errorf("%s: the terminal's modes are %+v, were %+v", name, after, before)
		}
		until(t, "the former screen after "+name, func() bool {
			s := screen.String()
			return strings.LastIndex(s, "\x1b[?1049l") > strings.LastIndex(s, "\x1b[?1049h") && strings.LastIndex(s, "?25h") > strings.LastIndex(s, "?25l")
		})
	}
}

// --watch draws on a terminal without scrolling, and restores the earlier screen at the end.
func TestWatchOnATerminal(t *testing.T) {
	h, run := onboarded(t, nil)
	d := only(t, h)
	_, _, c, screen := terminalProgram(t, "device", "ls", "--watch", "--columns", "nick,state")
	until(t, "the list", func() bool { return strings.Contains(screen.String(), d.Nick) })
	if _, _, err := run("", "device", "rename", d.Nick, "renamed"); err != nil {
		t.Fatal(err)
	}
	until(t, "the change", func() bool { return strings.Contains(screen.String(), "renamed") })
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("ends with %v", err)
	}
	until(t, "the former screen", func() bool { return strings.HasSuffix(screen.String(), leaveScreen) })
	if s := screen.String(); !strings.HasPrefix(s, enterScreen) || strings.Contains(s, "\x1b[3J") || strings.Count(s, "\x1b[2J") != 1 {
		t.Errorf("%q", s)
	}
}

// Without a terminal, --watch prints the list once, and then only the lines that change.
func TestWatchPrintsOnlyChanges(t *testing.T) {
	h, _, send := connected(t, nil)
	d := only(t, h)
	send("POST", "/trails/", `{"#spec":"pantavisor-service-system@1"}`)
	var out, notes locked.Buffer
	a := &app{stdout: &out, stderr: &notes}
	round := make(chan struct{})
	list, done := d.Nick, make(chan error, 1)
	ctx := t.Context()
	go func() {
		n := 0
		done <- a.watchChanges(ctx, time.Millisecond, func() error {
			<-round
			if n++; n == 4 {
				return fmt.Errorf("no more: %w", &hubError{api.Problem{Code: "over"}})
			}
			fmt.Fprintf(a.stdout, "NICK  STATE\n%s  %s\nother  active\n", list, []string{"active", "active", "updating"}[n-1])
			fmt.Fprintln(a.stderr, "a note")
			return nil
		})
	}()
	for range 4 {
		round <- struct{}{}
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "no more") {
		t.Errorf("the hub refuses: %v", err)
	}
	want := fmt.Sprintf("NICK  STATE\n%s  active\nother  active\n%[1]s  updating\n", d.Nick)
	if out.String() != want || notes.String() != "a note\n" {
		t.Errorf("got %q and %q, want %q", out.String(), notes.String(), want)
	}
	// If a line disappears, --watch prints its name. If only a column becomes wider, --watch prints
	// nothing.
	known, err := a.printChangedLines("NICK  A\nx  1\ny  2\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	before := out.String()
	if _, err := a.printChangedLines("NICK     A\ny        2\n", known); err != nil || out.String() != before || !strings.Contains(notes.String(), "no longer in the list: x 1") {
		t.Errorf("%q %q %v", out.String()[len(before):], notes.String(), err)
	}
}

// If a line differs only in columns that change each time a device contacts the hub, --watch does
// not print the line.
func TestWatchLeavesOutTimes(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	a := &app{stdout: &b, stderr: &b, steady: true}
	if err := printList(a, []api.FleetDevice{{Nick: "x", States: []string{"active"}}}, deviceColumns, ""); err != nil || strings.Contains(b.String(), "SEEN") {
		t.Errorf("%v %s", err, b.String())
	}
}

// 'gangway open' starts the browser that the variable BROWSER names. The browser gets the address
// of the device's page, and no shell is involved.
func TestOpenStartsABrowser(t *testing.T) {
	h, run := onboarded(t, func(d *fleet.Device) { d.Serial = "SN;reboot" })
	d := only(t, h)
	page := h.URL + "/ui/devices/" + d.ID
	for _, name := range []string{"BROWSER", "DISPLAY", "WAYLAND_DISPLAY"} {
		t.Setenv(name, "")
	}
	if out, _, err := run("", "open", d.Nick); err != nil || out != page+"\n" {
		t.Errorf("without a browser: %v %q", err, out)
	}
	if out, _, err := run("", "open", "--output", "json"); err != nil || !strings.Contains(out, h.URL+"/ui/overview") {
		t.Errorf("the overview: %v %q", err, out)
	}
	seen := filepath.Join(t.TempDir(), "seen")
	browser := filepath.Join(t.TempDir(), "browser")
	if err := os.WriteFile(browser, fmt.Appendf(nil, "#!/bin/sh\nprintf '%%s|' \"$@\" > %s.part && mv %[1]s.part %[1]s\n", seen), 0o700); err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{browser: page + "|", "/nowhere/firefox:" + browser + " --new-tab %s": "--new-tab|" + page + "|"} {
		t.Setenv("BROWSER", value)
		os.Remove(seen)
		out, notes, err := run("", "open", "SN;reboot")
		if err != nil || out != "" || !strings.Contains(notes, page) {
			t.Errorf("%s: %v %q %q", value, err, out, notes)
		}
		until(t, "the browser", func() bool { _, err := os.Stat(seen); return err == nil })
		if got, err := os.ReadFile(seen); err != nil || string(got) != want {
			t.Errorf("the browser got %q, %v; want %q", got, err, want)
		}
	}
	if out, _, err := run("", "open", d.ID, "--print"); err != nil || out != page+"\n" {
		t.Errorf("--print: %v %q", err, out)
	}
}

// 'gangway top' sends the same number of requests for a fleet of any size. It stops if the hub
// refuses a request.
func TestTopAsksForLittle(t *testing.T) {
	asked := 0
	signedInTo(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		switch r.URL.Path {
		case "/fleet/summary":
			io.WriteString(w, `{"total":1000000,"waiting":0,"states":{"quiet":500000,"failed":100000},"arrivals":[]}`)
		case "/devices/waiting":
			io.WriteString(w, `[]`)
		default:
			if r.URL.Query().Get("limit") != fmt.Sprint(topRows) {
				t.Errorf("asked for %s", r.URL)
			}
			io.WriteString(w, `{"devices":[{"id":"1","nick":"x"}],"next":"more"}`)
		}
	})
	if d := loadTop(t.Context()); d.err != nil || len(d.needs) != 2 || len(d.newest) != 1 || asked != 5 {
		t.Errorf("%+v after %d requests", d, asked)
	}
}
