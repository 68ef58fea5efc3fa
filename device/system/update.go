package system

import (
	"errors"
	"fmt"
	"os"
	"time"

	"gangway/device/install/slots"
	"gangway/device/machine"
	"gangway/device/screen"

	"golang.org/x/sys/unix"
)

// updater is what updates this machine, once its disk is mounted.
var updater = slots.Hook{
	ESP: slots.ESP{Dir: espDir, Firmware: machine.Firmware}, Dir: dataDir + "/gangway-system", Volatile: "/run/gangway-system",
	Synchronous: synchronous, Out: os.Stdout,
	Restart: func() error {
		unix.Sync()
		if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
			return err
		}
		return errors.New("the machine does not restart")
	},
}

// TrialTime is how long a new system may take until the agent makes it
// permanent. The agent's own bound, to reach the hub, is 10 minutes; this one
// holds where the agent does not come so far. Tests set another one when they
// build this program.
var TrialTime = "20m"

func patience() time.Duration { return duration(TrialTime, 20*time.Minute) }

// duration reads a bound that a build may set.
func duration(text string, otherwise time.Duration) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		return otherwise
	}
	return d
}

// trial says which slot runs, and if it is only tried, restarts the machine
// unless the slot is made permanent in time: so it falls back.
func trial() {
	running, kept, tried, err := updater.Trial()
	switch {
	case err != nil:
		screen.Say("%v", err)
	case !tried && running != kept:
		screen.Note("System", fmt.Sprintf("slot %s, for slot %s does not start", running, kept))
	case !tried:
		screen.Note("System", "slot "+running.String())
	default:
		screen.Note("System", fmt.Sprintf("slot %s, which is tried; slot %s is kept", running, kept))
		go func() {
			time.Sleep(patience())
			if kept, err := updater.ESP.Default(); err == nil && kept == running {
				return
			}
			screen.Alarm("This new system was not made permanent within %s. Starting the former one.", patience())
			machine.Restart()
		}()
	}
}

// Hook is what the agent calls for a revision, gangway-hook VERB FOLDER, and
// for what the owner has set.
func Hook(args []string) int {
	if len(args) != 2 {
		fmt.Fprintln(os.Stderr, "gangway-hook is called by gangway-agent: gangway-hook install|reboot|test|commit|rollback FOLDER, or user-meta FILE")
		return 2
	}
	if args[0] == "user-meta" {
		return userMetaHook(args[1])
	}
	return updater.Do(args[0], args[1])
}

// synchronous sets whether the EFI system partition is written to at once.
func synchronous(on bool) {
	flags := uintptr(unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if on {
		flags |= unix.MS_SYNCHRONOUS
	}
	if err := unix.Mount("", espDir, "", flags, ""); err != nil {
		fmt.Printf("%s: %v\n", espDir, err)
	}
}
