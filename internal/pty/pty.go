// Package pty opens pseudo terminals, for tests of programs that talk to a person on a terminal.
package pty

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Open opens a pseudo terminal with this number of columns and rows. `controller` is the side of
// the person, who types and reads there. `terminal` is the side of the program. If both numbers are
// 0, the terminal does not know its size, like a serial port.
func Open(columns, rows uint16) (controller, terminal *os.File, err error) {
	controller, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	if terminal, err = open(int(controller.Fd()), columns, rows); err != nil {
		return nil, nil, errors.Join(err, controller.Close())
	}
	return controller, terminal, nil
}

// open opens the program's side of the pseudo terminal whose other side is the descriptor `fd`.
func open(fd int, columns, rows uint16) (*os.File, error) {
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock the pseudo terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, fmt.Errorf("read the pseudo terminal's number: %w", err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		return nil, fmt.Errorf("set the pseudo terminal's size: %w", err)
	}
	return os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
}

// New does the same as Open, for a test. It closes both sides at the end of the test. If the
// machine has no pseudo terminals, New skips the test.
func New(t testing.TB, columns, rows uint16) (controller, terminal *os.File) {
	t.Helper()
	controller, terminal, err := Open(columns, rows)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("no pseudo terminals here: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		controller.Close()
		terminal.Close()
	})
	return controller, terminal
}
