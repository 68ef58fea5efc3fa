package installer

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"gangway/device/install"
)

// Reset wipes the machine for another owner: it destroys Gangway's data on the disks, clears the
// TPM and switches the machine off. It does not return.
func (i *Installer) Reset() {
	i.Screen.StartPanel("Gangway wipe")
	err := i.reset()
	if err == nil {
		i.Screen.Statusf("Wiped: this machine has no owner.\nTake the stick out. The machine switches off in a minute.\nPress Enter to switch it off now.")
		select {
		case <-i.Screen.Input():
		case <-time.After(time.Minute):
		}
		i.Power.PowerOff()
	}
	i.Screen.Alarmf("%v", err)
	i.Screen.Logf("Press Enter to switch off.")
	<-i.Screen.Input()
	i.Power.PowerOff()
}

// reset wipes the machine. If it is interrupted at any step, it can run again, because the next run
// finds the disks until Unlist, the last step, has removed their partition tables.
func (i *Installer) reset() error {
	i.Screen.Statusf("Looking for the stick")
	s, err := i.Sticks.Find(i.Manifest, stickWait)
	if err != nil {
		return err
	}
	disks, err := i.settledDisks(s)
	if err != nil {
		return err
	}
	systems, failed := i.systemsOn(disks)
	noTPM := i.TPM.Check()
	if noTPM == nil {
		i.Screen.Fact("TPM", "2.0")
	}
	switch {
	case len(systems) > 0:
		if !i.countDown("All Gangway data on this machine") {
			return errStopped
		}
	case len(failed) == 0 && !i.confirmed():
		return errStopped
	}
	return i.wipe(systems, failed, noTPM)
}

// wipe erases systems, clears the TPM and removes the boot entries. `failed` has the errors of
// earlier steps. `noTPM`, if it is not nil, says why the TPM cannot be cleared.
func (i *Installer) wipe(systems []found, failed []error, noTPM error) error {
	progress := i.percentages("wiping", "Wiping: %s %d%%. Do not switch off.")
	for _, f := range systems {
		if err := i.Disks.Erase(f.on, f.Installed, progress); err != nil {
			failed = append(failed, fmt.Errorf("/dev/%s: %w", f.Disk, err))
			continue
		}
		i.Screen.Logf("/dev/%s is erased", f.Disk)
	}
	if noTPM != nil {
		failed = append(failed, noTPM)
	} else if err := i.TPM.Clear(); err != nil {
		failed = append(failed, err)
	} else {
		i.Screen.Logf("the TPM is cleared")
	}
	if err := i.Firmware.Forget(); err != nil { // not fatal, because the boot entry only names a partition and contains no secret
		i.Screen.Logf("%v", err)
	}
	for _, f := range systems {
		if err := i.Disks.Unlist(f.on, progress); err != nil {
			failed = append(failed, fmt.Errorf("/dev/%s: %w", f.Disk, err))
		}
	}
	i.Disks.Sync()
	if len(failed) > 0 {
		return fmt.Errorf("NOT ALL IS WIPED:\n%w", errors.Join(failed...))
	}
	return nil
}

// WipeSystem wipes the installed system whose EFI system partition has the GUID espGUID, and
// switches the machine off, after a person has requested this at the machine's console. The
// partition must not be mounted. WipeSystem does not return.
func (i *Installer) WipeSystem(espGUID string) {
	i.Screen.Statusf("Wiping this machine, as requested at its console")
	err := i.wipeSystem(espGUID)
	if err == nil {
		i.Screen.Statusf("Wiped: this machine has no owner.\nThe machine switches off.")
		i.Power.PowerOff()
	}
	i.Screen.Alarmf("%v", err)
	time.Sleep(failedWait) // gives a person time to read the reason
	i.Power.PowerOff()
}

func (i *Installer) wipeSystem(espGUID string) error {
	disks, err := i.Disks.List()
	if err != nil {
		return err
	}
	var systems []found
	for _, d := range disks {
		if s, err := i.Disks.System(d); err == nil && s.ESPGUID == espGUID {
			systems = append(systems, found{s, d})
		}
	}
	if len(systems) != 1 { // two systems: a person has put a copy of the disk into the machine
		return fmt.Errorf("NOT WIPED: %d disks have this machine's system. Wipe with a stick.", len(systems)) //lint:ignore ST1005 shown to a person
	}
	return i.wipe(systems, nil, i.TPM.Check())
}

// The type `found` is an installed system of Gangway, and its disk.
type found struct {
	*install.Installed
	on install.Disk
}

// systemsOn looks for Gangway's systems on the disks. `failed` has an error for each disk that
// cannot be read, and for each disk that a person chose not to wipe.
func (i *Installer) systemsOn(disks []install.Disk) (systems []found, failed []error) {
	for _, d := range disks {
		system, err := i.Disks.System(d)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			failed = append(failed, fmt.Errorf("%s cannot be read: %w", d.Path(), err))
		case d.Unfit != "":
			failed = append(failed, fmt.Errorf("%s was not wiped: %s", d.Path(), d.Unfit))
		case d.External != "" && !i.Firmware.Names(system.ESPGUID) && !i.confirmedFor(d):
			failed = append(failed, fmt.Errorf("%s was not wiped: %s", d.Path(), d.External))
		default:
			name := "Disk"
			if len(systems) > 0 {
				name = fmt.Sprintf("Disk %d", len(systems)+1)
			}
			i.Screen.Fact(name, d.String())
			systems = append(systems, found{system, d})
		}
	}
	return systems, failed
}

// confirmedFor asks whether to wipe an external disk that has no boot entry in this machine's
// firmware. The disk may belong to another machine.
func (i *Installer) confirmedFor(d install.Disk) bool {
	i.Screen.Alarmf("A Gangway system is also on %s.\nThis disk may belong to another machine.\nTo wipe the disk too, type its name: %s\nTo keep it, press Enter or wait for a minute.", d, d.Name)
	select {
	case line := <-i.Screen.Input():
		return diskName(line) == d.Name
	case <-time.After(time.Minute):
		return false
	}
}

// The method `confirmed` asks whether to clear the TPM of a machine that has no Gangway system.
// Another system may use the TPM.
func (i *Installer) confirmed() bool {
	i.Screen.Alarmf("No disk of this machine has a Gangway system.\nTo clear the TPM anyway, type: wipe\nOther users of the TPM, such as BitLocker, lose their keys.")
	return strings.EqualFold(<-i.Screen.Input(), "wipe")
}
