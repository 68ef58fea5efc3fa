package machine

import (
	"gangway/device/screen"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func PowerOff() {
	screen.Say("power off")
	leave(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func Restart() {
	screen.Say("restart")
	leave(unix.LINUX_REBOOT_CMD_RESTART)
}

func leave(how int) {
	unix.Sync()
	if err := unix.Reboot(how); err != nil {
		screen.Say("the machine does not switch itself off: %v", err)
	}
	for { // the kernel panics when its first process ends
		time.Sleep(time.Hour)
	}
}

// CommandLine is the kernel's, as words; those with = are split there.
func CommandLine() map[string]string {
	words := map[string]string{}
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		screen.Say("command line: %v", err)
	}
	for w := range strings.FieldsSeq(string(b)) {
		k, v, _ := strings.Cut(w, "=")
		words[k] = v
	}
	return words
}
