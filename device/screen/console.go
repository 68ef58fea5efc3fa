package screen

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// Consoles are all on which the kernel speaks: the screen and serial ports.
// What is said is said on each.
var Consoles = struct {
	sync.Mutex
	Names []string
	Files []*os.File
	panel *panel // what the screen shows instead, if it is set
}{Files: []*os.File{os.Stdout}}

// Open opens them. Where that does not work, /dev/console is used.
func Open() {
	b, err := os.ReadFile("/sys/class/tty/console/active")
	if err != nil {
		return
	}
	var files []*os.File
	var names []string
	for name := range strings.FieldsSeq(string(b)) {
		f, err := os.OpenFile("/dev/"+name, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		files, names = append(files, f), append(names, name)
	}
	if len(files) > 0 {
		Consoles.Lock()
		Consoles.Files, Consoles.Names = files, names
		Consoles.Unlock()
	}
}

// IsScreen reports whether a console is a screen, and no serial port.
func IsScreen(name string) bool {
	rest, ok := strings.CutPrefix(name, "tty")
	return ok && (rest == "" || rest[0] >= '0' && rest[0] <= '9')
}

// Say prints a line to the consoles, with the seconds since the kernel started.
func Say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	toConsoles(stamped(line), line)
}

// SayBeside says what the panel shows already.
func SayBeside(format string, args ...any) {
	toConsoles(stamped(fmt.Sprintf(format, args...)), "")
}

func stamped(line string) string {
	up := "?"
	if b, err := os.ReadFile("/proc/uptime"); err == nil {
		up, _, _ = strings.Cut(string(b), " ")
	}
	return fmt.Sprintf("gangway-init [%s]: %s", up, line)
}

// toConsoles prints a line, on a screen that shows the panel a shorter one.
func toConsoles(line, short string) {
	Consoles.Lock()
	defer Consoles.Unlock()
	for i, f := range Consoles.Files {
		if Consoles.panel != nil && i < len(Consoles.Names) && IsScreen(Consoles.Names[i]) {
			if short != "" {
				Consoles.panel.log(short)
			}
			Consoles.panel.draw(f)
			continue
		}
		// One write, so that the kernel's own lines do not fall into it.
		f.WriteString(line + "\r\n")
	}
}

// CopyLines prints what a program prints.
func CopyLines(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		toConsoles(lines.Text(), lines.Text())
	}
	io.Copy(io.Discard, r) // a line that is too long ends the scanner, not the program
}

// Typed sends what is typed on any console, line by line.
var Typed = sync.OnceValue(func() <-chan string {
	c := make(chan string)
	Consoles.Lock()
	defer Consoles.Unlock()
	for _, f := range Consoles.Files {
		go func() {
			lines := bufio.NewScanner(f)
			for lines.Scan() {
				c <- strings.TrimSpace(lines.Text())
			}
		}()
	}
	return c
})
