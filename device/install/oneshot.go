package install

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Selected returns the name of the entry that the boot manager has started.
func (f Firmware) Selected() (string, error) {
	s, err := f.text("LoaderEntrySelected")
	if err != nil {
		return "", fmt.Errorf("install: the boot manager does not say what it has started: %w", err)
	}
	return s, nil
}

// oneShot names what the boot manager starts the next time alone: it removes
// the variable before it does.
const oneShot = "LoaderEntryOneShot"

// immutable is FS_IMMUTABLE_FL (linux/fs.h).
const immutable = 0x10

// StartOnce has the boot manager start an entry the next time, and that time
// alone. An empty name takes that back.
//
// That firmware removes the variable when it is told is tried first: with one
// that does not, the entry would be started for ever.
func (f Firmware) StartOnce(entry string) error {
	if entry != "" {
		if err := f.setOneShot(entry); err != nil {
			return err
		}
	}
	err := f.remove(oneShot, loaderVendor)
	if err == nil && entry != "" {
		err = f.setOneShot(entry)
	}
	return err
}

func (f Firmware) setOneShot(entry string) error {
	name, value := f.path(oneShot, loaderVendor), utf16z(entry)
	if err := mutable(name); err != nil {
		return err
	}
	b := append(binary.LittleEndian.AppendUint32(nil, attributes), value...)
	w, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o644)
	if err == nil {
		_, err = w.Write(b) // by one write, or not at all
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		return fmt.Errorf("install: the firmware's variable %s: %w", oneShot, err)
	}
	if got, err := f.read(oneShot, loaderVendor); err != nil || !slices.Equal(got, value) {
		return errors.Join(fmt.Errorf("install: firmware does not keep the variable %s", oneShot), err)
	}
	return nil
}

// remove removes a variable, if it is there, and looks whether it is gone.
func (f Firmware) remove(name, vendor string) error {
	path := f.path(name, vendor)
	if err := mutable(path); err != nil {
		return err
	}
	err := os.Remove(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("install: the firmware's variable %s: %w", name, err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("install: firmware does not remove the variable %s", name)
	}
	return nil
}

// mutable takes away the flag by which Linux protects variables that it does
// not know. Where nothing is there is nothing to do, nor where the file system
// has no such flags.
func mutable(name string) error {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&immutable == 0 {
		return nil
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^immutable); err != nil {
		return fmt.Errorf("install: the firmware's variable %s: %w", filepath.Base(name), err)
	}
	return nil
}
