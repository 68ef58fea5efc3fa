package slots

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gangway/device/install"

	"golang.org/x/sys/unix"
)

// Slot names one of the disk's two files that can contain a system.
type Slot byte

// The slots. None means a boot entry that is not a slot.
const (
	None Slot = 0
	A    Slot = 'a'
	B    Slot = 'b'
)

func (s Slot) String() string {
	if s == None {
		return "none"
	}
	return string(rune(s))
}

// Other returns the other slot.
func (s Slot) Other() Slot { return A + B - s }

// Entry returns the name of the slot's file, and of its boot entry.
func (s Slot) Entry() string { return "gangway-" + string(rune(s)) + ".efi" }

// folder is the folder in which the boot manager looks for systems.
const folder = "EFI/Linux"

// LoaderConf is the path of the boot manager's settings in the EFI system partition.
const LoaderConf = "loader/loader.conf"

// Conf returns the text of the file LoaderConf with `s` as the default slot.
func Conf(s Slot) []byte { return []byte("timeout 0\neditor no\ndefault " + s.Entry() + "\n") }

// slotOf returns the slot of a boot entry. The entry's name may include an attempt counter.
func slotOf(entry string) Slot {
	name, _ := install.Uncounted(strings.ToLower(entry))
	for _, s := range []Slot{A, B} {
		if name == s.Entry() {
			return s
		}
	}
	return None
}

// ESP is a machine's EFI system partition, and the variables of its firmware.
type ESP struct {
	Dir      string // mount point
	Firmware install.Firmware
	// The function `before`, if set, is called before each change, with a description of the
	// change. Tests use it to simulate a power cut.
	before func(change string)
	free   func() (int64, error) // returns the free space in bytes; if set, used instead of statfs(2)
}

func (e *ESP) changing(format string, args ...any) {
	if e.before != nil {
		e.before(fmt.Sprintf(format, args...))
	}
}

func (e *ESP) path(s Slot) string { return filepath.Join(e.Dir, folder, s.Entry()) }

// File returns the path of a slot's file. Until the slot's system has booted successfully once, the
// file's name has the boot manager's counter of attempts. If the slot is empty, the error is
// fs.ErrNotExist.
func (e *ESP) File(s Slot) (string, error) {
	entries, err := os.ReadDir(filepath.Join(e.Dir, folder))
	if err != nil {
		return "", err
	}
	for _, one := range entries {
		if slotOf(one.Name()) == s {
			return filepath.Join(e.Dir, folder, one.Name()), nil
		}
	}
	return "", fmt.Errorf("slot %s: %w", s, fs.ErrNotExist)
}

// Running returns the slot that the boot manager started.
func (e *ESP) Running() (Slot, error) {
	name, err := e.Firmware.Selected()
	if err != nil {
		return None, err
	}
	if s := slotOf(name); s != None {
		return s, nil
	}
	return None, fmt.Errorf("the boot manager started %q, which is not a slot", name)
}

// Default returns the default slot. The machine boots this slot if Try has not chosen the other
// slot for the next boot.
func (e *ESP) Default() (Slot, error) {
	s, _, err := e.defaultSlot()
	return s, err
}

// defaultSlot returns the slot that LoaderConf names, and the offset of the slot's letter in the
// file.
func (e *ESP) defaultSlot() (s Slot, at int64, err error) {
	b, err := os.ReadFile(filepath.Join(e.Dir, LoaderConf))
	if err != nil {
		return None, 0, err
	}
	for line := range bytes.Lines(b) {
		if words := bytes.Fields(line); len(words) == 2 && string(words[0]) == "default" {
			if s := slotOf(string(words[1])); s != None && string(words[1]) == s.Entry() {
				return s, at + int64(bytes.Index(line, words[1])+len("gangway-")), nil
			}
		}
		at += int64(len(line))
	}
	return None, 0, fmt.Errorf("%s names no slot", LoaderConf)
}

// SetDefault makes a slot the default. It changes one letter of LoaderConf.
func (e *ESP) SetDefault(s Slot) error {
	was, at, err := e.defaultSlot()
	if err != nil || was == s {
		return err
	}
	f, err := os.OpenFile(filepath.Join(e.Dir, LoaderConf), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	e.changing("default %s", s)
	_, err = f.WriteAt([]byte{byte(s)}, at)
	return errors.Join(err, f.Sync(), f.Close())
}

// Try makes the machine boot a slot, at the next boot only. If an installer stick starts at that
// boot, it records this in the firmware (install.Firmware.NoteStick).
func (e *ESP) Try(s Slot) error {
	if err := e.Firmware.ForgetStick(); err != nil {
		return err
	}
	e.changing("try %s", s)
	return e.Firmware.StartOnce(s.Entry())
}

// DoNotTry cancels Try.
func (e *ESP) DoNotTry() error {
	e.changing("do not try")
	return e.Firmware.StartOnce("")
}

// Sum returns the SHA-256 of a slot's file in lower-case hexadecimal. If the file does not exist,
// the result is empty.
func (e *ESP) Sum(s Slot) (string, error) {
	f, err := os.Open(e.path(s))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	return digest(f)
}

// Remove makes a slot unbootable and then deletes its file.
func (e *ESP) Remove(s Slot) error {
	f, err := os.OpenFile(e.path(s), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := errors.Join(e.disarm(f, s), f.Close()); err != nil {
		return err
	}
	e.changing("remove %s", s)
	return errors.Join(os.Remove(e.path(s)), e.flush())
}

// flush writes the file system's pending changes to the disk.
func (e *ESP) flush() error {
	d, err := os.Open(filepath.Join(e.Dir, folder))
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// Fits returns an error if the EFI system partition has no room for a system of `size` bytes in a
// slot.
func (e *ESP) Fits(s Slot, size int64) error {
	free := e.free
	if free == nil {
		free = e.statfs
	}
	room, err := free()
	if err != nil {
		return err
	}
	room -= reserve
	if info, err := os.Stat(e.path(s)); err == nil {
		room += info.Size()
	}
	if size > room {
		return fmt.Errorf("the system has %d MiB; the EFI system partition has room for %d MiB", size>>20, max(room, 0)>>20)
	}
	return nil
}

func (e *ESP) statfs() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(e.Dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// reserve is the space that stays free on the EFI system partition, in bytes.
const reserve = 1 << 20
