package system

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/device/console/access"
)

// labTerminal simulates a terminal on which a person types passwords.
type labTerminal struct {
	l    *lab
	path string
	read func() string
}

func (t labTerminal) Write(p []byte) (int, error) {
	t.l.step("%s shows %s", t.path, bytes.TrimSpace(p))
	return len(p), nil
}
func (t labTerminal) Close() error                  { return nil }
func (t labTerminal) ReadPassword() ([]byte, error) { return []byte(t.read()), nil }

// At a terminal of the machine, only the image's password opens a shell, and a wrong password
// causes a delay. Enter opens the console.
func TestShellNeedsThePassword(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256([]byte("right"))
	for name, c := range map[string]struct {
		file   string // the content of the password file; empty: there is no file
		typed  []string
		logins bool
		shells int
		says   string
	}{
		"no password file":     {"", []string{"right"}, false, 0, ""},
		"the right password":   {hex.EncodeToString(sum[:]) + "\n", []string{"right "}, true, 1, ""},
		"a wrong one":          {hex.EncodeToString(sum[:]), []string{"wrong", "wronger", "right"}, true, 1, "/dev/ttyS0 shows Wrong password."},
		"a file that is cut":   {hex.EncodeToString(sum[:16]), []string{"right"}, false, 0, "log the file with the hash of the shell's password is not valid, so the terminals offer no shell; build the image again"},
		"a file that is empty": {"\n", []string{""}, false, 0, "log the file with the hash of the shell's password is not valid, so the terminals offer no shell; build the image again"},
		"Enter":                {hex.EncodeToString(sum[:]), []string{""}, true, 0, "console on /dev/ttyS0 with read"},
		"Enter, no password":   {"", []string{""}, false, 0, "console on /dev/ttyS0 with read"},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				file := filepath.Join(l.dir, "console")
				if c.file != "" {
					l.write("console", c.file)
				}
				typed := c.typed
				logins := &Terminals{PasswordFile: file, Shells: []string{"/dev/ttyS0"}, Consoles: []string{"/dev/ttyS0"}, Limit: access.Full, Logf: l.Logf}
				logins.open = func(path string) (terminal, error) {
					return labTerminal{l, path, func() string {
						if len(typed) == 0 {
							l.sleep(1000 * time.Hour)
							l.alive()
						}
						word := typed[0]
						typed = typed[1:]
						l.step("typed %s after %s", word, time.Since(l.began))
						return word
					}}, nil
				}
				logins.Shell = func(path string) error { return l.step("shell on %s", path) }
				logins.Console = func(path string, limit access.Level) error { return l.step("console on %s with %s", path, limit) }
				logins.Start()
				l.wait(time.Minute)
				shells := 0
				for _, s := range l.log {
					if strings.HasPrefix(s, "shell on /dev/ttyS0") {
						shells++
					}
				}
				if shells != c.shells || l.did("/dev/ttyS0 shows Gangway, password for a shell, or Enter for the console:") != c.logins {
					t.Errorf("%d shells: %q", shells, l.log)
				}
				l.want(c.says)
				for i, word := range c.typed[:max(0, len(c.typed)-1)] {
					l.want(fmt.Sprintf("typed %s after %s", word, time.Duration(i)*wrongWait))
				}
			})
		})
	}
}

// The method `typing` returns Terminals on which a person presses Enter once a second. It records
// each program that a terminal opens, and the console's level.
func (l *lab) typing(t *Terminals) *Terminals {
	t.Logf = l.Logf
	t.PasswordFile = filepath.Join(l.dir, "no-password")
	t.open = func(path string) (terminal, error) {
		return labTerminal{l, path, func() string {
			l.sleep(time.Second)
			l.alive()
			return ""
		}}, nil
	}
	t.Shell = func(path string) error { return l.step("shell on %s", path) }
	t.Console = func(path string, limit access.Level) error { return l.step("console on %s with %s", path, limit) }
	return t
}

// Until the disk is mounted, a machine with an owner looks like a machine without an owner. So a
// person who opens the console in the first seconds must not be able to wipe the machine.
func TestConsoleOnlyShowsUntilTheDiskIsMounted(t *testing.T) {
	inLab(t, func(l *lab) {
		terminals := l.typing(&Terminals{Consoles: []string{"/dev/tty1", "/dev/ttyS0"}, Limit: access.Full})
		terminals.Start()
		l.wait(10 * time.Second)
		l.want("console on /dev/tty1 with read")
		l.never("console on /dev/tty1 with full", "console on /dev/ttyS0 with full", "shell")
		terminals.Mounted()
		l.wait(10 * time.Second)
		l.want("console on /dev/ttyS0 with read", "console on /dev/ttyS0 with full")
	})
}

// If the image switches the console off, no terminal opens it.
func TestImageSwitchesTheConsoleOff(t *testing.T) {
	inLab(t, func(l *lab) {
		terminals := l.typing(&Terminals{Consoles: []string{"/dev/tty1"}, Shells: []string{"/dev/tty2"}, Limit: access.Off})
		terminals.Start()
		terminals.Mounted()
		l.wait(time.Minute)
		l.never("console", "shell", "/dev/tty2 shows")
	})
}

// While the machine waits for the disk's PIN, a line that a person types at a terminal counts as
// the PIN. The shell's password still opens the shell, and Enter still opens the console. A
// terminal that offers neither a shell nor a console also asks for the PIN.
func TestTerminalsAskForThePIN(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256([]byte("password"))
	for name, c := range map[string]struct {
		limit access.Level
		typed []string
		want  []string
	}{
		"with a console":    {access.Full, []string{"", "password", "246810"}, []string{"the question is shown", "/dev/ttyS0 shows PIN:", "console on /dev/ttyS0 with read", "shell on /dev/ttyS0", "the answer is 246810"}},
		"without a console": {access.Off, []string{"246810"}, []string{"the question is shown", "/dev/ttyS0 shows PIN:", "the answer is 246810"}},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				typed := c.typed
				file := filepath.Join(l.dir, "console")
				if c.limit != access.Off {
					l.write("console", hex.EncodeToString(sum[:]))
				}
				d := &Terminals{PasswordFile: file, Shells: []string{"/dev/ttyS0"}, Consoles: []string{"/dev/ttyS0"}, Limit: c.limit, Logf: l.Logf}
				d.open = func(path string) (terminal, error) {
					return labTerminal{l, path, func() string {
						l.sleep(time.Minute)
						if len(typed) == 0 {
							l.sleep(1000 * time.Hour)
							l.alive()
						}
						word := typed[0]
						typed = typed[1:]
						return word
					}}, nil
				}
				d.Shell = func(path string) error { return l.step("shell on %s", path) }
				d.Console = func(path string, limit access.Level) error { return l.step("console on %s with %s", path, limit) }
				d.Start()
				l.wait(time.Second)
				go func() { l.step("the answer is %s", d.Ask("PIN: ", func() { l.step("the question is shown") })) }()
				l.wait(time.Hour)
				l.want(c.want...)
			})
		})
	}
}

// If a person types the PIN again while the TPM is still checking the PIN typed before, the second
// line does not count as an answer, and it does not open the console either.
func TestLineWhileThePINIsTriedOpensNothing(t *testing.T) {
	inLab(t, func(l *lab) {
		typed := []string{"135791", "246810", "246810"}
		d := &Terminals{PasswordFile: filepath.Join(l.dir, "none"), Consoles: []string{"/dev/ttyS0"}, Limit: access.Full, Logf: l.Logf}
		d.open = func(path string) (terminal, error) {
			return labTerminal{l, path, func() string {
				l.sleep(time.Minute)
				if len(typed) == 0 {
					l.sleep(1000 * time.Hour)
					l.alive()
				}
				word := typed[0]
				typed = typed[1:]
				return word
			}}, nil
		}
		d.Console = func(path string, limit access.Level) error { return l.step("console on %s with %s", path, limit) }
		d.Start()
		l.wait(time.Second)
		go func() {
			for range 2 {
				l.step("the answer is %s", d.Ask("PIN: ", func() {}))
				l.sleep(90 * time.Second) // the TPM tries it
			}
		}()
		l.wait(time.Hour)
		l.want("the answer is 135791", "/dev/ttyS0 shows The machine is still checking your last answer.", "the answer is 246810")
		l.never("console on /dev/ttyS0 with read")
	})
}
