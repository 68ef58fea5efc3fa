package machine

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The constant `guarded` has the mount flags for file systems from which no program may be
// executed.
const guarded = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// kernelMounts lists what Mount mounts: the kernel's own file systems, and a file system in memory.
var kernelMounts = []struct {
	kind, at string
	flags    uintptr
	data     string
}{
	{"proc", "/proc", guarded, ""},
	{"sysfs", "/sys", guarded, ""},
	{"devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
	{"securityfs", "/sys/kernel/security", guarded, ""},
	{"tmpfs", "/run", guarded, "mode=0755"},
}

// mounter has the parameters and the result of unix.Mount.
type mounter func(source, target, kind string, flags uintptr, data string) error

// Mount mounts the kernel's file systems, and a file system in memory at /run. If one mount fails,
// it continues with the others.
func Mount() []error { return mountKernel("/", unix.Mount) }

func mountKernel(root string, mount mounter) (errs []error) {
	for _, m := range kernelMounts {
		at := filepath.Join(root, m.at)
		err := os.MkdirAll(at, 0o755)
		if err == nil {
			err = mount(m.kind, at, m.kind, m.flags, m.data)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("mounting %s at %s: %w", m.kind, at, err))
		}
	}
	return errs
}

// MountFirmware mounts the file system of the firmware's variables (efivarfs). Call it after
// LoadModules, because this file system may be a kernel module.
func MountFirmware() error {
	if err := unix.Mount("efivarfs", string(Firmware), "efivarfs", guarded, ""); err != nil {
		return fmt.Errorf("mounting the firmware's variables: %w", err)
	}
	return nil
}

// MountFAT mounts the partition with this name in /dev, such as an EFI system partition, as FAT.
func MountFAT(name, at string, flags uintptr) error {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("/dev/"+name, at, "vfat", flags|guarded, "codepage=437,iocharset=ascii,umask=0077,errors=remount-ro"); err != nil {
		return fmt.Errorf("mounting %s at %s: %w", name, at, err)
	}
	return nil
}

// MountData mounts the data partition of an installed system. If the partition is encrypted,
// `device` is the path of the device that decrypts the partition.
func MountData(device, at string) error {
	err := os.MkdirAll(at, 0o700)
	if err == nil {
		err = unix.Mount(device, at, "ext4", guarded|unix.MS_NOATIME, "errors=remount-ro")
	}
	return err
}

// SetSynchronous switches synchronous writing on or off for the file system that MountFAT has
// mounted. If `on` is true, a write returns only when its data is on the disk.
func SetSynchronous(at string, on bool) error {
	flags := uintptr(unix.MS_REMOUNT | guarded)
	if on {
		flags |= unix.MS_SYNCHRONOUS
	}
	return unix.Mount("", at, "", flags, "")
}

// Unmount unmounts a file system. If `force` is true, it also unmounts a file system that is still
// in use.
func Unmount(at string, force bool) error {
	flags := 0
	if force {
		flags = unix.MNT_DETACH
	}
	return unix.Unmount(at, flags)
}
