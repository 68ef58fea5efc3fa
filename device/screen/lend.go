package screen

import (
	"bytes"
	"os"
)

// Lend stops the output on a console until the caller calls `giveBack`. Meanwhile, another program
// can use the console's terminal. `path` is one of the paths that Terminals returns. Lines that are
// written in that time never appear on this console.
func (s *Screen) Lend(path string) (giveBack func()) {
	var names []string
	for _, c := range s.consoles {
		if path == "/dev/"+c.Name || c.isScreen() && isVirtual(path) {
			names = append(names, c.Name)
		}
	}
	set := func(lent bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.lent == nil {
			s.lent = map[string]bool{}
		}
		for _, name := range names {
			s.lent[name] = lent
		}
		if !lent && s.panel != nil {
			s.redraw()
		}
	}
	set(true)
	return func() { set(false) }
}

// isVirtual reports whether `path` is a virtual terminal of the screen.
func isVirtual(path string) bool {
	return len(path) >= len("/dev/tty") && Console{Name: path[len("/dev/"):]}.isScreen()
}

// Hint shows on the panel which key of the keyboard a person may press, and what the key does.
func (s *Screen) Hint(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hint = text
	if s.panel != nil {
		s.panel.hint = text
	}
}

// KeepLog makes the screen append every line to a file too. The file has at most maxKept bytes:
// when it is full, the screen removes its older half.
func (s *Screen) KeepLog(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file = &logFile{path: path}
}

// maxKept is the maximum size of the log's file, in bytes.
const maxKept = 256 << 10

// logFile is a log file with a maximum size. A nil logFile stores nothing. logFile ignores errors,
// because the consoles show the same lines.
type logFile struct {
	path string
	text []byte // the content of the file
}

func (l *logFile) write(line string) {
	if l == nil {
		return
	}
	l.text = append(append(l.text, line...), '\n')
	if len(l.text) > maxKept {
		half := l.text[len(l.text)-maxKept/2:]
		l.text = append([]byte(nil), half[bytes.IndexByte(half, '\n')+1:]...)
		os.WriteFile(l.path, l.text, 0o600)
		return
	}
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	f.WriteString(line + "\n")
}
