package installer

import (
	"context"
	"errors"
	"fmt"
	"gangway/device/machine"
	"gangway/device/screen"
	"io/fs"
	"strings"
	"time"

	"gangway/device/install"
	"gangway/device/install/lockout"

	"golang.org/x/sys/unix"
)

// Reset makes the machine ready for another owner: what Gangway has on its
// disks and in its TPM is destroyed. It ends with the machine off.
func Reset(manifest string) {
	screen.Show("Gangway wipe")
	err := tryReset(manifest)
	if err == nil {
		screen.Now("Wiped: this machine is nobody's.\nTake the stick out. It switches off in a minute; Enter: at once.")
		select {
		case <-screen.Typed():
		case <-time.After(time.Minute):
		}
		machine.PowerOff()
	}
	screen.Alarm("%v", err)
	screen.Say("Press Enter to switch off.")
	<-screen.Typed()
	machine.PowerOff()
}

// tryReset does it in an order in which it can be interrupted: the disks are
// found again until the TPM is cleared.
func tryReset(manifest string) error {
	screen.Now("Looking for the stick")
	s, err := findStick(manifest, stickWait)
	if err != nil {
		return err
	}
	disks, err := settled(s)
	if err != nil {
		return err
	}
	ours, wrong := systemsOn(disks)
	noTPM := machine.HasTPM()
	if noTPM == "" {
		screen.Note("TPM", "2.0")
	}
	switch {
	case len(ours) > 0:
		if !count("All that Gangway has on this machine") {
			return errStopped
		}
	case len(wrong) == 0 && !confirmed():
		return errStopped
	}
	progress := percentages("wiping", "Wiping: %s %d%%. Do not switch off.")
	for _, i := range ours {
		if err := i.onDisk(func(t *install.Device) error { return install.Erase(context.Background(), t, i.Installed, progress) }); err != nil {
			wrong = append(wrong, fmt.Errorf("/dev/%s: %w", i.Disk, err))
			continue
		}
		screen.Say("/dev/%s is erased", i.Disk)
	}
	if noTPM != "" {
		wrong = append(wrong, errors.New(noTPM))
	} else if err := clearTPM(); err != nil {
		wrong = append(wrong, err)
	} else {
		screen.Say("the TPM is cleared")
	}
	if err := machine.Firmware.Forget(); err != nil { // it names a partition, and no secret
		screen.Say("%v", err)
	}
	for _, i := range ours {
		if err := i.onDisk(func(t *install.Device) error { return install.Unlist(t, progress) }); err != nil {
			wrong = append(wrong, fmt.Errorf("/dev/%s: %w", i.Disk, err))
		}
	}
	unix.Sync()
	if len(wrong) > 0 {
		return fmt.Errorf("NOT ALL IS WIPED:\n%w", errors.Join(wrong...))
	}
	return nil
}

// found is a system of Gangway with the disk that it is on.
type found struct {
	*install.Installed
	on install.Disk
}

// systemsOn looks for Gangway's systems, and says which it may not touch.
func systemsOn(disks []install.Disk) (ours []found, wrong []error) {
	for _, d := range disks {
		i, err := install.Look("/dev", d.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			wrong = append(wrong, fmt.Errorf("%s cannot be read: %w", d.Path(), err))
		case d.Unfit != "":
			wrong = append(wrong, fmt.Errorf("%s is left alone: %s", d.Path(), d.Unfit))
		case d.External != "" && !machine.Firmware.Names(i.ESPGUID) && !wipeToo(d):
			wrong = append(wrong, fmt.Errorf("%s is left alone: %s", d.Path(), d.External))
		default:
			name := "Disk"
			if len(ours) > 0 {
				name = fmt.Sprintf("Disk %d", len(ours)+1)
			}
			screen.Note(name, d.String())
			ours = append(ours, found{i, d})
		}
	}
	return ours, wrong
}

// wipeToo asks about a disk that may be another machine's: its system is not the one
// that this firmware starts.
func wipeToo(d install.Disk) bool {
	screen.Alarm("Gangway is on %s as well,\nwhich this machine may not start from.\nTo wipe it too, type its name: %s\nEnter leaves it alone, as does waiting for a minute.", d, d.Name)
	select {
	case line := <-screen.Typed():
		return strings.TrimPrefix(line, "/dev/") == d.Name
	case <-time.After(time.Minute):
		return false
	}
}

// confirmed asks a person where nothing of Gangway's is found: the TPM may be
// somebody else's.
func confirmed() bool {
	screen.Alarm("No disk of this machine has Gangway on it.\nTo clear the TPM all the same, type: wipe\nWhat else uses the TPM, as BitLocker does, loses its keys.")
	return strings.EqualFold(<-screen.Typed(), "wipe")
}

func (f found) onDisk(do func(*install.Device) error) error {
	t, err := f.on.Open("/dev")
	if err != nil {
		return err
	}
	return errors.Join(do(t), t.Close())
}

func clearTPM() error {
	t, err := machine.OpenTPM()
	if err != nil {
		return err
	}
	defer t.Close()
	return lockout.Clear(t)
}
