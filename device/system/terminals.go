package system

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gangway/device/console/access"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// wrongWait is the pause after a wrong password.
const wrongWait = 3 * time.Second

// Terminals offers programs to a person at each terminal. The Enter key opens the machine's
// console. If the image was built with a password, the password opens a shell.
type Terminals struct {
	// PasswordFile is the path of the file with the SHA-256 of the password, in hexadecimal.
	PasswordFile string
	// Shells lists the terminals on which the password opens a shell. Consoles lists those on which
	// the Enter key opens the machine's console. A serial port is in both lists.
	Shells, Consoles []string

	Shell   func(terminal string) error
	Console func(terminal string, limit access.Level) error
	Logf    func(format string, args ...any)

	// Limit is the highest level that the image allows. Until Mounted is called, the console only
	// shows the machine's state and offers no actions, because only the disk says whether the
	// machine has an owner.
	Limit   access.Level
	mounted atomic.Bool
	asked   atomic.Pointer[request] // nil: nobody waits for a line
	locked  atomic.Bool             // Ask was called, and the disk is not mounted yet

	mu   sync.Mutex
	lent map[string]bool // guarded by mu; the terminals that serveAsked serves

	open func(path string) (terminal, error) // default: openTerminal
}

// terminal is a terminal on which a person types.
type terminal interface {
	io.WriteCloser
	ReadPassword() ([]byte, error)
}

type terminalFile struct{ *os.File }

func (f terminalFile) ReadPassword() ([]byte, error) { return term.ReadPassword(int(f.Fd())) }

func openTerminal(path string) (terminal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	return terminalFile{f}, err
}

// Mounted records that the machine's disk is mounted, so that the console can read the machine's
// state.
func (t *Terminals) Mounted() {
	t.mounted.Store(true)
	t.locked.Store(false)
}

// request is a call of Ask that waits for the answer.
type request struct {
	prompt string
	answer chan string
}

// Ask returns the next line that a person types at one of the terminals. The shell's password and
// an empty line do not count as the answer: they still open the shell and the console. Ask calls
// `show`, which shows the question, when it is ready to get the line.
func (t *Terminals) Ask(prompt string, show func()) string {
	r := &request{prompt, make(chan string, 1)}
	t.locked.Store(true)
	t.asked.Store(r)
	defer t.asked.Store(nil)
	show()
	served := t.served()
	for _, path := range all(t.Shells, t.Consoles) {
		if !slices.Contains(served, path) && t.lend(path) {
			go t.serveAsked(path)
		} else if on, err := t.open(path); err == nil { // it waits for a line already
			fmt.Fprint(on, "\r\n"+prompt)
			on.Close()
		}
	}
	return <-r.answer
}

// lend records that serveAsked serves a terminal. It returns false if the terminal is recorded
// already.
func (t *Terminals) lend(path string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lent[path] {
		return false
	}
	if t.lent == nil {
		t.lent = map[string]bool{}
	}
	t.lent[path] = true
	return true
}

// serveAsked reads lines from a terminal while Ask waits for an answer. It is for the terminals
// that offer neither a shell nor the console.
func (t *Terminals) serveAsked(path string) {
	for {
		t.mu.Lock()
		if t.asked.Load() == nil {
			delete(t.lent, path)
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		if err := t.once(path, nil, false); err != nil {
			time.Sleep(wrongWait)
		}
	}
}

// answer gives a typed line to Ask, and reports whether Ask waited for it.
func (t *Terminals) answer(typed string) bool {
	r := t.asked.Load()
	if r == nil || typed == "" {
		return false
	}
	select {
	case r.answer <- typed:
		return true
	default: // a person at another terminal was faster
		return false
	}
}

func all(lists ...[]string) []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(lists...))))
}

// served returns the terminals that Start serves.
func (t *Terminals) served() []string {
	shells, consoles := t.Shells, t.Consoles
	if t.password() == nil {
		shells = nil
	}
	if t.Limit == access.Off {
		consoles = nil
	}
	return all(shells, consoles)
}

func (t *Terminals) level() access.Level {
	if !t.mounted.Load() {
		return min(t.Limit, access.Read)
	}
	return t.Limit
}

// Start serves every terminal that offers a shell or the console.
func (t *Terminals) Start() {
	if t.open == nil {
		t.open = openTerminal
	}
	password := t.password()
	shells, consoles := t.Shells, t.Consoles
	if password == nil {
		shells = nil
	}
	if t.Limit == access.Off {
		consoles = nil
	}
	for _, path := range all(shells, consoles) {
		want := password
		if !slices.Contains(shells, path) {
			want = nil
		}
		go t.serve(path, want, slices.Contains(consoles, path))
	}
}

// The method `password` returns the SHA-256 of the image's password. If the image has no password,
// the result is nil.
func (t *Terminals) password() []byte {
	b, err := os.ReadFile(t.PasswordFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	want, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(want) != sha256.Size {
		t.Logf("the file with the hash of the shell's password is not valid, so the terminals offer no shell; build the image again")
		return nil
	}
	return want
}

func (t *Terminals) serve(path string, want []byte, console bool) {
	for {
		if err := t.once(path, want, console); err != nil {
			time.Sleep(wrongWait)
		}
	}
}

var errWrongPassword = errors.New("wrong password")

// The method `once` waits for one line on a terminal, and then opens the console or a shell. The
// terminal offers the console if `console` is true, and a shell if `want`, the SHA-256 of the
// shell's password, is not nil. The password opens the shell. An empty line opens the console, and
// if the terminal offers no shell, so does any other line. After a wrong password, the error is
// errWrongPassword.
func (t *Terminals) once(path string, want []byte, console bool) error {
	on, err := t.open(path)
	if err != nil {
		return err
	}
	defer on.Close()
	r := t.asked.Load()
	switch {
	case r != nil:
		fmt.Fprint(on, "\r\n"+r.prompt)
	case want != nil && console:
		fmt.Fprint(on, "\r\nGangway, password for a shell, or Enter for the console: ")
	case want != nil:
		fmt.Fprint(on, "\r\nGangway, password: ")
	}
	line, err := on.ReadPassword()
	if err != nil {
		return err
	}
	typed := strings.TrimSpace(string(line))
	got := sha256.Sum256([]byte(typed))
	if (want == nil || subtle.ConstantTimeCompare(got[:], want) != 1) && t.answer(typed) {
		fmt.Fprint(on, "\r\n")
		return nil
	}
	if want == nil && typed != "" && t.locked.Load() { // typed while the machine still checks the previous answer
		fmt.Fprint(on, "\r\nThe machine is still checking your last answer.\r\n")
		return nil
	}
	if console && (want == nil || typed == "") {
		return t.Console(path, t.level())
	}
	if want == nil { // a terminal that is served only for Ask
		return nil
	}
	if subtle.ConstantTimeCompare(got[:], want) != 1 {
		fmt.Fprint(on, "\r\nWrong password.\r\n")
		return errWrongPassword
	}
	fmt.Fprint(on, "\r\n")
	return t.Shell(path)
}
