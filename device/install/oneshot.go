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

// Selected returns the name of the boot entry that the boot manager started.
func (f Firmware) Selected() (string, error) {
	s, err := f.text("LoaderEntrySelected")
	if err != nil {
		return "", fmt.Errorf("install: reading the entry that the boot manager started: %w", err)
	}
	return s, nil
}

// oneShot is the variable that names the entry for the next boot only. The boot manager removes
// the variable before it starts the entry.
const oneShot = "LoaderEntryOneShot"

// immutable is FS_IMMUTABLE_FL (linux/fs.h).
const immutable = 0x10

// StartOnce makes the boot manager start the boot entry `entry` at the next boot only. If `entry`
// is empty, StartOnce cancels an earlier call.
//
// StartOnce first checks that the firmware removes the variable on request. With firmware that does
// not remove the variable, the machine would start the entry at every boot.
func (f Firmware) StartOnce(entry string) error {
	if entry != "" {
		if err := f.setLoader(oneShot, entry); err != nil {
			return err
		}
	}
	err := f.remove(oneShot, loaderVendor)
	if err == nil && entry != "" {
		err = f.setLoader(oneShot, entry)
	}
	return err
}

// stickStarted is the variable that NoteStick writes.
const stickStarted = "GangwayStickStarted"

// NoteStick records that the machine was started from an installer stick although a system is
// installed. The boot manager of the stick removes the variable LoaderEntryOneShot, and so ends a
// trial that StartOnce has arranged.
func (f Firmware) NoteStick() error {
	if f.StickNoted() { // spare the firmware's memory: the stick may stay in the machine for years
		return nil
	}
	return f.setLoader(stickStarted, "yes")
}

// StickNoted reports whether NoteStick was called since the last call of ForgetStick.
func (f Firmware) StickNoted() bool {
	_, err := f.read(stickStarted, loaderVendor)
	return err == nil
}

// ForgetStick removes the record of NoteStick.
func (f Firmware) ForgetStick() error { return f.remove(stickStarted, loaderVendor) }

// probe is the variable that Probe writes. No program reads this variable.
const probe = "GangwayProbe"

// Probe tests whether the firmware stores, changes and removes a variable of the boot manager. It
// removes the variable in any case.
func (f Firmware) Probe() error {
	var err error
	for _, value := range []string{"first", "second value"} {
		if err == nil {
			err = f.setLoader(probe, value)
		}
	}
	return errors.Join(err, f.remove(probe, loaderVendor))
}

// KeptOneShot reports whether the variable LoaderEntryOneShot names the entry that the boot manager
// started. The boot manager removes the variable before it starts the entry, and no program of
// Gangway sets it to the running entry. So such a variable shows that the firmware did not remove
// it.
func (f Firmware) KeptOneShot() (bool, error) {
	next, err := f.text(oneShot)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	running, err := f.Selected()
	return err == nil && next == running, err
}

// setLoader sets a variable of the boot manager, and checks that the firmware stored the value.
func (f Firmware) setLoader(variable, text string) error {
	name, value := f.path(variable, loaderVendor), utf16z(text)
	if err := mutable(name); err != nil {
		return err
	}
	b := append(binary.LittleEndian.AppendUint32(nil, attributes), value...)
	w, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o644)
	if err == nil {
		_, err = w.Write(b) // efivarfs requires a single write
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		return fmt.Errorf("install: writing the firmware's variable %s: %w", variable, err)
	}
	if got, err := f.read(variable, loaderVendor); err != nil || !slices.Equal(got, value) {
		return errors.Join(fmt.Errorf("install: the firmware did not store the variable %s", variable), err)
	}
	return nil
}

// The method `remove` removes a variable if the variable exists. Then it checks that the firmware
// removed the variable.
func (f Firmware) remove(name, vendor string) error {
	path := f.path(name, vendor)
	if err := mutable(path); err != nil {
		return err
	}
	err := os.Remove(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("install: removing the firmware's variable %s: %w", name, err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("install: the firmware did not remove the variable %s", name)
	}
	return nil
}

// mutable clears the immutable flag of a variable's file. Linux sets this flag on the files of
// unknown variables. mutable does nothing if the variable does not exist, or if the file system has
// no such flags.
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
		return fmt.Errorf("install: making the firmware's variable %s writable: %w", filepath.Base(name), err)
	}
	return nil
}
