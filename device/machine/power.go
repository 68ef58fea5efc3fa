package machine

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Power switches the machine off or restarts it.
type Power struct {
	Logf func(format string, args ...any)

	sync   func()              // default: unix.Sync
	reboot func(how int) error // default: unix.Reboot
	wait   func()              // called if the machine is still on; default: sleep for an hour
}

// PowerOff switches the machine off. It does not return.
func (p Power) PowerOff() {
	p.Logf("power off")
	p.leave(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// Restart restarts the machine. It does not return.
func (p Power) Restart() {
	p.Logf("restart")
	p.leave(unix.LINUX_REBOOT_CMD_RESTART)
}

func (p Power) leave(how int) {
	if p.sync == nil {
		p.sync, p.reboot, p.wait = unix.Sync, unix.Reboot, func() { time.Sleep(time.Hour) }
	}
	p.sync()
	if err := p.reboot(how); err != nil {
		p.Logf("switching the machine off failed: %v", err)
	}
	for { // never return, because the kernel panics when its first process ends
		p.wait()
	}
}

// RestartNow restarts the machine for a program that is not the first process. It returns only on
// an error.
func RestartNow() error {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		return err
	}
	return errors.New("the kernel did not restart the machine; switch the machine off and on")
}
