package machine

import (
	"fmt"
	"gangway/device/screen"
	"os"

	"golang.org/x/sys/unix"
)

// MountAll mounts the kernel's file systems and one in memory, and tries all
// of them.
func MountAll() (errs []error) {
	for _, m := range []struct {
		kind, at string
		flags    uintptr
		data     string
	}{
		{"proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
		{"securityfs", "/sys/kernel/security", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=0755"},
	} {
		err := os.MkdirAll(m.at, 0o755)
		if err == nil {
			err = unix.Mount(m.kind, m.at, m.kind, m.flags, m.data)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("mounting %s at %s: %w", m.kind, m.at, err))
		}
	}
	return errs
}

// MountFirmware mounts the firmware's variables, whose module may just have
// been loaded.
func MountFirmware() {
	const at = "/sys/firmware/efi/efivars"
	if err := unix.Mount("efivarfs", at, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		screen.Say("mounting the firmware's variables: %v", err)
	}
}
