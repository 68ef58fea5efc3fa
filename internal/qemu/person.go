package qemu

import (
	"io"
	"os"
	"path/filepath"
	"time"
)

// Person makes a machine usable for a person instead of a test. The machine's serial port is the
// person's terminal. Ctrl-A X ends the machine (a command of QEMU's terminal multiplexer).
type Person struct {
	In  *os.File
	Out io.Writer
	// Window opens a window with the machine's screen. VNC is the address of a VNC server for the
	// screen, in QEMU's form ("127.0.0.1:1"); empty means no server. Both need Config.Screen.
	Window bool
	VNC    string
}

// personGrace is how long QEMU may take to end after SIGTERM. QEMU uses this time to restore the
// settings of the person's terminal.
const personGrace = 3 * time.Second

// windowModules lists the paths where distributions install QEMU's module for windows.
var windowModules = []string{"/usr/lib/x86_64-linux-gnu/qemu/ui-gtk.so", "/usr/lib/qemu/ui-gtk.so", "/usr/lib64/qemu-kvm/ui-gtk.so"}

// Missing does the same as the function Missing, for the programs that a machine with a Person
// needs.
func (p *Person) Missing() string {
	files := []required{{codePath, "ovmf"}, {varsPath, "ovmf"}}
	if p.Window {
		files = append(files, required{firstOf(windowModules), "qemu-system-gui"})
	}
	return missing(files...)
}

// firstOf returns the first of the files that exists. If none exists, it returns the first name.
func firstOf(files []string) string {
	for _, f := range files {
		if _, err := os.Stat(filepath.Clean(f)); err == nil {
			return f
		}
	}
	return files[0]
}

// The methods below return options for QEMU. They also work on a nil Person, for a machine without
// a person.

func (p *Person) display() string {
	switch {
	case p == nil:
		return "none"
	case p.Window:
		return "gtk"
	case p.VNC != "":
		return "vnc=" + value(p.VNC)
	}
	return "none"
}

func (p *Person) console() string {
	if p == nil {
		return "stdio,id=console,signal=off"
	}
	return "stdio,id=console,signal=off,mux=on"
}

func (p *Person) grace() time.Duration {
	if p == nil {
		return 0
	}
	return personGrace
}
