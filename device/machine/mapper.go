package machine

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"gangway/device/install/diskkey"
	"gangway/device/install/luks"
	"gangway/device/install/seal"
	"gangway/device/install/storagekey"

	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"
)

// Commands of the device mapper (linux/dm-ioctl.h): _IOWR(0xfd, n, struct dm_ioctl). The struct
// has 312 bytes.
const (
	dmControl   = "/dev/mapper/control"
	dmHeader    = 312
	dmCreate    = 0xC138FD03
	dmResume    = 0xC138FD06 // DM_DEV_SUSPEND without the suspend flag
	dmTableLoad = 0xC138FD09
)

// dm sends a command about the device `name` to the device mapper, with `data` after the command's
// header. It returns the device's number.
func dm(control *os.File, command uintptr, name string, data []byte) (dev uint64, err error) {
	b := make([]byte, dmHeader+len(data))
	ne := binary.NativeEndian
	ne.PutUint32(b, 4) // version 4.0.0 of the interface
	ne.PutUint32(b[12:], uint32(len(b)))
	ne.PutUint32(b[16:], dmHeader)
	if len(data) > 0 {
		ne.PutUint32(b[20:], 1) // number of targets
	}
	copy(b[48:48+127], name)
	copy(b[dmHeader:], data)
	defer clear(b) // the table in `b` contains the disk's key
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, control.Fd(), command, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return 0, fmt.Errorf("device mapper: %w", e)
	}
	return ne.Uint64(b[40:]), nil
}

// cryptTarget returns a struct dm_target_spec with the parameters of dm-crypt for a partition of
// `size` bytes. The result contains the key, so the caller must clear it.
func cryptTarget(partition string, size int64, key luks.Key) []byte {
	params := fmt.Sprintf("aes-xts-plain64 %s 0 %s %d", hex.EncodeToString(key), partition, luks.Overhead/512)
	target := make([]byte, 40, 40+len(params)+8)
	binary.NativeEndian.PutUint64(target[8:], uint64(size-luks.Overhead)/512)
	copy(target[24:], "crypt")
	target = append(target, params...)
	return append(target, make([]byte, 8-len(params)%8)...) // at least one zero byte, up to a multiple of 8 bytes
}

// decrypt makes the kernel decrypt a partition, and returns the path of the device with the clear
// data.
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
	target := cryptTarget(partition, size, key)
	defer clear(target)
	dev, err := dm(control, dmCreate, name, nil)
	if err != nil {
		return "", err
	}
	if _, err := dm(control, dmTableLoad, name, target); err != nil {
		return "", fmt.Errorf("%w; the image may lack the modules for encryption", err)
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
	return f.Seek(0, io.SeekEnd)
}

// UnlockData returns the device with the clear data of a data partition. If the partition is not
// encrypted, that device is the partition itself. Otherwise it is a device that decrypts the
// partition with the key from the TPM. If the TPM does not release the key, the error is
// seal.ErrNotReleased, or storagekey.ErrOther if the TPM does not have the storage key that the disk's
// header names. If the disk has a PIN, UnlockData calls `ask` until an answer opens the disk.
func UnlockData(partition string, ask Ask) (device string, encrypted bool, err error) {
	f, err := os.Open(partition)
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	if encrypted, err := isEncrypted(f); err != nil {
		return "", false, err
	} else if !encrypted {
		return partition, false, nil
	}
	t, noTPM := OpenTPM()
	if noTPM == nil {
		defer t.Close()
	}
	key, err := volumeKey(t, noTPM, f, ask)
	if err != nil {
		return "", true, err
	}
	device, err = decrypt(partition, key)
	return device, true, err
}

// volumeKey returns the key of an encrypted disk. All its steps use one storage key, which stays
// loaded while a person types the PIN. So an interposer on the TPM's bus cannot let the TPM release
// the boot's half of the passphrase with the true key, and then have the PIN encrypted to another key.
// If `noTPM` is not nil, it says why there is no TPM `t`.
func volumeKey(t transport.TPM, noTPM error, disk io.ReaderAt, ask Ask) (luks.Key, error) {
	held := storagekey.Hold(t)
	defer held.Close()
	release := func() ([]byte, error) {
		if noTPM != nil {
			return nil, noTPM
		}
		return released(held, disk)
	}
	pin, err := diskkey.HasPIN(disk)
	if err != nil {
		return nil, err
	}
	if pin {
		return askKey(held, disk, release, ask)
	}
	passphrase, err := release()
	if err != nil {
		return nil, err
	}
	return luks.Open(disk, passphrase)
}

// released returns the disk's passphrase, if the TPM releases it to the system that the machine has
// started.
func released(t *storagekey.Held, disk io.ReaderAt) ([]byte, error) {
	approvals, err := extraApprovals()
	if err != nil {
		return nil, err
	}
	passphrase, err := diskkey.Unlock(t, disk, approvals)
	if errors.Is(err, seal.ErrNotApproved) {
		return nil, seal.ErrNotApproved
	}
	if errors.Is(err, seal.ErrNotReleased) {
		return nil, seal.ErrNotReleased // the person at the machine does not need the TPM's response code
	}
	return passphrase, err
}
