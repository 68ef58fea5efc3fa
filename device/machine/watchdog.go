package machine

import (
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// watchdogTimeout is the time, in seconds, after which the watchdog resets the machine if it gets
// no keepalive.
const watchdogTimeout = 60

// WatchdogEvery is the time between two keepalives.
const WatchdogEvery = 15 * time.Second

// watchdogDevice is /dev/watchdog.
type watchdogDevice interface {
	io.Writer // writing any byte except 'V' is a keepalive
	SetTimeout(seconds int) error
}

type watchdogFile struct{ *os.File }

func (f watchdogFile) SetTimeout(seconds int) error {
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, seconds)
}

// Watchdog sends a keepalive to the machine's watchdog at the interval `every`. If this program
// stops running, the watchdog resets the machine. Watchdog returns only on an error, or if the
// machine has no watchdog.
func Watchdog(every time.Duration, logf func(format string, args ...any)) {
	f, err := os.OpenFile("/dev/watchdog", os.O_WRONLY, 0)
	if err != nil {
		logf("no watchdog: %v", err)
		return
	}
	defer f.Close() // closing without writing 'V' (the "magic close") leaves the watchdog armed
	name := "a watchdog"
	if b, err := os.ReadFile("/sys/class/watchdog/watchdog0/identity"); err == nil {
		name = strings.TrimSpace(string(b))
	}
	keepAlive(watchdogFile{f}, name, every, logf)
}

func keepAlive(d watchdogDevice, name string, every time.Duration, logf func(format string, args ...any)) {
	if err := d.SetTimeout(watchdogTimeout); err != nil {
		logf("watchdog: %v", err) // not fatal: the watchdog then uses its default timeout
	}
	logf("watchdog: %s, %d s", name, watchdogTimeout)
	for {
		if _, err := d.Write([]byte{0}); err != nil {
			logf("watchdog: %v", err)
			return
		}
		time.Sleep(every)
	}
}
