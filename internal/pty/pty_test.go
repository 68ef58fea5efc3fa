package pty

import (
	"bufio"
	"testing"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// What a person types reaches the program, and what the program prints reaches the person.
func TestBothSidesTalk(t *testing.T) {
	controller, terminal := New(t, 40, 24)
	if !term.IsTerminal(int(terminal.Fd())) {
		t.Error("the program's side is not a terminal")
	}
	if _, err := term.MakeRaw(int(terminal.Fd())); err != nil { // the terminal does not echo
		t.Fatal(err)
	}
	if _, err := controller.WriteString("typed\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(terminal).ReadString('\n'); err != nil || line != "typed\n" {
		t.Errorf("the program reads %q, %v", line, err)
	}
	if _, err := terminal.WriteString("printed\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(controller).ReadString('\n'); err != nil || line != "printed\n" {
		t.Errorf("the person reads %q, %v", line, err)
	}
}

// The pseudo terminal has the requested size, or no size if both numbers are 0.
func TestSize(t *testing.T) {
	for _, want := range [][2]uint16{{132, 43}, {0, 0}} {
		_, terminal := New(t, want[0], want[1])
		size, err := unix.IoctlGetWinsize(int(terminal.Fd()), unix.TIOCGWINSZ)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]uint16{size.Col, size.Row}; got != want {
			t.Errorf("the terminal has %v columns and rows, want %v", got, want)
		}
	}
}
