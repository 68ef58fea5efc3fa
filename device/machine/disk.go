package machine

import (
	"fmt"
	"gangway/device/install"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Where the kernel has the firmware's variables, and the disks.
const (
	Firmware = install.Firmware("/sys/firmware/efi/efivars")
	SysBlock = "/sys/block"
)

func IsFAT(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 512)
	_, err = f.ReadAt(b, 0)
	return err == nil && string(b[82:87]) == "FAT32"
}

func MountFAT(name, at string, flags uintptr) error {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	err := unix.Mount("/dev/"+name, at, "vfat", flags|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "codepage=437,iocharset=ascii,umask=0077,errors=remount-ro")
	if err != nil {
		return fmt.Errorf("mounting %s at %s: %w", name, at, err)
	}
	return nil
}

// DiskOf returns the disk that a partition is on: in /sys its folder is in the
// disk's.
func DiskOf(name string) string {
	place, err := filepath.EvalSymlinks("/sys/class/block/" + name)
	if err != nil {
		return name
	}
	if _, err := os.Stat(filepath.Join(place, "partition")); err != nil {
		return name
	}
	return filepath.Base(filepath.Dir(place))
}
