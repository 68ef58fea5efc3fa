// Package screen shows the state of a machine to the person at the machine, and writes the same
// messages to the machine's serial ports.
//
// A Screen writes to every console of the kernel: the screen, called tty0, and the serial ports. It
// writes line after line. After StartPanel, the screen shows a panel instead of lines: a title, a
// few facts, one important sentence, and the last lines of the log. Serial ports still show lines.
//
// The package assumes that every console has 80 columns and 25 rows.
package screen

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// Screen writes to all consoles of a machine. Several goroutines may call its methods at the same
// time.
type Screen struct {
	consoles []Console
	uptime   func() string // seconds since the kernel started

	mu    sync.Mutex      // guards `panel`, `hint`, `lent` and `file`, and the writes to the consoles
	panel *panel          // nil: the screen shows lines, like a serial port
	hint  string          // the panel's hint, also for a panel that starts later
	lent  map[string]bool // names of the consoles on which another program runs
	file  *logFile        // nil: the log is not stored in a file

	reading sync.Once
	input   chan string
}

// Console is one console of the kernel.
type Console struct {
	Name string // as in /dev: "tty0", "ttyS0"
	io.ReadWriter
}

// isScreen reports whether the console is a screen and not a serial port.
func (c Console) isScreen() bool {
	rest, ok := strings.CutPrefix(c.Name, "tty")
	return ok && (rest == "" || rest[0] >= '0' && rest[0] <= '9')
}

// New returns a Screen that writes to these consoles.
func New(consoles ...Console) *Screen {
	return &Screen{consoles: consoles, uptime: uptime, input: make(chan string)}
}

// Open opens the consoles that the kernel writes to. If that fails, the standard output of this
// process, /dev/console, is the only console.
func Open() *Screen {
	var consoles []Console
	active, _ := os.ReadFile("/sys/class/tty/console/active")
	for name := range strings.FieldsSeq(string(active)) {
		if f, err := os.OpenFile("/dev/"+name, os.O_RDWR, 0); err == nil {
			consoles = append(consoles, Console{name, f})
		}
	}
	if len(consoles) == 0 {
		consoles = []Console{{"", os.Stdout}}
	}
	return New(consoles...)
}

// Terminals returns the paths of the terminals on which programs may run. For a serial port, this
// is the port's own terminal. For the screen, it is the virtual terminal with the name `virtual`,
// such as "tty2".
func (s *Screen) Terminals(virtual string) []string {
	var paths []string
	for _, c := range s.consoles {
		switch {
		case c.Name == "": // the standard output
		case c.isScreen():
			paths = append(paths, "/dev/"+virtual)
		default:
			paths = append(paths, "/dev/"+c.Name)
		}
	}
	return paths
}

// Logf writes a line to every console, with the seconds since the kernel started. If the screen
// has a panel, the line appears in the panel's log.
func (s *Screen) Logf(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	s.write(s.stamped(line), line)
}

// Serialf writes a line to every console that does not show the panel. Use Serialf for a text that
// the panel shows elsewhere than in its log.
func (s *Screen) Serialf(format string, args ...any) {
	s.write(s.stamped(fmt.Sprintf(format, args...)), "")
}

// Copy writes every line of a program's output r to the consoles, until r ends.
func (s *Screen) Copy(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		s.write(lines.Text(), lines.Text())
	}
	io.Copy(io.Discard, r) // a line was longer than maxLine; discard the rest of the output, so that the program does not block
}

// maxLine is the maximum length of a line of a program's output, in bytes.
const maxLine = 64 << 10

func (s *Screen) stamped(line string) string {
	return fmt.Sprintf("gangway-init [%s]: %s", s.uptime(), line)
}

func uptime() string {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return "?"
	}
	up, _, _ := strings.Cut(string(b), " ")
	return up
}

// The method `write` writes a line to every console. If the screen has a panel, write adds the text
// `short` to the panel's log and redraws the panel. If `short` is empty, the log does not change.
func (s *Screen) write(line, short string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panel != nil && short != "" {
		s.panel.log(short)
	}
	s.file.write(line)
	for _, c := range s.consoles {
		if s.lent[c.Name] {
			continue
		}
		if s.panel != nil && c.isScreen() {
			s.panel.draw(c)
			continue
		}
		io.WriteString(c, line+"\r\n") // one write, so that a message of the kernel does not split the line
	}
}

// Input returns the channel with the lines that a person types on any console. Spaces at both ends
// of a line are removed.
func (s *Screen) Input() <-chan string {
	s.reading.Do(func() {
		for _, c := range s.consoles {
			go func() {
				lines := bufio.NewScanner(c)
				for lines.Scan() {
					s.input <- strings.TrimSpace(lines.Text())
				}
			}()
		}
	})
	return s.input
}
