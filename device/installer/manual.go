package installer

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Manual runs a shell on each terminal. When a shell ends, Manual starts a new shell. It restarts
// the machine or switches it off when a person requests this. The requests are signals from
// busybox: reboot sends SIGTERM, poweroff SIGUSR2, halt SIGUSR1. Manual does not return.
func (i *Installer) Manual(terminals []string, shell func(terminal string) error, requests <-chan os.Signal) {
	if _, err := i.Sticks.Find(i.Manifest, stickWait); err != nil {
		i.Screen.Logf("%v", err)
	}
	if err := i.TPM.Check(); err != nil {
		i.Screen.Logf("%v", err)
	}
	i.Screen.Logf("To list the disks and install, type pvf-install. To restart, type reboot.")
	for _, terminal := range terminals {
		go func() {
			for {
				if err := shell(terminal); err != nil {
					i.Screen.Logf("shell on %s: %v", terminal, err)
				}
				time.Sleep(time.Second)
			}
		}()
	}
	if <-requests == unix.SIGTERM {
		i.Power.Restart()
	}
	i.Power.PowerOff()
}
