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
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// wrongWait is the pause after a wrong password.
const wrongWait = 3 * time.Second

// Logins offers a shell on terminals to a person who knows the image's console password. An image
// without a password offers no shell.
type Logins struct {
	PasswordFile string // the SHA-256 of the password, in hexadecimal
	Terminals    []string
	Shell        func(terminal string) error
	Logf         func(format string, args ...any)

	open func(path string) (terminal, error) // default: openTerminal
}

// terminal is a terminal on which a person types a password.
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

// Start starts a login on every terminal. If there is no password file, it
// starts none.
func (l *Logins) Start() {
	b, err := os.ReadFile(l.PasswordFile)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	want, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(want) != sha256.Size {
		l.Logf("the file with the hash of the console's password is not valid, so no login is offered")
		return
	}
	if l.open == nil {
		l.open = openTerminal
	}
	for _, terminal := range l.Terminals {
		go func() {
			for {
				if err := l.login(terminal, want); err != nil {
					time.Sleep(wrongWait)
				}
			}
		}()
	}
}

var errWrongPassword = errors.New("wrong password")

// login asks for a password. If the password has the SHA-256 want, it runs a shell.
func (l *Logins) login(path string, want []byte) error {
	t, err := l.open(path)
	if err != nil {
		return err
	}
	defer t.Close()
	fmt.Fprint(t, "\r\nGangway, password: ")
	password, err := t.ReadPassword()
	if err != nil {
		return err
	}
	got := sha256.Sum256([]byte(strings.TrimSpace(string(password))))
	if subtle.ConstantTimeCompare(got[:], want) != 1 {
		fmt.Fprint(t, "\r\nWrong password.\r\n")
		return errWrongPassword
	}
	fmt.Fprint(t, "\r\n")
	return l.Shell(path)
}
