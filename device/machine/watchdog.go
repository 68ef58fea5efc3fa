package machine

import (
	"gangway/device/screen"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const watchdogPath = "/dev/watchdog"

// How long the watchdog waits before it resets the machine, in seconds, and
// how often it is told not to. Tests set another time when they build this
// program.
const watchdogTime = 60

var WatchdogEvery = "15s"

// Watchdog has the machine reset where this program does not run any more. A
// machine without a watchdog goes without.
func Watchdog() {
	f, err := os.OpenFile(watchdogPath, os.O_WRONLY, 0)
	if err != nil {
		screen.Say("no watchdog: %v", err)
		return
	}
	defer f.Close() // the driver goes on, for it is not told to stop
	every, err := time.ParseDuration(WatchdogEvery)
	if err != nil {
		every = 15 * time.Second
	}
	seconds := watchdogTime
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, seconds); err != nil {
		screen.Say("watchdog: %v", err) // its own time then
	}
	screen.Say("watchdog: %s, %d s", watchdogName(), seconds)
	for {
		if _, err := f.Write([]byte{0}); err != nil {
			screen.Say("watchdog: %v", err)
			return
		}
		time.Sleep(every)
	}
}

func watchdogName() string {
	b, err := os.ReadFile("/sys/class/watchdog/watchdog0/identity")
	if err != nil {
		return "a watchdog"
	}
	return strings.TrimSpace(string(b))
}
