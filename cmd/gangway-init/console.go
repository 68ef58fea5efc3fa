package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// consoles are all on which the kernel speaks: the screen and serial ports.
// What is said is said on each.
var consoles = struct {
	sync.Mutex
	names []string
	files []*os.File
	panel *panel // what the screen shows instead, if it is set
}{files: []*os.File{os.Stdout}}

// openConsoles opens them. Where that does not work, /dev/console is used.
func openConsoles() {
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
		consoles.Lock()
		consoles.files, consoles.names = files, names
		consoles.Unlock()
	}
}

// isScreen reports whether a console is a screen, and no serial port.
func isScreen(name string) bool {
	rest, ok := strings.CutPrefix(name, "tty")
	return ok && (rest == "" || rest[0] >= '0' && rest[0] <= '9')
}

// say prints a line to the consoles, with the seconds since the kernel started.
func say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	toConsoles(stamped(line), line)
}

// sayBeside says what the panel shows already.
func sayBeside(format string, args ...any) {
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
	consoles.Lock()
	defer consoles.Unlock()
	for i, f := range consoles.files {
		if consoles.panel != nil && i < len(consoles.names) && isScreen(consoles.names[i]) {
			if short != "" {
				consoles.panel.log(short)
			}
			consoles.panel.draw(f)
			continue
		}
		// One write, so that the kernel's own lines do not fall into it.
		f.WriteString(line + "\r\n")
	}
}

// copyLines prints what a program prints.
func copyLines(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		toConsoles(lines.Text(), lines.Text())
	}
	io.Copy(io.Discard, r) // a line that is too long ends the scanner, not the program
}

// typed sends what is typed on any console, line by line.
var typed = sync.OnceValue(func() <-chan string {
	c := make(chan string)
	consoles.Lock()
	defer consoles.Unlock()
	for _, f := range consoles.files {
		go func() {
			lines := bufio.NewScanner(f)
			for lines.Scan() {
				c <- strings.TrimSpace(lines.Text())
			}
		}()
	}
	return c
})
