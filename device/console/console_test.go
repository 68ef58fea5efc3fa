package console

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/device/console/access"
	"gangway/device/doctor"

	"github.com/gdamore/tcell/v2"
)

// fakeMachine records the calls of the console.
type fakeMachine struct {
	mu       sync.Mutex
	did      []string // guarded by mu
	settings string
	fails    error
}

func (m *fakeMachine) do(what string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.did = append(m.did, what)
	return m.fails
}

func (m *fakeMachine) done() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.did)
}

func (m *fakeMachine) Restart(context.Context) error { return m.do("restart") }
func (m *fakeMachine) Wipe(context.Context) error    { return m.do("wipe") }
func (m *fakeMachine) SetPIN(_ context.Context, c access.PINChange) error {
	return m.do("PIN " + c.Current + " " + c.PIN)
}
func (m *fakeMachine) TryNetwork(_ context.Context, text string) error {
	return m.do("try " + text)
}
func (m *fakeMachine) NetworkReport(context.Context) (string, error) {
	return "in force: automatic\n", nil
}
func (m *fakeMachine) NetworkSettings(context.Context) (string, error) { return m.settings, nil }

// bench is a console that runs on a simulated terminal.
type bench struct {
	t       *testing.T
	screen  *terminal
	machine *fakeMachine
	dir     string // the agent's state folder
	ended   chan error
}

const ownedState = `{"phase":"active","device-id":"d1","nick":"otter-7","owner-nick":"ada","hub":"https://hub.example:12443"}`

// newBench starts a console on a simulated terminal of the given size. The function `change` may
// change the console's configuration.
func newBench(t *testing.T, width, height int, state string, change func(*Config)) *bench {
	t.Helper()
	b := &bench{t: t, screen: &terminal{SimulationScreen: tcell.NewSimulationScreen("UTF-8")}, machine: &fakeMachine{}, dir: t.TempDir(), ended: make(chan error, 1)}
	b.write("state.json", state)
	b.write("log", "first line\nlast line\n")
	cfg := Config{
		Screen: b.screen, Machine: b.machine, Limit: access.Full, LogFile: filepath.Join(b.dir, "log"), Version: "1.2.3",
		Doctor: doctor.Config{TPM: "unix:" + filepath.Join(b.dir, "no-tpm"), StateDir: b.dir, EventLog: filepath.Join(b.dir, "no-log")},
	}
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() {
		cancel()
		<-b.ended
	})
	go func() {
		err := Run(ctx, cfg)
		b.ended <- err
		close(b.ended)
	}()
	if cfg.Limit == access.Off {
		return b
	}
	b.see("Gangway  ")
	b.screen.SetSize(width, height)
	return b
}

func (b *bench) write(name, content string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(content), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// terminal is a simulated terminal whose text can be read by other goroutines.
type terminal struct {
	tcell.SimulationScreen
	mu   sync.Mutex
	last string // the lines of the last call of Show; guarded by mu
}

// Show draws the screen and stores its text.
func (s *terminal) Show() {
	s.SimulationScreen.Show()
	cells, w, h := s.GetContents()
	var out strings.Builder
	for y := range h {
		var line strings.Builder
		for x := range w {
			for _, r := range cells[y*w+x].Runes {
				line.WriteRune(r)
			}
		}
		out.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = out.String()
}

func (b *bench) text() string {
	b.screen.mu.Lock()
	defer b.screen.mu.Unlock()
	return b.screen.last
}

// see waits until the screen shows the given text.
func (b *bench) see(text string) {
	b.t.Helper()
	b.until("the screen has "+text, func() bool { return strings.Contains(b.text(), text) })
}

func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("not so: %s. The screen:\n%s", what, b.text())
		}
	}
}

func (b *bench) press(keys ...any) {
	for _, k := range keys {
		switch k := k.(type) {
		case tcell.Key:
			b.screen.InjectKey(k, 0, tcell.ModNone)
		case string:
			for _, r := range k {
				b.screen.InjectKey(tcell.KeyRune, r, tcell.ModNone)
			}
		}
	}
}

func (b *bench) left() error {
	b.t.Helper()
	select {
	case err := <-b.ended:
		return err
	case <-time.After(20 * time.Second):
		b.t.Fatal("the console does not end")
		return nil
	}
}

func TestPagesShowTheMachine(t *testing.T) {
	t.Parallel()
	b := newBench(t, 80, 24, ownedState, nil)
	for _, c := range []struct{ key, text string }{
		{"1", "This machine is onboarded."}, {"2", "in force: automatic"}, {"3", "The TPM cannot be used."}, {"4", "https://hub.example:12443"},
		{"5", "The key is in the TPM and cannot be read."}, {"6", "Program    1.2.3"}, {"7", "last line"}, {"8", "There is no claim code."},
		{"9", "r   restart this machine"}, {"?", "leave the console"},
	} {
		b.press(c.key)
		b.see(c.text)
	}
	b.press(tcell.KeyEscape, "q")
	if err := b.left(); err != nil {
		t.Error(err)
	}
}

// Every page is readable on the smallest terminal: no line is longer than the terminal, and a
// person can scroll to the last line.
func TestPagesFitASmallTerminal(t *testing.T) {
	t.Parallel()
	b := newBench(t, 40, 12, ownedState, nil)
	b.see("< 1/9 Status >")
	for n, p := range pages {
		b.press(fmt.Sprint(n + 1))
		b.see(fmt.Sprintf("< %d/9 %s >", n+1, p.name))
	}
	b.press(tcell.KeyEnd)
	b.see("The owner limits this console")
}

func TestClaimCodeIsShownAsACodeAndAsText(t *testing.T) {
	t.Parallel()
	b := newBench(t, 80, 30, `{"phase":"waiting","claim":"https://hub.example/claim/Ab12","claim-words":"KLMN"}`, nil)
	b.see("Page 8 shows its claim code.")
	b.press("8")
	b.see("Compare: KLMN")
	b.see("█")
	b.see("https://hub.example/claim/Ab12")
}

// Attack: a nick from the hub, or a line of the log, contains escape sequences and characters that
// change the writing direction. The console must not send them to the terminal.
func TestEscapesInForeignTextAreNotDrawn(t *testing.T) {
	t.Parallel()
	b := newBench(t, 80, 24, `{"phase":"active","nick":"ot\u001b[2Jter\u202e\u0007","hub":"https://h"}`, func(c *Config) {
		if err := os.WriteFile(c.LogFile, []byte("bad \x1b]0;title\x07 \u202eline\r\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	b.see("ot[2Jter")
	b.press("7")
	b.see("bad ")
	b.until("no control character is drawn", func() bool {
		return !strings.ContainsFunc(b.text(), func(r rune) bool { return r < ' ' && r != '\n' || r == 0x202e || r == 0x7f })
	})
}

// The console restarts the machine only if the person types yes. After another word, or Esc,
// nothing happens.
func TestRestartAsksFirst(t *testing.T) {
	t.Parallel()
	b := newBench(t, 80, 24, ownedState, nil)
	b.press("r") // this key works only on the page Machine
	b.press("9r")
	b.see("To restart the machine, type yes and press Enter.")
	b.press("no", tcell.KeyEnter)
	b.see("That is not yes: nothing was done.")
	b.press(tcell.KeyEscape)
	b.see("Nothing was done.")
	if did := b.machine.done(); len(did) > 0 {
		t.Fatalf("the console did %q", did)
	}
	b.press("r", "yes", tcell.KeyEnter)
	b.see("The machine restarts.")
	if did := b.machine.done(); !slices.Equal(did, []string{"restart"}) {
		t.Errorf("the console did %q", did)
	}
}

// A person at the serial port must not be able to wipe a machine that has an owner.
func TestOwnedMachineIsNotWiped(t *testing.T) {
	t.Parallel()
	b := newBench(t, 80, 24, ownedState, nil)
	b.press("9w")
	b.see("Not possible: not while the machine has an owner")
	b.until("the whole reason is shown", func() bool { return strings.Count(b.text(), "gangway.console=full") == 2 }) // on the page, and in the message
	if did := b.machine.done(); len(did) > 0 {
		t.Errorf("the console did %q", did)
	}
}

// If the owner allows the wipe, the person at the console must type the device's nick first, so
// that nobody wipes the wrong machine by mistake.
func TestWipeAsksForTheNick(t *testing.T) {
	t.Parallel()
	b := newBench(t, 80, 24, ownedState, nil)
	b.write("user-meta.json", `{"gangway.console":"full"}`)
	b.press("9w")
	b.see("To wipe the machine, type otter-7 and press Enter.")
	b.press("yes", tcell.KeyEnter)
	b.see("That is not otter-7: nothing was done.")
	b.press("otter-7", tcell.KeyEnter)
	b.see("The machine restarts, and wipes itself.")
	if did := b.machine.done(); !slices.Equal(did, []string{"wipe"}) {
		t.Errorf("the console did %q", did)
	}
}

// If the owner forbids an action while a person at the console is being asked to confirm it, the
// confirmation has no effect.
func TestLevelIsCheckedAgainAfterTheAnswer(t *testing.T) {
	t.Parallel()
	b := newBench(t, 80, 24, ownedState, nil)
	b.press("9r")
	b.see("Restart this machine?")
	b.write("user-meta.json", `{"gangway.console":"read"}`)
	b.press("yes", tcell.KeyEnter)
	b.see("Not possible: switched off by the image or by the owner")
	if did := b.machine.done(); len(did) > 0 {
		t.Errorf("the console did %q", did)
	}
}

// If the owner switches the console off while it is open, the console closes.
func TestOwnerSwitchesTheOpenConsoleOff(t *testing.T) {
	t.Parallel()
	b := newBench(t, 80, 24, ownedState, nil)
	b.write("user-meta.json", `{"gangway.console":"off"}`)
	if err := b.left(); !errors.Is(err, ErrOff) {
		t.Errorf("ended with %v", err)
	}
}

func TestImageSwitchesTheConsoleOff(t *testing.T) {
	t.Parallel()
	b := newBench(t, 80, 24, ownedState, func(c *Config) { c.Limit = access.Off })
	if err := b.left(); !errors.Is(err, ErrOff) {
		t.Errorf("ended with %v", err)
	}
}

// On a system that Gangway did not install, the console offers neither network settings nor the
// wipe.
func TestOtherSystemOffersNoNativeActions(t *testing.T) {
	t.Parallel()
	b := newBench(t, 100, 24, `{}`, func(c *Config) { c.Machine = System{} })
	for _, keys := range []string{"2e", "9w"} {
		b.press(keys)
		b.see("Not possible: Gangway did not install this system")
		b.press("1")
	}
}

// The console's editor shows mistakes while the person types. The machine tries the new settings
// only after the person has confirmed them. It never tries settings that contain the placeholder
// for the proxy's password.
func TestNetworkSettingsAreEditedAndTried(t *testing.T) {
	t.Parallel()
	b := newBench(t, 80, 24, ownedState, func(c *Config) {
		c.Machine.(*fakeMachine).settings = "version = 1\nproxy = http://ada:" + access.Placeholder + "@proxy.example:3128\n"
	})
	b.press("2e")
	b.see("type the proxy's password in place of " + access.Placeholder)
	b.press(tcell.KeyCtrlO)
	b.see("Correct the mistake first.")
	b.press(tcell.KeyDown, tcell.KeyEnd)
	b.press(slices.Repeat([]any{tcell.KeyBackspace2}, len("proxy = http://ada:"+access.Placeholder+"@proxy.example:3128"))...)
	b.press("vlan = x")
	b.see("line 2")
	b.press(tcell.KeyBackspace2, "7")
	b.see("The settings have no mistake.")
	b.press(tcell.KeyCtrlO)
	b.see("Try these network settings?")
	b.see("vlan = 7")
	b.press(tcell.KeyEscape) // return to the editor, which still shows the typed text
	b.see("The settings have no mistake.")
	b.press(tcell.KeyCtrlO, "yes", tcell.KeyEnter)
	b.see("The machine restarts to try the settings.")
	if did := b.machine.done(); !slices.Equal(did, []string{"try version = 1\nvlan = 7\n"}) {
		t.Errorf("the console did %q", did)
	}
}

func TestFailedActionSaysWhy(t *testing.T) {
	t.Parallel()
	b := newBench(t, 80, 24, ownedState, func(c *Config) { c.Machine.(*fakeMachine).fails = errors.New("the disk is full") })
	b.press("9r", "yes", tcell.KeyEnter)
	b.see("It failed: the disk is full")
}

// If nobody presses a key for as long as Config.Idle says, the console closes.
func TestIdleConsoleCloses(t *testing.T) {
	t.Parallel()
	b := newBench(t, 80, 24, ownedState, func(c *Config) { c.Idle = time.Second })
	if err := b.left(); err != nil {
		t.Error(err)
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text  string
		width int
		want  []string
	}{
		{"", 10, []string{" "}},
		{"one two three", 7, []string{"one two", "three"}},
		{"abcdefghij", 4, []string{"abcd", "efgh", "ij"}},
		{"a abcdefghij", 4, []string{"a", "abcd", "efgh", "ij"}},
		{"日本語", 4, []string{"日本", "語"}},
		{"x", 0, []string{"x"}},
	} {
		if got := wrap(c.text, c.width); !slices.Equal(got, c.want) {
			t.Errorf("%q at %d: %q, want %q", c.text, c.width, got, c.want)
		}
	}
}

// When a person sets a PIN, the console does not show it, asks for it twice, and passes it to the
// hook only if both entries are the same.
func TestPINIsAskedTwiceAndNotShown(t *testing.T) {
	t.Parallel()
	b := newBench(t, 80, 24, ownedState, nil)
	b.press("9p")
	b.see("PIN of this machine's disk")
	b.press("135790", tcell.KeyEnter)
	b.press("246810", tcell.KeyEnter)
	b.see("New PIN again:")
	b.press("246811", tcell.KeyEnter)
	b.see("The two new PINs differ")
	b.press("246810")
	b.see("any more): ******")
	if text := b.text(); strings.Contains(text, "246810") || strings.Contains(text, "135790") {
		t.Errorf("the console shows a PIN: %s", text)
	}
	b.press(tcell.KeyEnter, "246810", tcell.KeyEnter)
	b.see("The disk has a new PIN.")
	if did := b.machine.done(); !slices.Equal(did, []string{"PIN 135790 246810"}) {
		t.Errorf("the console did %q", did)
	}
}
