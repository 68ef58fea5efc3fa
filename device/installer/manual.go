package installer

import (
	"gangway/device/machine"
	"gangway/device/screen"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// Manual gives a shell on each console. It ends with the machine's restart.
func Manual(manifest string) {
	if _, err := findStick(manifest, stickWait); err != nil {
		screen.Say("%v", err)
	}
	if wrong := machine.HasTPM(); wrong != "" {
		screen.Say("%s", wrong)
	}
	screen.Say("pvf-install lists the disks and installs; reboot restarts.")
	screen.Consoles.Lock()
	names := screen.Consoles.Names
	screen.Consoles.Unlock()
	for _, name := range names {
		if screen.IsScreen(name) {
			name = "tty1" // tty0 is whichever is in front
		}
		go shell("/dev/" + name)
	}
	// What busybox's reboot, poweroff and halt send to the first process.
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2)
	if <-c == unix.SIGTERM {
		machine.Restart()
	}
	machine.PowerOff()
}

// shell runs a shell on a console, again and again.
func shell(console string) {
	for {
		if err := machine.Shell(console); err != nil {
			screen.Say("shell on %s: %v", console, err)
		}
		time.Sleep(time.Second)
	}
}
