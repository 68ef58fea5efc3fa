package system

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"gangway/device/install"
	"gangway/device/machine"
	"gangway/device/screen"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// logins offers a shell to who knows the password, on each serial console and
// on the second screen (Alt+F2), if the image was made so.
func logins() {
	b, err := os.ReadFile("/" + install.ConsolePath)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	want, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(want) != sha256.Size {
		screen.Say("the console's password cannot be read")
		return
	}
	screen.Consoles.Lock()
	defer screen.Consoles.Unlock()
	for _, name := range screen.Consoles.Names {
		if screen.IsScreen(name) {
			name = "tty2"
		}
		go func() {
			for {
				if err := login("/dev/"+name, want); err != nil {
					time.Sleep(3 * time.Second)
				}
			}
		}()
	}
}

var errWrongPassword = errors.New("wrong password")

// login asks for the password, whose SHA-256 it is given, and runs a shell.
func login(console string, want []byte) error {
	f, err := os.OpenFile(console, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Fprint(f, "\r\nGangway, password: ")
	password, err := term.ReadPassword(int(f.Fd()))
	if err != nil {
		return err
	}
	got := sha256.Sum256([]byte(strings.TrimSpace(string(password))))
	if subtle.ConstantTimeCompare(got[:], want) != 1 {
		fmt.Fprint(f, "\r\nThat is not it.\r\n")
		return errWrongPassword
	}
	fmt.Fprint(f, "\r\n")
	return machine.Shell(console)
}
