package qemu

import (
	"io"
	"os"
	"path/filepath"
	"time"
)

// Person is the person in front of a machine that no test controls. The machine's serial port is
// the person's terminal; Ctrl-A X switches the machine off (QEMU's multiplexer).
type Person struct {
	In  *os.File
	Out io.Writer
	// Window opens a window with the machine's screen. VNC is the display of a VNC server with the
	// screen, as QEMU writes it ("127.0.0.1:1"); empty: none. Both need Config.Screen.
	Window bool
	VNC    string
}

// personGrace is how long QEMU may take to end when it is asked to. It then gives the terminal
// back.
const personGrace = 3 * time.Second

// windowModules is where Debian's packages put the module for windows.
var windowModules = []string{"/usr/lib/x86_64-linux-gnu/qemu/ui-gtk.so", "/usr/lib/qemu/ui-gtk.so", "/usr/lib64/qemu-kvm/ui-gtk.so"}

// Missing is like the function Missing, for what a machine for a person needs.
func (p *Person) Missing() string {
	files := []required{{codePath, "ovmf"}, {varsPath, "ovmf"}}
	if p.Window {
		files = append(files, required{firstOf(windowModules), "qemu-system-gui"})
	}
	return missing(files...)
}

// firstOf returns the first of the files that exists, or the first file.
func firstOf(files []string) string {
	for _, f := range files {
		if _, err := os.Stat(filepath.Clean(f)); err == nil {
			return f
		}
	}
	return files[0]
}

// The methods below return what QEMU's options say with a person, and without one (nil).

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
