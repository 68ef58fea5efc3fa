package machine

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"gangway/device/install/luks"
	"gangway/device/install/seal"
	"gangway/device/screen"

	"golang.org/x/sys/unix"
)

// The device mapper's commands (linux/dm-ioctl.h): _IOWR(0xfd, n, struct
// dm_ioctl), whose size is 312.
const (
	dmControl   = "/dev/mapper/control"
	dmHeader    = 312
	dmCreate    = 0xC138FD03
	dmResume    = 0xC138FD06 // DM_DEV_SUSPEND without its flag
	dmTableLoad = 0xC138FD09
)

// dm sends a command for the device of a name, with what follows its header.
// It returns the device's number.
func dm(control *os.File, command uintptr, name string, data []byte) (dev uint64, err error) {
	b := make([]byte, dmHeader+len(data))
	ne := binary.NativeEndian
	ne.PutUint32(b, 4) // version 4.0.0
	ne.PutUint32(b[12:], uint32(len(b)))
	ne.PutUint32(b[16:], dmHeader)
	if len(data) > 0 {
		ne.PutUint32(b[20:], 1) // targets
	}
	copy(b[48:48+127], name)
	copy(b[dmHeader:], data)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, control.Fd(), command, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return 0, fmt.Errorf("device mapper: %w", e)
	}
	return ne.Uint64(b[40:]), nil
}

// decrypt makes the kernel decrypt a partition, and returns its clear device.
func decrypt(partition string, key luks.Key) (string, error) {
	size, err := sizeOf(partition)
	if err != nil {
		return "", err
	}
	control, err := os.OpenFile(dmControl, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("device mapper: %w", err)
	}
	defer control.Close()
	const name = "gangway-data"
	params := fmt.Sprintf("aes-xts-plain64 %s 0 %s %d", hex.EncodeToString(key), partition, luks.Overhead/512)
	target := make([]byte, 40, 40+len(params)+8)
	binary.NativeEndian.PutUint64(target[8:], uint64(size-luks.Overhead)/512)
	copy(target[24:], "crypt")
	target = append(target, params...)
	target = append(target, make([]byte, 8-len(params)%8)...) // a zero at least
	defer clear(target)
	dev, err := dm(control, dmCreate, name, nil)
	if err != nil {
		return "", err
	}
	if _, err := dm(control, dmTableLoad, name, target); err != nil {
		return "", fmt.Errorf("%w; are the modules for encryption there?", err)
	}
	if _, err := dm(control, dmResume, name, nil); err != nil {
		return "", err
	}
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(dev)), nil
}

func sizeOf(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Seek(0, 2)
}

// ClearDevice is the partition itself, or what decrypts it: its key is in the
// TPM.
func ClearDevice(partition string) (string, error) {
	f, err := os.Open(partition)
	if err != nil {
		return "", err
	}
	defer f.Close()
	magic := make([]byte, len(luks.Magic))
	if _, err := f.ReadAt(magic, 0); err != nil {
		return "", err
	}
	if string(magic) != luks.Magic {
		return partition, nil
	}
	token, err := luks.Token(f, seal.TokenType)
	if err != nil {
		return "", err
	}
	t, err := OpenTPM()
	if err != nil {
		return "", err
	}
	defer t.Close()
	passphrase, err := seal.Open(t, token)
	if errors.Is(err, seal.ErrOther) {
		return "", seal.ErrOther
	}
	if err != nil {
		return "", err
	}
	key, err := luks.Open(f, passphrase)
	if err != nil {
		return "", err
	}
	screen.Say("the disk's key came from the TPM")
	return decrypt(partition, key)
}
