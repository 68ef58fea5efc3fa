package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"

	"gangway/install"

	"golang.org/x/sys/unix"
)

const (
	countdown  = 10 // seconds
	stickWait  = 60 * time.Second
	diskSettle = 1500 * time.Millisecond // without news, all disks are there
)

// automatic installs without a person, who may still stop it. It ends with the
// machine's restart.
func automatic(manifest string, encrypt bool) {
	show("Gangway installer")
	for {
		err := tryAutomatic(manifest, encrypt)
		if err == nil {
			restart()
		}
		alarm("%v", err)
		say("Press Enter to restart.")
		select {
		case <-typed():
			restart()
		case <-time.After(time.Minute): // what was wrong may have been put right
			unix.Unmount(stickDir, unix.MNT_DETACH)
		}
	}
}

var errStopped = errors.New("Stopped: nothing was erased.") //lint:ignore ST1005 it is shown to a person

func tryAutomatic(manifest string, encrypt bool) error {
	now("Looking for the stick")
	s, err := findStick(manifest, stickWait)
	if err != nil {
		return err
	}
	note("Hub", s.manifest.Hub)
	note("Owner", s.manifest.Owner)
	if err := s.readNetwork(); err != nil {
		return err
	}
	if wrong := hasTPM(); wrong != "" {
		return errors.New(wrong)
	}
	note("TPM", "2.0")
	disk, err := chooseDisk(s)
	if err != nil {
		return err
	}
	note("Disk", disk.String())
	note("On it", disk.Content)
	if i, err := install.Look("/dev", disk.Name); err == nil && i.Whole && i.DiskGUID == install.DiskGUID(s.sha256) {
		now("This stick has installed Gangway here already. Starting it.\nTake the stick out. To install anew, choose (manual).")
		if err := s.bringNetwork(i); err != nil {
			return err
		}
		time.Sleep(2 * time.Second)
		return efivars.Start(i)
	}
	if !count("Everything on " + disk.Path()) {
		return errStopped
	}
	var keys *diskKeys
	if encrypt {
		if keys, err = newDiskKeys(s.manifest.Escrow); err != nil {
			return err
		}
		note("Encrypted", "the key is in this machine's TPM")
	}
	if err := installTo(s, disk, keys); err != nil {
		return err
	}
	if encrypt {
		showRecovery(keys.recovery)
	}
	now("Installed. You may take the stick out. Restarting.")
	return nil
}

// chooseDisk applies the image's rule once all disks are there, and asks where
// it leaves more than one.
func chooseDisk(s *stick) (*install.Disk, error) {
	disks, err := settled(s.disk)
	if err != nil {
		return nil, err
	}
	fit, err := install.Choose(s.manifest.Disk, disks)
	if errors.Is(err, install.ErrAmbiguous) {
		return ask(fit)
	}
	if err != nil {
		return nil, err
	}
	return &fit[0], nil
}

// settled lists the disks when none has come for a while.
func settled(stick string) ([]install.Disk, error) {
	now("Looking for disks")
	names := func(disks []install.Disk) (out []string) {
		for _, d := range disks {
			out = append(out, d.Name)
		}
		return out
	}
	var last []install.Disk
	for since := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		disks, err := install.Disks(sysBlock, "/dev", stick)
		if err != nil {
			return nil, err
		}
		if !slices.Equal(names(disks), names(last)) {
			last, since = disks, time.Now()
		}
		if time.Since(since) > diskSettle {
			return disks, nil
		}
	}
}

func ask(disks []install.Disk) (*install.Disk, error) {
	now("Two disks are as large: which shall be erased?")
	for i, d := range disks {
		say("%d: %s (%s)", i+1, d, d.Content)
	}
	say("Type its number and press Enter:")
	for line := range typed() {
		n, err := strconv.Atoi(line)
		if err == nil && n >= 1 && n <= len(disks) {
			return &disks[n-1], nil
		}
		say("%q is none of them; 1 to %d:", line, len(disks))
	}
	return nil, errStopped
}

// count counts down to what will be erased, and says whether nobody stopped it.
func count(what string) bool {
	sayBeside("%s will be erased in %d seconds. Press Enter to stop, or switch the machine off.", what, countdown)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for left := countdown; left > 0; left-- {
		redraw(true, "%s WILL BE ERASED in %d seconds.\nPress Enter to stop, or switch the machine off.", what, left)
		select {
		case <-typed():
			return false
		case <-tick.C:
		}
	}
	return true
}

// installTo erases a disk, installs, and has firmware start it.
func installTo(s *stick, d *install.Disk, keys *diskKeys) error {
	began := time.Now()
	now("Installing to %s", d.Path())
	err := erase(s, d, keys, percentages("installing", "Installing to "+d.Path()+": %s %d%%. Do not switch off."))
	if err != nil {
		return fmt.Errorf("Installing failed: %w\nThe stick can be started again, as often as need be.", err) //lint:ignore ST1005 it is shown to a person
	}
	say("installed in %.1f s", time.Since(began).Seconds())
	i, err := install.Look("/dev", d.Name)
	if err != nil {
		return err
	}
	if err := efivars.Start(i); err != nil { // firmware may find the disk by itself
		say("%v", err)
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
			redraw(false, format, stage, percent)
			say("%s: %s", verb, text)
		}
	}
}

func erase(s *stick, d *install.Disk, keys *diskKeys, progress install.Progress) error {
	target, err := install.OpenDevice(d.Path())
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
