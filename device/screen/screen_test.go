package screen

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// terminal is a console that records its output and on which a person may type.
type terminal struct {
	io.Reader
	bytes.Buffer
	writes int
}

func (t *terminal) Read(p []byte) (int, error) { return t.Reader.Read(p) }

func (t *terminal) Write(p []byte) (int, error) {
	t.writes++
	return t.Buffer.Write(p)
}

func newTerminal(typed string) *terminal { return &terminal{Reader: strings.NewReader(typed)} }

// The method `last` returns the text on a terminal since the screen was last cleared, without the
// colour sequences.
func (t *terminal) last() string {
	text := t.String()
	text = text[strings.LastIndex(text, clearScreen)+len(clearScreen):]
	for _, escape := range []string{white, red, green, grey, bold, plain} {
		text = strings.ReplaceAll(text, escape, "")
	}
	return text
}

// newScreen returns a Screen with the console tty0 and a serial port. The machine seems to have
// started 1.50 s ago.
func newScreen() (s *Screen, tty, serial *terminal) {
	tty, serial = newTerminal("y es \n"), newTerminal("no\n")
	s = New(Console{"ttyS0", serial}, Console{"tty0", tty})
	s.uptime = func() string { return "1.50" }
	return s, tty, serial
}

func TestLinesGoToEveryConsoleUntilThereIsAPanel(t *testing.T) {
	t.Parallel()
	s, tty, serial := newScreen()
	s.Logf("module %s: %v", "x.ko", io.EOF)
	s.Serialf("both, without a panel")
	const want = "gangway-init [1.50]: module x.ko: EOF\r\ngangway-init [1.50]: both, without a panel\r\n"
	if tty.String() != want || serial.String() != want || tty.writes != 2 {
		t.Errorf("screen %q in %d writes, serial port %q", tty.String(), tty.writes, serial.String())
	}
	s.StartPanel("Gangway")
	serial.Reset()
	for _, line := range []string{"one", "two", "three", "four", "five", "six", "seven"} {
		s.Logf("%s", line)
	}
	s.Serialf("elsewhere")
	shown := tty.last()
	for text, want := range map[string]bool{"G A N G W A Y": true, "two": true, "seven": true, "one": false, "elsewhere": false, "gangway-init": false} {
		if strings.Contains(shown, text) != want {
			t.Errorf("the panel has %q: %v; it is\n%s", text, !want, shown)
		}
	}
	if got := serial.String(); strings.Count(got, "gangway-init [1.50]: ") != 8 || !strings.Contains(got, ": elsewhere\r\n") || strings.Contains(got, "\x1b") {
		t.Errorf("the serial port: %q", got)
	}
}

// The screen writes a fact or a sentence to a serial port only when it has changed.
func TestOnlyNewsIsWrittenToSerialPorts(t *testing.T) {
	t.Parallel()
	s, tty, serial := newScreen()
	s.StartPanel("Gangway")
	for range 2 {
		s.Fact("Hub", "https://hub.example")
		s.Statusf("Joining\nthe hub")
	}
	s.Fact("Hub", "https://other.example")
	s.Alarmf("No network: %s.", "check the cable")
	s.Redraw(true, "9 seconds")
	const want = "gangway-init [1.50]: hub: https://hub.example\r\n" +
		"gangway-init [1.50]: Joining the hub\r\n" +
		"gangway-init [1.50]: hub: https://other.example\r\n" +
		"gangway-init [1.50]: No network: check the cable.\r\n"
	if serial.String() != want {
		t.Errorf("the serial port: %q", serial.String())
	}
	if shown := tty.last(); !strings.Contains(shown, "https://other.example") || strings.Contains(shown, "https://hub.example") || !strings.Contains(shown, "9 seconds") {
		t.Errorf("the panel:\n%s", shown)
	}
}

func TestAlarmIsRed(t *testing.T) {
	t.Parallel()
	s, tty, _ := newScreen()
	s.Redraw(true, "nothing is drawn without a panel")
	if tty.Len() > 0 {
		t.Errorf("%q", tty.String())
	}
	s.StartPanel("Gangway")
	s.Statusf("well")
	if strings.Contains(tty.String(), red) || !strings.Contains(tty.String(), green) {
		t.Errorf("a status: %q", tty.String())
	}
	s.Alarmf("wrong")
	if !strings.Contains(tty.String(), red+"   wrong") {
		t.Errorf("an alarm: %q", tty.String())
	}
}

// The screen shows the whole of a long text, because the remedy is at its end.
func TestLongTextIsWrapped(t *testing.T) {
	t.Parallel()
	s, tty, _ := newScreen()
	s.StartPanel("Gangway")
	s.RedrawWhole(true, strings.Repeat("The hub cannot be reached. ", 5)+"Check the cable.")
	if shown := tty.last(); !strings.Contains(shown, "Check the cable.") {
		t.Errorf("the panel:\n%s", shown)
	}
	for _, c := range []struct {
		text string
		want []string
	}{
		{"", []string{""}},
		{"one two", []string{"one two"}},
		{"one two three", []string{"one two", "three"}},
		{"a\nb c", []string{"a", "b c"}},
		{"0123456789", []string{"01234567", "89"}},
	} {
		if got := wrapped(c.text, 8); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
}

func TestClaimCodeIsShownAndRemoved(t *testing.T) {
	t.Parallel()
	s, tty, _ := newScreen()
	if err := s.ShowCode("https://hub.example/claim/x"); err != nil {
		t.Errorf("without a panel: %v", err)
	}
	s.StartPanel("Gangway")
	if err := s.ShowCode("https://hub.example/claim/x"); err != nil {
		t.Fatal(err)
	}
	s.Statusf("Scan the code")
	if shown := tty.last(); !strings.Contains(shown, "█") || !strings.Contains(shown, "Scan the code") {
		t.Errorf("with a code:\n%s", shown)
	}
	if err := s.ShowCode("https://" + strings.Repeat("x", 400)); err == nil {
		t.Error("a code that does not fit the screen is no error")
	}
	s.Statusf("Joining the hub")
	if shown := tty.last(); strings.Contains(shown, "█") {
		t.Errorf("without a code:\n%s", shown)
	}
}

func TestInputIsReadFromEveryConsole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := newScreen()
		got := []string{<-s.Input(), <-s.Input()}
		slices.Sort(got)
		if !slices.Equal(got, []string{"no", "y es"}) {
			t.Errorf("read %q", got)
		}
	})
}

// If a program prints a line that is longer than maxLine, Copy shows no more of the program's
// output, but still reads it to the end, so that the program does not block.
func TestOutputOfAProgramIsCopiedWhateverItIs(t *testing.T) {
	t.Parallel()
	s, _, serial := newScreen()
	r := strings.NewReader("one\ntwo\n" + strings.Repeat("x", 2*maxLine) + "\nthree\n")
	s.Copy(r)
	if serial.String() != "one\r\ntwo\r\n" || r.Len() > 0 {
		t.Errorf("%d bytes are left; the serial port: %.200q", r.Len(), serial.String())
	}
}

func TestTerminals(t *testing.T) {
	t.Parallel()
	s := New(Console{Name: "tty0"}, Console{Name: "ttyS0"}, Console{Name: "ttyAMA0"}, Console{Name: "hvc0"}, Console{})
	if got := s.Terminals("tty2"); !slices.Equal(got, []string{"/dev/tty2", "/dev/ttyS0", "/dev/ttyAMA0", "/dev/hvc0"}) {
		t.Errorf("got %q", got)
	}
}

func TestDoubleMakesTwoPixelsOfEach(t *testing.T) {
	t.Parallel()
	for row, want := range map[byte]uint16{0: 0, 0b1: 0b11, 0b1000_0001: 0b1100_0000_0000_0011, 0xff: 0xffff} {
		if got := double(row); got != want {
			t.Errorf("%08b: %016b, want %016b", row, got, want)
		}
	}
}

// While a program runs on a lent terminal, the screen writes nothing to this terminal. When the
// program has ended, the screen draws the panel again.
func TestLentConsoleIsNotWrittenTo(t *testing.T) {
	t.Parallel()
	s, panel, serial := newScreen()
	s.Hint("Press Enter.")
	s.StartPanel("Gangway")
	for _, c := range []struct {
		path  string
		lent  *terminal
		other *terminal
		then  string // output on the lent console after giveBack
	}{{"/dev/tty1", panel, serial, "Press Enter."}, {"/dev/ttyS0", serial, panel, ""}} {
		giveBack := s.Lend(c.path)
		panel.Reset()
		serial.Reset()
		s.Logf("during %s", c.path)
		s.Redraw(false, "another sentence")
		if c.lent.Len() > 0 || !strings.Contains(c.other.String(), "during "+c.path) {
			t.Errorf("%s: the lent console got %q, the other one %q", c.path, c.lent.String(), c.other.String())
		}
		giveBack()
		if !strings.Contains(c.lent.String(), c.then) {
			t.Errorf("%s: after that, the console got %q", c.path, c.lent.String())
		}
		s.Logf("after %s", c.path)
		if !strings.Contains(c.lent.String(), "after "+c.path) {
			t.Errorf("%s: the console gets no lines: %q", c.path, c.lent.String())
		}
	}
}

// The screen's log file has a maximum size. The last line of the file is always the newest line.
func TestKeptLogIsBounded(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "log")
	s := New()
	s.KeepLog(file)
	for n := range 3 * maxKept / 100 {
		s.Logf("%d %s", n, strings.Repeat("x", 100))
		b, err := os.ReadFile(file)
		if err != nil || len(b) > maxKept || !bytes.HasSuffix(b, fmt.Appendf(nil, "%d %s\n", n, strings.Repeat("x", 100))) {
			t.Fatalf("line %d: %d bytes, %v", n, len(b), err)
		}
		if !bytes.HasPrefix(b, []byte("gangway-init [")) {
			t.Fatalf("line %d: the log begins with %.40q", n, b)
		}
	}
}
