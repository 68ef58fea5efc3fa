package install

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is the block device or image file to which a system is installed.
type Device struct {
	*os.File
	size, sector int64
	block        bool
}

// OpenDevice opens a disk for exclusive use. It fails if the disk is mounted, or if another
// program or device uses it.
func OpenDevice(path string) (*Device, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("install: %s is in use: unmount its partitions", path)
	}
	if err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		d := &Device{File: f, block: info.Mode()&os.ModeDevice != 0}
		if d.size, err = f.Seek(0, io.SeekEnd); err == nil {
			d.sector, err = sectorSize(f)
		}
		if err == nil {
			return d, nil
		}
	}
	f.Close()
	return nil, fmt.Errorf("install: %w", err)
}

// Size returns the size of the device, in bytes.
func (d *Device) Size() int64 { return d.size }

// Sector returns the size of the device's logical sectors, in bytes.
func (d *Device) Sector() int64 { return d.sector }

// sectorSize returns the size of a device's logical sectors, in bytes. For an image file it is the
// sector size of the file's partition table, or 512 if there is no table.
func sectorSize(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if info.Mode()&os.ModeDevice != 0 {
		n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
		if err != nil {
			return 0, fmt.Errorf("BLKSSZGET: %w", err)
		}
		return int64(n), nil
	}
	magic := make([]byte, 8)
	if _, err := f.ReadAt(magic, largeSector); err == nil && string(magic) == "EFI PART" {
		return largeSector, nil
	}
	return sector, nil
}

// Flush writes all data to the device itself and drops the kernel's cached copy.
func (d *Device) Flush() error {
	if err := d.Sync(); err != nil {
		return err
	}
	if d.block {
		if err := unix.IoctlSetInt(int(d.Fd()), unix.BLKFLSBUF, 0); err != nil {
			return fmt.Errorf("BLKFLSBUF: %w", err)
		}
	}
	return nil
}

// Zero fills a range of the device with zeros. If the device supports a command for this, Zero uses
// the command and writes no data.
func (d *Device) Zero(at, size int64) error {
	if d.block {
		r := [2]uint64{uint64(at), uint64(size)}
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&r))); e == 0 {
			return nil
		}
	}
	zero := make([]byte, mib)
	for size > 0 {
		n, err := d.WriteAt(zero[:min(size, mib)], at)
		if err != nil {
			return err
		}
		at, size = at+int64(n), size-int64(n)
	}
	return nil
}

// Reread makes the kernel read the new partition table.
func (d *Device) Reread() error {
	if err := unix.IoctlSetInt(int(d.Fd()), unix.BLKRRPART, 0); err != nil {
		return fmt.Errorf("install: reading the new partition table: %w", err)
	}
	return nil
}

// Discard marks a range of the device as unused (TRIM).
func (d *Device) Discard(at, size int64) error {
	if !d.block {
		return nil
	}
	r := [2]uint64{uint64(at), uint64(size)}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&r))); e != 0 {
		return fmt.Errorf("BLKDISCARD: %w", e)
	}
	return nil
}
