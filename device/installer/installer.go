// Package installer is the program that runs when a machine is started from an installer stick. It
// installs Gangway to one of the machine's disks, or wipes the machine for another owner. A rule or
// a person chooses the disk.
//
// Installer makes the decisions and shows messages to the person at the machine. It uses the
// machine through small interfaces, which Local implements.
//
// Before the automatic installation erases anything, it finds the stick, reads the stick's network
// settings, checks the machine and chooses a disk. Then a person has ten seconds to stop it.
package installer

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gangway/device/install"
	"gangway/device/install/luks"
	"gangway/device/install/netfile"
	"gangway/device/preflight"
	"gangway/internal/finding"
	"gangway/wire"
)

const (
	countdown  = 10 // seconds
	stickWait  = 60 * time.Second
	retryWait  = time.Minute             // pause after a failure, unless a person restarts the machine earlier
	diskSettle = 1500 * time.Millisecond // the list of disks counts as complete if it has not changed for this time
	diskReady  = 15 * time.Second        // used instead of diskSettle if a disk is not ready or no disk is built in
	failedWait = time.Hour               // pause after a wipe that failed
	diskPoll   = 100 * time.Millisecond
	diskNews   = 5 * time.Second  // interval of the checks for changed disks while a person chooses
	keyTime    = 30 * time.Second // time for which the screen shows the recovery key
)

// Installer installs from a stick.
type Installer struct {
	Manifest string // SHA-256 of the stick's manifest, in hexadecimal
	Screen   Screen
	Sticks   Sticks
	Disks    Disks
	TPM      TPM
	Firmware Firmware
	Power    Power
	Machine  Machine
}

// Screen shows the progress to the person at the machine (package screen).
type Screen interface {
	StartPanel(title string)
	Logf(format string, args ...any)
	Serialf(format string, args ...any)
	Statusf(format string, args ...any)
	Alarmf(format string, args ...any)
	Redraw(alarm bool, text string)
	Fact(name, value string)
	Input() <-chan string
}

// Sticks finds the stick that the machine was started from.
type Sticks interface {
	// Find mounts the partition whose manifest has the SHA-256 `manifest`. It waits at most
	// `patience` for the partition, because USB disks appear late.
	Find(manifest string, patience time.Duration) (*Stick, error)
	// Mounted returns the stick that Find mounted, even if another process called Find.
	Mounted(manifest string) (*Stick, error)
	// Network reads the network settings of the mounted stick. It returns nil if the stick has no
	// network settings.
	Network() (*netfile.Settings, error)
	// Marks returns disk names and partition GUIDs. install.Disks recognises the stick and copies
	// of the stick by these names and GUIDs.
	Marks(*Stick) []string
	// Forget unmounts the stick, so that the next Find looks for the stick again.
	Forget()
}

// Disks reads and writes the machine's disks.
type Disks interface {
	// List lists the disks. A disk is unfit if the disk's name or the GUID of one of its partitions
	// is in `marks`.
	List(marks ...string) ([]install.Disk, error)
	// System returns the installed system on a disk. If there is none, the error is
	// fs.ErrNotExist.
	System(install.Disk) (*install.Installed, error)
	// Install erases a disk and installs the system from the mounted stick. If the list of slots is
	// not empty, it encrypts the data partition.
	Install(*Stick, *install.Disk, []luks.Slot, install.Progress) error
	// Table returns a disk's partition table as firmware measures it (UEFI_GPT_DATA).
	Table(install.Disk) ([]byte, error)
	// WriteReport writes the report on the partition table to the disk of an installed system.
	WriteReport(install.Disk, *install.Installed, *wire.InstallReport) error
	// BringNetwork writes network settings to the disk of an installed system. The system reads
	// these settings at its next start.
	BringNetwork(*install.Installed, *netfile.Settings) error
	// Erase destroys a system's data (install.Erase). After Erase, call Unlist, which removes the
	// disk's partition tables.
	Erase(install.Disk, *install.Installed, install.Progress) error
	Unlist(install.Disk, install.Progress) error
	// Sync makes the kernel write all cached data to the disks.
	Sync()
}

// TPM is the machine's TPM.
type TPM interface {
	// Check returns an error if the machine cannot use the TPM. The error's text is a sentence
	// for the person at the machine.
	Check() error
	// NewKeys makes the keys of an encrypted disk for the system of a stick. If the stick's
	// manifest names an age recipient, NewKeys also encrypts the recovery key to this recipient.
	NewKeys(*install.Manifest) (*Keys, error)
	// Report makes the TPM sign a partition table, together with the PCRs.
	Report(table []byte) (*wire.InstallReport, error)
	Clear() error
}

// Firmware is the machine's boot configuration, which its firmware stores
// (install.Firmware).
type Firmware interface {
	Start(*install.Installed) error
	// NoteStick records that the stick was started although a system is installed, so that this
	// system can say why the trial of a new system ended.
	NoteStick() error
	Names(espGUID string) bool
	Forget() error
}

// Machine checks the machine before the installation (preflight.Machine).
type Machine interface {
	Examine() []finding.Finding
}

// Power restarts the machine or switches it off. Its methods do not return.
type Power interface {
	PowerOff()
	Restart()
}

// errStopped means that a person stopped the installer.
var errStopped = errors.New("Stopped: nothing was erased.") //lint:ignore ST1005 shown to a person

// Automatic installs without asking questions, unless a person stops it before anything is erased,
// and then restarts the machine. It does not return.
func (i *Installer) Automatic(encrypt bool) {
	i.Screen.StartPanel("Gangway installer")
	for {
		err := i.automatic(encrypt)
		if err == nil {
			i.Power.Restart()
		}
		i.Screen.Alarmf("%v", err)
		i.Screen.Logf("Press Enter to restart.")
		select {
		case <-i.Screen.Input():
			i.Power.Restart()
		case <-time.After(retryWait): // by then, a person may have corrected the cause
			i.Sticks.Forget()
		}
	}
}

func (i *Installer) automatic(encrypt bool) error {
	i.Screen.Statusf("Looking for the stick")
	s, err := i.Sticks.Find(i.Manifest, stickWait)
	if err != nil {
		return err
	}
	i.Screen.Fact("Hub", s.Manifest.Hub)
	i.Screen.Fact("Owner", s.Manifest.Owner)
	if err := i.readNetwork(s); err != nil {
		return err
	}
	if err := i.TPM.Check(); err != nil {
		return err
	}
	i.Screen.Fact("TPM", "2.0")
	if err := i.preflight(encrypt); err != nil {
		return err
	}
	disk, err := i.chooseDisk(s)
	if err != nil {
		return err
	}
	i.Screen.Fact("Disk", disk.String())
	i.Screen.Fact("On it", disk.Content)
	if system := i.ownSystem(s, disk); system != nil {
		return i.startAgain(s, system)
	}
	if !i.countDown("Everything on " + disk.Path()) {
		return errStopped
	}
	var keys *Keys
	if encrypt {
		if keys, err = i.TPM.NewKeys(s.Manifest); err != nil {
			return err
		}
		i.Screen.Fact("Encrypted", "the key is in this machine's TPM")
	}
	if err := i.install(s, disk, keys); err != nil {
		return err
	}
	if encrypt {
		i.showRecovery(keys.Recovery)
	}
	i.Screen.Statusf("Installed. You may take the stick out. Restarting.")
	return nil
}

// preflight checks the machine and shows the findings on the screen, but does not send them
// anywhere. It returns an error only if a finding shows that the installed system could not work.
func (i *Installer) preflight(encrypt bool) error {
	i.Screen.Statusf("Checking the machine")
	findings := i.Machine.Examine()
	i.Screen.Fact("Check", finding.Summary(findings))
	for _, f := range findings {
		if f.Severity == finding.OK {
			i.Screen.Serialf("check: ok: %s (%s)", f.Fact, f.Code)
		}
	}
	for _, severity := range []finding.Severity{finding.Note, finding.Warning, finding.Problem} { // the panel shows the last lines
		for _, f := range findings {
			if f.Severity == severity {
				i.Screen.Logf("check: %s: %s (%s)", severity, f.Fact, f.Code)
				i.Screen.Serialf("check: %s: %s", f.Code, strings.TrimSpace(f.Cause+" "+f.Remedy))
			}
		}
	}
	return contradiction(findings, encrypt)
}

// contradiction returns an error, for the person at the machine, if a finding shows that the
// installed system could not work. An example is a machine without a TPM 2.0.
func contradiction(findings []finding.Finding, encrypt bool) error {
	if f := preflight.Contradiction(findings, encrypt); f != nil {
		return fmt.Errorf("%s\n%s", f.Fact, f.Remedy)
	}
	return nil
}

// readNetwork reads the stick's network settings. A person may have edited them.
func (i *Installer) readNetwork(s *Stick) (err error) {
	if s.network, err = i.Sticks.Network(); err != nil {
		return fmt.Errorf("The stick's network settings cannot be used:\n%w", err) //lint:ignore ST1005 shown to a person
	}
	return nil
}

// startAgain makes the firmware start the system that this stick has installed earlier. It also
// writes the stick's network settings to the system's disk; the system itself decides whether these
// settings are new.
func (i *Installer) startAgain(s *Stick, system *install.Installed) error {
	i.Screen.Statusf("This stick has already installed Gangway on this machine.\nStarting that system. Take the stick out.\nTo install again, choose the boot entry \"Install Gangway (manual)\".")
	if s.network != nil {
		if err := i.Disks.BringNetwork(system, s.network); err != nil {
			return err
		}
	}
	if err := i.Firmware.NoteStick(); err != nil { // not fatal, because the system only reports the note
		i.Screen.Logf("%v", err)
	}
	time.Sleep(2 * time.Second) // gives the person time to read the sentence
	return i.Firmware.Start(system)
}

// chooseDisk applies the image's disk rule after all disks have appeared. If the rule does not
// select exactly one disk, a person chooses.
func (i *Installer) chooseDisk(s *Stick) (*install.Disk, error) {
	for {
		disks, err := i.settledDisks(s)
		if err != nil {
			return nil, err
		}
		fit, err := install.Choose(s.Manifest.Disk, disks)
		for n := range fit { // if a person chose a disk in an earlier attempt, that disk has this stick's system: use that disk again
			if i.ownSystem(s, &fit[n]) != nil {
				return &fit[n], nil
			}
		}
		switch {
		case errors.Is(err, install.ErrAmbiguous):
			i.Screen.Statusf("More than one disk matches the disk rule. Which one is to be erased?")
		case errors.Is(err, install.ErrExternal):
			i.Screen.Alarmf("Only disks that may be external match. Which one is to be erased?")
		case err != nil:
			return nil, err
		default:
			return &fit[0], nil
		}
		if d := i.askForDisk(s, fit, disks); d != nil {
			return d, nil
		}
	}
}

// ownSystem returns the complete system that this stick has installed to the disk `d`. It returns
// nil if `d` has no such system.
func (i *Installer) ownSystem(s *Stick, d *install.Disk) *install.Installed {
	system, err := i.Disks.System(*d)
	if err != nil || !system.Whole || system.DiskGUID != install.DiskGUID(s.SHA256) {
		return nil
	}
	return system
}

// settledDisks waits until the list of disks has not changed for the time that settleTime returns.
// Then it returns the list.
func (i *Installer) settledDisks(s *Stick) ([]install.Disk, error) {
	i.Screen.Statusf("Looking for disks")
	var last []string
	for since := time.Now(); ; time.Sleep(diskPoll) {
		disks, err := i.Disks.List(s.Disk)
		if err != nil {
			return nil, err
		}
		if ids := identities(disks); !slices.Equal(ids, last) {
			last, since = ids, time.Now()
		}
		if time.Since(since) > settleTime(disks) {
			return i.Disks.List(i.Sticks.Marks(s)...) // list again, because disks that are now ready may be copies of the stick
		}
	}
}

// settleTime returns how long the list of disks must stay unchanged until it counts as complete. A
// disk that spins up has no size at first, and the disks of a RAID controller appear late.
func settleTime(disks []install.Disk) time.Duration {
	builtIn := func(d install.Disk) bool { return d.Unfit == "" && d.External == "" }
	notReady := func(d install.Disk) bool { return d.Size == 0 }
	if slices.ContainsFunc(disks, notReady) || !slices.ContainsFunc(disks, builtIn) {
		return diskReady
	}
	return diskSettle
}

// identities returns a text for each disk. The text changes when the disk reports its size, or
// when another disk gets the same name.
func identities(disks []install.Disk) []string {
	out := []string{}
	for _, d := range disks {
		out = append(out, fmt.Sprint(d.Name, " ", d.Seq, " ", d.Size))
	}
	return out
}

// askForDisk lets a person choose one of the disks in `fit`. It returns nil if the machine's disks
// have changed since the list `listed` was made.
func (i *Installer) askForDisk(s *Stick, fit, listed []install.Disk) *install.Disk {
	for n, d := range fit {
		i.Screen.Logf("%d: %s (%s)", n+1, d, d.Content)
	}
	i.Screen.Logf("Type the number of the disk and press Enter:")
	tick := time.NewTicker(diskNews)
	defer tick.Stop()
	for {
		select {
		case line := <-i.Screen.Input():
			n, err := strconv.Atoi(line)
			if err == nil && n >= 1 && n <= len(fit) {
				return &fit[n-1]
			}
			i.Screen.Logf("%q is not a number from 1 to %d:", line, len(fit))
		case <-tick.C:
			disks, err := i.Disks.List(i.Sticks.Marks(s)...)
			if err == nil && !slices.Equal(identities(disks), identities(listed)) {
				return nil
			}
		}
	}
}

// countDown shows for ten seconds what the installer will erase. It returns true if nobody stopped
// the installer in that time.
func (i *Installer) countDown(what string) bool {
	i.Screen.Serialf("%s will be erased in %d seconds. Press Enter to stop, or switch the machine off.", what, countdown)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for left := countdown; left > 0; left-- {
		i.Screen.Redraw(true, fmt.Sprintf("%s WILL BE ERASED in %d seconds.\nPress Enter to stop, or switch the machine off.", what, left))
		select {
		case <-i.Screen.Input():
			return false
		case <-tick.C:
		}
	}
	return true
}

// The method `install` erases a disk, installs the system to it, and makes the firmware start the
// system.
func (i *Installer) install(s *Stick, d *install.Disk, keys *Keys) error {
	began := time.Now()
	i.Screen.Statusf("Installing to %s", d.Path())
	progress := i.percentages("installing", "Installing to "+d.Path()+": %s %d%%. Do not switch off.")
	if err := i.Disks.Install(s, d, keys.slots(), progress); err != nil {
		return fmt.Errorf("Installing failed: %w\nStart the stick again to retry.", err) //lint:ignore ST1005 shown to a person
	}
	i.Screen.Logf("installed in %.1f s", time.Since(began).Seconds())
	system, err := i.Disks.System(*d)
	if err != nil {
		return err
	}
	if err := i.Firmware.Start(system); err != nil { // not fatal, because the firmware may find the system without a boot entry
		i.Screen.Logf("%v", err)
	}
	i.reportTable(d, system)
	return nil
}

// percentages returns a function that shows the progress, and logs it after each quarter of a
// stage. The log lines begin with the word `verb`. `format` is the text for the screen, and must
// have formatting verbs for a stage and a percentage.
func (i *Installer) percentages(verb, format string) install.Progress {
	last := ""
	return func(stage install.Stage, done, total int64) {
		percent := done * 100 / max(total, 1)
		if text := fmt.Sprintf("%s %d%%", stage, percent/25*25); text != last {
			last = text
			i.Screen.Redraw(false, fmt.Sprintf(format, stage, percent))
			i.Screen.Logf("%s: %s", verb, text)
		}
	}
}

// showRecovery shows the recovery key until a person presses Enter, but at most for keyTime.
func (i *Installer) showRecovery(key string) {
	half := len(key)/2 + 1
	i.Screen.Statusf("Installed. RECOVERY KEY of the disk, shown only once:\n%s\n%s\nTake a picture of it. Press Enter to go on.", key[:half-1], key[half:])
	i.Screen.Serialf("recovery key: %s", key)
	select {
	case <-i.Screen.Input():
	case <-time.After(keyTime):
	}
}

// diskName returns the name of a disk without /dev/. A person may type the name with or without
// /dev/.
func diskName(typed string) string { return strings.TrimPrefix(typed, "/dev/") }
