package machine

import (
	"os"
	"path/filepath"
	"strings"

	"gangway/device/install"
)

// Folders in which the kernel shows the firmware's variables, disks and partitions.
const (
	Firmware = install.Firmware("/sys/firmware/efi/efivars")
	SysBlock = "/sys/block"       // disks
	SysClass = "/sys/class/block" // disks and partitions
)

// IsFAT reports whether a partition or an image file has a FAT32 file system.
func IsFAT(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 512)
	_, err = f.ReadAt(b, 0)
	return err == nil && string(b[82:87]) == "FAT32" // BS_FilSysType
}

// DiskOf returns the disk of a partition. `class` is a folder like SysClass: it has a link to the
// folder of each disk and partition, and a partition's folder is in the folder of its disk. If
// `name` is not the name of a partition, DiskOf returns `name` unchanged.
func DiskOf(class, name string) string {
	place, err := filepath.EvalSymlinks(filepath.Join(class, name))
	if err != nil {
		return name
	}
	if _, err := os.Stat(filepath.Join(place, "partition")); err != nil {
		return name
	}
	return filepath.Base(filepath.Dir(place))
}

// MountedAt returns the name, in /dev, of the partition that is mounted at the folder `dir`, or ""
// if there is none. `mounts` is a file like /proc/mounts.
func MountedAt(mounts, dir string) string {
	b, err := os.ReadFile(mounts)
	if err != nil {
		return ""
	}
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) > 1 && f[1] == dir {
			return strings.TrimPrefix(f[0], "/dev/")
		}
	}
	return ""
}
