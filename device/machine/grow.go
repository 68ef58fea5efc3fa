package machine

import (
	"fmt"
	"gangway/device/screen"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resizeFS is EXT4_IOC_RESIZE_FS: _IOW('f', 16, __u64), blocks.
const resizeFS = 0x40086610

// Grow makes the mounted ext4 file system as large as its partition. It may be
// cut short at any moment: the file system's journal covers it.
func Grow(dev, at string) error {
	f, err := os.Open(dev)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, 2)
	f.Close()
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return err
	}
	blocks := uint64(size) / uint64(st.Bsize)
	if st.Blocks >= blocks/10*9 { // the file system's own tables are not counted
		return nil
	}
	d, err := os.Open(at)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks))); e != 0 {
		return fmt.Errorf("to %d blocks: %w", blocks, e)
	}
	screen.Say("data partition: %d MiB", size>>20)
	return nil
}
