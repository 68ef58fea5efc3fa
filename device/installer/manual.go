package installer

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Manual runs a shell on each terminal, and starts it again when it ends, until a person asks to
// restart the machine or to switch it off. These requests come as the signals that busybox's reboot
// (SIGTERM), poweroff (SIGUSR2) and halt (SIGUSR1) send. It does not return.
func (i *Installer) Manual(terminals []string, shell func(terminal string) error, requests <-chan os.Signal) {
	if _, err := i.Sticks.Find(i.Manifest, stickWait); err != nil {
		i.Screen.Logf("%v", err)
	}
	if err := i.TPM.Check(); err != nil {
		i.Screen.Logf("%v", err)
	}
	i.Screen.Logf("pvf-install lists the disks and installs; reboot restarts.")
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
