package installer

import (
	"context"
	"errors"
	"fmt"
	"gangway/device/machine"
	"gangway/device/screen"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"

	"gangway/device/install"

	"golang.org/x/sys/unix"
)

const (
	countdown  = 10 // seconds
	stickWait  = 60 * time.Second
	diskSettle = 1500 * time.Millisecond // without news, all disks are there
	diskReady  = 15 * time.Second        // as long as a disk is not ready, or none is there to install to
	diskNews   = 5 * time.Second         // how often to look for disks while a person is asked
)

// Automatic installs without a person, who may still stop it. It ends with the
// machine's restart.
func Automatic(manifest string, encrypt bool) {
	screen.Show("Gangway installer")
	for {
		err := tryAutomatic(manifest, encrypt)
		if err == nil {
			machine.Restart()
		}
		screen.Alarm("%v", err)
		screen.Say("Press Enter to restart.")
		select {
		case <-screen.Typed():
			machine.Restart()
		case <-time.After(time.Minute): // what was wrong may have been put right
			unix.Unmount(stickDir, unix.MNT_DETACH)
		}
	}
}

var errStopped = errors.New("Stopped: nothing was erased.") //lint:ignore ST1005 it is shown to a person

func tryAutomatic(manifest string, encrypt bool) error {
	screen.Now("Looking for the stick")
	s, err := findStick(manifest, stickWait)
	if err != nil {
		return err
	}
	screen.Note("Hub", s.manifest.Hub)
	screen.Note("Owner", s.manifest.Owner)
	if err := s.readNetwork(); err != nil {
		return err
	}
	if wrong := machine.HasTPM(); wrong != "" {
		return errors.New(wrong)
	}
	screen.Note("TPM", "2.0")
	disk, err := chooseDisk(s)
	if err != nil {
		return err
	}
	screen.Note("Disk", disk.String())
	screen.Note("On it", disk.Content)
	if i := s.installedOn(disk); i != nil {
		screen.Now("This stick has installed Gangway here already. Starting it.\nTake the stick out. To install anew, choose (manual).")
		if err := s.bringNetwork(i); err != nil {
			return err
		}
		time.Sleep(2 * time.Second)
		return machine.Firmware.Start(i)
	}
	if !count("Everything on " + disk.Path()) {
		return errStopped
	}
	var keys *diskKeys
	if encrypt {
		if keys, err = newDiskKeys(s.manifest.Escrow); err != nil {
			return err
		}
		screen.Note("Encrypted", "the key is in this machine's TPM")
	}
	if err := installTo(s, disk, keys); err != nil {
		return err
	}
	if encrypt {
		showRecovery(keys.recovery)
	}
	screen.Now("Installed. You may take the stick out. Restarting.")
	return nil
}

// chooseDisk applies the image's rule once all disks are there, and asks where
// the rule does not decide.
func chooseDisk(s *stick) (*install.Disk, error) {
	for {
		disks, err := settled(s)
		if err != nil {
			return nil, err
		}
		fit, err := install.Choose(s.manifest.Disk, disks)
		for i := range fit { // a person has chosen before
			if s.installedOn(&fit[i]) != nil {
				return &fit[i], nil
			}
		}
		switch {
		case errors.Is(err, install.ErrAmbiguous):
			screen.Now("More than one disk fits: which shall be erased?")
		case errors.Is(err, install.ErrExternal):
			screen.Alarm("No disk is built in for certain. Shall one of these be erased?")
		case err != nil:
			return nil, err
		default:
			return &fit[0], nil
		}
		if d := ask(s, fit, disks); d != nil {
			return d, nil
		}
	}
}

// installedOn is the system that this stick has installed to a disk, nil if there
// is none.
func (s *stick) installedOn(d *install.Disk) *install.Installed {
	i, err := install.Look("/dev", d.Name)
	if err != nil || !i.Whole || i.DiskGUID != install.DiskGUID(s.sha256) {
		return nil
	}
	return i
}

// settled lists the disks when none has come or changed for a while.
func settled(s *stick) ([]install.Disk, error) {
	screen.Now("Looking for disks")
	var last []string
	for since := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		disks, err := install.Disks(machine.SysBlock, "/dev", s.disk)
		if err != nil {
			return nil, err
		}
		if ids := identities(disks); !slices.Equal(ids, last) {
			last, since = ids, time.Now()
		}
		if time.Since(since) > settleTime(disks) {
			return install.Disks(machine.SysBlock, "/dev", s.known()...) // now that its copies can be read
		}
	}
}

// settleTime is for how long nothing must happen until all disks are there. A disk
// that spins up has no size at first, and a RAID controller takes its time.
func settleTime(disks []install.Disk) time.Duration {
	built := func(d install.Disk) bool { return d.Unfit == "" && d.External == "" }
	waiting := func(d install.Disk) bool { return d.Size == 0 }
	if slices.ContainsFunc(disks, waiting) || !slices.ContainsFunc(disks, built) {
		return diskReady
	}
	return diskSettle
}

// identities tell disks apart, and a disk from what it was before.
func identities(disks []install.Disk) []string {
	out := []string{}
	for _, d := range disks {
		out = append(out, fmt.Sprint(d.Name, " ", d.Seq, " ", d.Size))
	}
	return out
}

// ask has a person choose, and returns nil when other disks are there than those
// that were listed.
func ask(s *stick, fit, listed []install.Disk) *install.Disk {
	for i, d := range fit {
		screen.Say("%d: %s (%s)", i+1, d, d.Content)
	}
	screen.Say("Type its number and press Enter:")
	tick := time.NewTicker(diskNews)
	defer tick.Stop()
	for {
		select {
		case line := <-screen.Typed():
			n, err := strconv.Atoi(line)
			if err == nil && n >= 1 && n <= len(fit) {
				return &fit[n-1]
			}
			screen.Say("%q is not a number from 1 to %d:", line, len(fit))
		case <-tick.C:
			disks, err := install.Disks(machine.SysBlock, "/dev", s.known()...)
			if err == nil && !slices.Equal(identities(disks), identities(listed)) {
				return nil
			}
		}
	}
}

// count counts down to what will be erased, and says whether nobody stopped it.
func count(what string) bool {
	screen.SayBeside("%s will be erased in %d seconds. Press Enter to stop, or switch the machine off.", what, countdown)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for left := countdown; left > 0; left-- {
		screen.Redraw(true, "%s WILL BE ERASED in %d seconds.\nPress Enter to stop, or switch the machine off.", what, left)
		select {
		case <-screen.Typed():
			return false
		case <-tick.C:
		}
	}
	return true
}

// installTo erases a disk, installs, and has firmware start it.
func installTo(s *stick, d *install.Disk, keys *diskKeys) error {
	began := time.Now()
	screen.Now("Installing to %s", d.Path())
	err := erase(s, d, keys, percentages("installing", "Installing to "+d.Path()+": %s %d%%. Do not switch off."))
	if err != nil {
		return fmt.Errorf("Installing failed: %w\nThe stick can be started again, as often as need be.", err) //lint:ignore ST1005 it is shown to a person
	}
	screen.Say("installed in %.1f s", time.Since(began).Seconds())
	i, err := install.Look("/dev", d.Name)
	if err != nil {
		return err
	}
	if err := machine.Firmware.Start(i); err != nil { // firmware may find the disk by itself
		screen.Say("%v", err)
	}
	return nil
}

// percentages shows how far something is: on the screen each step, elsewhere
// each quarter. The format takes the stage and the percentage.
func percentages(verb, format string) install.Progress {
	last := ""
	return func(stage install.Stage, done, total int64) {
		percent := done * 100 / max(total, 1)
		if text := fmt.Sprintf("%s %d%%", stage, percent/25*25); text != last {
			last = text
			screen.Redraw(false, format, stage, percent)
			screen.Say("%s: %s", verb, text)
		}
	}
}

func erase(s *stick, d *install.Disk, keys *diskKeys, progress install.Progress) error {
	target, err := d.Open("/dev")
	if err != nil {
		return err
	}
	defer target.Close()
	return install.Job{
		Manifest: s.manifest, Stick: stickFS(), Target: target,
		DiskGUID: install.DiskGUID(s.sha256), Network: s.network, Encrypt: keys.slots(), Progress: progress,
	}.Run(context.Background())
}

func stickFS() fs.FS { return os.DirFS(stickDir) }
