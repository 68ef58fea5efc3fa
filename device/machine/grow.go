package machine

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resizeFS is EXT4_IOC_RESIZE_FS: _IOW('f', 16, __u64), in blocks.
const resizeFS = 0x40086610

// Grow makes the ext4 file system of the device `dev` as large as the device. The file system must
// be mounted at the folder `at`. Grow returns the new size in bytes, or 0 if the file system
// already had that size. A power cut at any moment does no harm, because the file system's journal
// covers the change.
func Grow(dev, at string) (size int64, err error) {
	size, err = sizeOf(dev)
	if err != nil {
		return 0, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return 0, err
	}
	blocks := uint64(size) / uint64(st.Bsize)
	if !smaller(st.Blocks, blocks) {
		return 0, nil
	}
	d, err := os.Open(at)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks))); e != 0 {
		return 0, fmt.Errorf("to %d blocks: %w", blocks, e)
	}
	return size, nil
}

// The function `smaller` reports whether a file system is smaller than its device. `blocks` is the
// device's number of blocks. `have` is the number of blocks that the file system reports. This
// number excludes the file system's own tables, which use at most a tenth of the device.
func smaller(have, blocks uint64) bool { return have < blocks/10*9 }
