package installer

import (
	"io/fs"
	"regexp"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"gangway/device/install"
	"gangway/device/install/netfile"
	"gangway/device/machine"
	"gangway/internal/finding"
)

// Disks that the tests use.
var (
	nvme    = install.Disk{Name: "nvme0n1", Size: 500e9, Content: "empty"}
	second  = install.Disk{Name: "nvme1n1", Size: 500e9}
	small   = install.Disk{Name: "sda", Size: 100e9}
	usb     = install.Disk{Name: "sdb", Size: 8e9, External: "on USB"}
	stick   = install.Disk{Name: "sdz", Size: 8e9, Unfit: "the stick that this was started from"}
	asleep  = install.Disk{Name: "sdc", Unfit: "without a size"}
	system2 = install.Disk{Name: "sdd", Size: 100e9, External: "on USB"}
)

func ours(d install.Disk, manifest string) *install.Installed {
	return &install.Installed{Disk: d.Name, Whole: true, DiskGUID: install.DiskGUID(manifest), ESPGUID: "esp-" + d.Name}
}

// inBubble runs a test with a fake clock.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Parallel()
	synctest.Test(t, f)
}

func automatic(i *Installer) { i.Automatic(false) }
func encrypted(i *Installer) { i.Automatic(true) }

// The installer makes all checks before it erases a disk. Then a person has ten seconds to stop the
// installation.
func TestStepsOfAnAutomaticInstallation(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := newLab(t, nvme, small, stick)
		l.settings = &netfile.Settings{VLAN: 7}
		l.run(automatic, 0)
		l.want("panel Gangway installer", "find the stick for 1m0s", "fact Hub: https://hub.example", "check the TPM", "fact TPM: 2.0",
			"check the machine", "fact Check: 0 problem(s), 0 warning(s), 0 note(s), 0 check(s) passed", "list 1", "list 2", "fact Disk: /dev/nvme0n1", "fact On it: empty",
			"serial Everything on /dev/nvme0n1 will be erased in 10 seconds. Press Enter to stop",
			"log installing: write 50%", "install to nvme0n1 with 0 keys and VLAN 7", "log installed in 0.0 s", "start nvme0n1",
			"read the table of nvme0n1", "sign the table of nvme0n1", "write the report on the table of nvme0n1 to nvme0n1", "log reported the partition table", "status Installed.", "restart")
		l.never("keys for", "serial recovery key", "alarm")
		if took := time.Since(l.began); took < countdown*time.Second+diskSettle {
			t.Errorf("installed after %s", took)
		}
	})
}

// The screen shows the findings about the machine before the countdown. The worst finding is last,
// because the panel shows the last lines. Findings that are merely bad or unknown do not stop the
// installation.
func TestFindingsAreShownBeforeTheCountdown(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := newLab(t, nvme)
		l.findings = []finding.Finding{
			{Code: "tpm-lockout", Severity: finding.Problem, Fact: "Locked.", Cause: "Guesses.", Remedy: "Wait."},
			{Code: "tpm", Severity: finding.OK, Fact: "TPM 2.0."},
			{Code: "event-log-replay", Severity: finding.Warning, Fact: "Unexplained."},
			{Code: "tpm-banks-weak", Severity: finding.Problem, Fact: "SHA-1 only."},
			{Code: "secure-boot-unknown", Severity: finding.Note, Fact: "Unknown."},
		}
		l.run(automatic, 0)
		l.want("fact Check: 2 problem(s), 1 warning(s), 1 note(s), 1 check(s) passed", "serial check: ok: TPM 2.0. (tpm)",
			"log check: note: Unknown. (secure-boot-unknown)", "log check: warning: Unexplained. (event-log-replay)",
			"log check: problem: Locked. (tpm-lockout)", "serial check: tpm-lockout: Guesses. Wait.", "log check: problem: SHA-1 only. (tpm-banks-weak)",
			"serial Everything on", "install to nvme0n1", "restart")
		l.never("alarm")
	})
}

// If the TPM has no PCR bank of SHA-256, it cannot seal the key of an encrypted disk. So the
// installer stops before it erases anything.
func TestEncryptionThatTheTPMCannotDoStops(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := newLab(t, nvme)
		l.findings = []finding.Finding{{Code: "tpm-banks-weak", Severity: finding.Problem, Fact: "SHA-1 only.", Remedy: "Enable SHA-256."}}
		l.run(encrypted, 0, "")
		l.want("alarm SHA-1 only.\nEnable SHA-256.", "restart")
		l.never("serial Everything on", "keys for", "install to")
	})
}

func TestEncryptedInstallationShowsTheRecoveryKey(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := newLab(t, nvme)
		l.run(encrypted, 0)
		l.want("serial Everything on", "keys for age1x", "install to nvme0n1 with 2 keys and VLAN 0", "start nvme0n1", "serial recovery key: ", "restart")
		if took := time.Since(l.began); took < countdown*time.Second+keyTime {
			t.Errorf("the recovery key was on the screen for less than %s: %s in all", keyTime, took)
		}
	})
}

// If a check of the installer fails, the screen shows the reason and the installer erases nothing.
// The installer retries after a minute, because a person may have corrected the problem.
func TestNothingIsErasedIf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(l *lab)
		says  string
	}{
		"the stick is gone":                 {func(l *lab) { l.noStick = errNoStick }, "alarm " + errNoStick.Error()},
		"the network settings are wrong":    {func(l *lab) { l.badText = &netfile.Mistake{Line: 3, Text: "no such key"} }, "alarm The stick's network settings cannot be used:"},
		"there is no TPM":                   {func(l *lab) { l.tpm = machine.ErrNoTPM }, "alarm No TPM: switch it on"},
		"the TPM is old":                    {func(l *lab) { l.tpm = machine.ErrOldTPM }, "alarm The TPM's version is not 2.0"},
		"the disks cannot be listed":        {func(l *lab) { l.failing["list 1"] = errBroken }, "alarm it is broken"},
		"no disk fits the rule":             {func(l *lab) { l.stick.Manifest.Disk = "serial:X" }, "alarm "},
		"there is only the stick":           {func(l *lab) { l.disks = []install.Disk{stick} }, "alarm "},
		"the TPM does not make the keys":    {func(l *lab) { l.failing["keys for age1x"] = errBroken }, "alarm it is broken"},
		"a person presses Enter in the end": {nil, "alarm Stopped: nothing was erased."},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				l := newLab(t, nvme, small)
				press, typed := 3*time.Minute, []string{""}
				if c.spoil != nil {
					c.spoil(l)
				} else {
					press, typed = diskSettle+9*time.Second, []string{"", ""}
				}
				l.run(encrypted, press, typed...)
				l.want(c.says, "log Press Enter to restart.", "restart")
				l.never("install to", "start", "status Installed")
				if c.spoil != nil {
					l.want(c.says, "unmount the stick", "find the stick", c.says, "unmount the stick", "find the stick", c.says, "restart")
				}
			})
		})
	}
}

// If the installation fails, the screen shows the reason and the remedy. If only the firmware
// refuses the boot entry, the installation succeeds, because the firmware may find the disk
// without an entry.
func TestFailuresOfAnInstallation(t *testing.T) {
	t.Parallel()
	for step, says := range map[string]string{
		"install to nvme0n1 with 0 keys and VLAN 0": "alarm Installing failed: it is broken\nStart the stick again to retry.",
		"start nvme0n1": "status Installed.",
	} {
		t.Run(step, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				l := newLab(t, nvme)
				l.failing[step] = errBroken
				l.run(automatic, time.Minute, "")
				l.want(step, says, "restart")
			})
		})
	}
}

// If the stick stays plugged in, the stick's installer starts the system that it installed earlier,
// and passes the stick's network settings to that system. The installer never erases that system.
func TestStickStartsWhatItHasInstalled(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		system   *install.Installed
		settings *netfile.Settings
		starts   bool
	}{
		"its own system":                 {ours(second, manifestSum), nil, true},
		"its own, and settings":          {ours(second, manifestSum), &netfile.Settings{VLAN: 7}, true},
		"another image's system":         {ours(second, "other"), nil, false},
		"its own, which is half written": {&install.Installed{Disk: "nvme1n1", DiskGUID: install.DiskGUID(manifestSum)}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				l := newLab(t, nvme, second, small) // two disks match the rule, so the rule alone does not select one
				l.systems["nvme1n1"], l.settings = c.system, c.settings
				if !c.starts {
					l.run(automatic, time.Minute, "1")
					l.want("status More than one disk matches the disk rule", "install to nvme0n1")
					return
				}
				l.run(automatic, 0)
				if c.settings != nil {
					l.want("bring VLAN 7 to nvme1n1", "start nvme1n1")
				}
				l.want("status This stick has already installed Gangway on this machine.", "note the stick", "start nvme1n1", "restart")
				l.never("install to", "status More than one", "serial Everything")
			})
		})
	}
	t.Run("settings that cannot be handed over", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			l := newLab(t, small)
			l.systems["sda"], l.settings = ours(small, manifestSum), &netfile.Settings{VLAN: 7}
			l.failing["bring VLAN 7 to sda"] = errBroken
			l.run(automatic, time.Minute, "")
			l.want("alarm it is broken", "restart")
			l.never("start sda")
		})
	})
}

// If the image's disk rule does not select exactly one disk, a person chooses a disk. The person
// can choose only a disk that matches the rule.
func TestPersonChoosesADisk(t *testing.T) {
	t.Parallel()
	t.Run("of two", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			l := newLab(t, nvme, second, small, stick)
			l.run(automatic, time.Minute, "3", "x", "0", "2")
			l.want("status More than one disk matches the disk rule", "log 1: /dev/nvme0n1", "log 2: /dev/nvme1n1", "log Type the number of the disk",
				`log "3" is not a number from 1 to 2:`, `log "x" is not`, `log "0" is not`, "install to nvme1n1")
			l.never("log 3:")
		})
	})
	t.Run("none is built in", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			l := newLab(t, usb, stick)
			l.run(automatic, time.Minute, "1")
			l.want("alarm Only disks that may be external match.", "log 1: /dev/sdb", "install to sdb")
		})
	})
	t.Run("another disk comes", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			l := newLab(t, usb, stick)
			l.later, l.comeAt = []install.Disk{nvme, usb, stick}, time.Minute
			l.run(automatic, 0)
			l.want("alarm Only disks that may be external match.", "status Looking for disks", "install to nvme0n1")
		})
	})
}

// The installer finds a disk that appears late.
func TestInstallerWaitsUntilTheDisksAreThere(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		first, later []install.Disk
		comeAt       time.Duration
	}{
		"a larger one comes at once":     {[]install.Disk{small}, []install.Disk{small, nvme}, time.Second},
		"a controller is late":           {[]install.Disk{stick}, []install.Disk{nvme, stick}, 14 * time.Second},
		"a disk is not ready":            {[]install.Disk{small, asleep}, []install.Disk{small, nvme}, 14 * time.Second},
		"only an external disk is there": {[]install.Disk{usb}, []install.Disk{usb, nvme}, 14 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				l := newLab(t, c.first...)
				l.later, l.comeAt = c.later, c.comeAt
				l.run(automatic, 0)
				l.want("install to nvme0n1")
			})
		})
	}
}

// The installer waits for a disk that spins up and for the disks of a late controller. Otherwise
// it would choose the second-largest disk.
func TestWaitsForDisksThatAreNotReady(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		disks []install.Disk
		want  time.Duration
	}{
		{[]install.Disk{nvme, usb, stick}, diskSettle},
		{[]install.Disk{nvme, asleep}, diskReady},
		{[]install.Disk{usb, stick}, diskReady},
		{[]install.Disk{stick}, diskReady},
		{nil, diskReady},
	} {
		if got := settleTime(c.disks); got != c.want {
			t.Errorf("%v: %s, want %s", identities(c.disks), got, c.want)
		}
	}
}

// To the installer, the list of disks has changed if a disk reports its size, or if another disk
// gets the name of a listed disk.
func TestTellsADiskFromWhatItWas(t *testing.T) {
	t.Parallel()
	was := identities([]install.Disk{{Name: "sda", Seq: 3}, {Name: "sdb", Seq: 4, Size: 8e9}})
	for _, c := range []struct {
		disks   []install.Disk
		changed bool
	}{
		{[]install.Disk{{Name: "sda", Seq: 3}, {Name: "sdb", Seq: 4, Size: 8e9}}, false},
		{[]install.Disk{{Name: "sda", Seq: 3, Size: 4e9}, {Name: "sdb", Seq: 4, Size: 8e9}}, true},
		{[]install.Disk{{Name: "sda", Seq: 3}, {Name: "sdb", Seq: 9, Size: 8e9}}, true},
		{[]install.Disk{{Name: "sda", Seq: 3}}, true},
		{nil, true},
	} {
		if changed := !slices.Equal(identities(c.disks), was); changed != c.changed {
			t.Errorf("%v after %v: changed %v", identities(c.disks), was, changed)
		}
	}
}

func TestRecoveryKeyIsInTheFormOfCryptenroll(t *testing.T) {
	t.Parallel()
	a, b := newRecoveryKey(), newRecoveryKey()
	if !regexp.MustCompile(`^([cbdefghijklnrtuv]{8}-){7}[cbdefghijklnrtuv]{8}$`).MatchString(a) || a == b {
		t.Errorf("%s, %s", a, b)
	}
	k := &Keys{Passphrase: []byte("p"), Token: map[string]any{"a": 1}, Recovery: a, Escrow: map[string]any{"b": 2}}
	if s := k.slots(); len(s) != 2 || string(s[0].Passphrase) != "p" || s[0].Token["a"] != 1 || string(s[1].Passphrase) != a || s[1].Token["b"] != 2 {
		t.Errorf("slots %v", s)
	}
	if s := (*Keys)(nil).slots(); s != nil {
		t.Errorf("slots without keys: %v", s)
	}
}

// A wipe may be interrupted at any step. The installer removes the partition tables last, so that
// the next wipe finds the disks again.
func TestStepsOfAWipe(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := newLab(t, nvme, small, stick)
		l.systems["nvme0n1"], l.systems["sda"] = ours(nvme, "x"), ours(small, "y")
		l.run((*Installer).Reset, 0)
		l.want("panel Gangway wipe", "find the stick for 1m0s", "fact Disk: /dev/nvme0n1", "fact Disk 2: /dev/sda", "fact TPM: 2.0",
			"serial All Gangway data on this machine will be erased in 10 seconds",
			"erase nvme0n1", "log /dev/nvme0n1 is erased", "erase sda", "clear the TPM", "log the TPM is cleared", "forget the boot entry",
			"unlist nvme0n1", "unlist sda", "sync", "status Wiped: this machine has no owner.", "power off")
		l.never("alarm", "restart")
		if took := time.Since(l.began); took < countdown*time.Second+time.Minute {
			t.Errorf("off after %s", took)
		}
	})
}

// If a person presses Enter during the countdown of a wipe, the installer wipes nothing.
func TestWipeIsStopped(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := newLab(t, nvme)
		l.systems["nvme0n1"] = ours(nvme, "x")
		l.run((*Installer).Reset, 5*time.Second, "", "")
		l.want("alarm Stopped: nothing was erased.", "log Press Enter to switch off.", "power off")
		l.never("erase", "clear", "unlist", "forget")
	})
}

// If the machine has no Gangway system, another system may use the TPM. So the installer clears the
// TPM only if a person confirms this.
func TestTPMOfAnotherSystemIsClearedOnlyByAPerson(t *testing.T) {
	t.Parallel()
	for word, clears := range map[string]bool{"wipe": true, "WIPE": true, "": false, "yes": false} {
		t.Run(word, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				l := newLab(t, nvme)
				l.run((*Installer).Reset, time.Hour, word, "")
				l.want("alarm No disk of this machine has a Gangway system.", "power off")
				if l.did("clear the TPM") != clears {
					t.Errorf("cleared: %v", !clears)
				}
				l.never("erase", "unlist")
			})
		})
	}
}

// If the installer could not wipe a disk or clear the TPM, the screen says what was not wiped, and
// why. The screen does not report the machine as wiped.
func TestNotAllIsWiped(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(l *lab)
		says  string
	}{
		"a disk fails":            {func(l *lab) { l.failing["erase nvme0n1"] = errBroken }, "alarm NOT ALL IS WIPED:\n/dev/nvme0n1: it is broken"},
		"a table stays":           {func(l *lab) { l.failing["unlist nvme0n1"] = errBroken }, "alarm NOT ALL IS WIPED:\n/dev/nvme0n1: it is broken"},
		"the TPM is not cleared":  {func(l *lab) { l.failing["clear the TPM"] = errBroken }, "alarm NOT ALL IS WIPED:\nit is broken"},
		"there is no TPM":         {func(l *lab) { l.tpm = machine.ErrNoTPM }, "alarm NOT ALL IS WIPED:\nNo TPM"},
		"a disk cannot be read":   {func(l *lab) { l.unread["sda"] = errBroken }, "alarm NOT ALL IS WIPED:\n/dev/sda cannot be read: it is broken"},
		"it is on the stick":      {func(l *lab) { l.systems["sdz"] = ours(stick, "x") }, "alarm NOT ALL IS WIPED:\n/dev/sdz was not wiped: the stick"},
		"an external disk, Enter": {func(l *lab) { l.systems["sdd"] = ours(system2, "x") }, "alarm NOT ALL IS WIPED:\n/dev/sdd was not wiped: on USB"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				l := newLab(t, nvme, small, system2, stick)
				l.systems["nvme0n1"] = ours(nvme, "x")
				c.spoil(l)
				l.run((*Installer).Reset, time.Hour, "")
				l.want("erase nvme0n1", "forget the boot entry", "unlist nvme0n1", c.says, "log Press Enter to switch off.", "power off")
				l.never("status Wiped", "erase sdz", "erase sdd", "erase sda")
			})
		})
	}
	// If the installer cannot remove the boot entry, the wipe still succeeds, because the boot
	// entry contains no secret.
	t.Run("the boot entry stays", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			l := newLab(t, nvme)
			l.systems["nvme0n1"] = ours(nvme, "x")
			l.failing["forget the boot entry"] = errBroken
			l.run((*Installer).Reset, 0)
			l.want("log it is broken", "status Wiped", "power off")
		})
	})
}

// An external disk may belong to another machine. The installer wipes an external disk only if this
// machine's firmware has a boot entry for the disk, or if a person types the disk's name.
func TestExternalDiskOfAnotherMachineIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		starts string
		typed  []string
		wiped  bool
	}{
		"firmware starts it":      {"esp-sdd", nil, true},
		"a person types sdd":      {"", []string{"sdd"}, true},
		"a person types the path": {"", []string{"/dev/sdd"}, true},
		"a person types another":  {"", []string{"sda", "no"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				l := newLab(t, system2)
				l.systems["sdd"], l.firmwares = ours(system2, "x"), c.starts
				l.run((*Installer).Reset, diskReady+10*time.Second, c.typed...)
				if l.did("erase sdd") != c.wiped {
					t.Errorf("wiped: %v\n%q", !c.wiped, l.log)
				}
			})
		})
	}
}

func TestSystemsAreLookedForOnEveryDisk(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.unread["sda"] = fs.ErrPermission
	systems, failed := l.installer().systemsOn([]install.Disk{nvme, small})
	if len(systems) != 0 || len(failed) != 1 {
		t.Errorf("%v, %v", systems, failed)
	}
}

// If a person requests a wipe at the machine's console, the wipe erases only the machine's own
// disk.
func TestWipeOfTheRunningSystem(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(l *lab)
		want  []string
		never []string
	}{
		"one disk": {nil, []string{"erase sda", "log /dev/sda is erased", "clear the TPM", "log the TPM is cleared", "forget the boot entry", "unlist sda", "sync", "status Wiped: this machine has no owner.", "power off"}, []string{"alarm"}},
		"another disk with Gangway": {func(l *lab) { l.systems["sdb"] = &install.Installed{Disk: "sdb", Whole: true, ESPGUID: "esp-sdb"} },
			[]string{"erase sda", "unlist sda", "power off"}, []string{"erase sdb", "unlist sdb"}},
		"a copy of the disk": {func(l *lab) { l.systems["sdb"] = &install.Installed{Disk: "sdb", Whole: true, ESPGUID: "esp-sda"} },
			[]string{"alarm NOT WIPED: 2 disks have this machine's system.", "power off"}, []string{"erase", "clear", "unlist"}},
		"a disk that fails": {func(l *lab) { l.failing["erase sda"] = errOther }, []string{"erase sda", "clear", "alarm NOT ALL IS WIPED:\n/dev/sda:", "power off"}, []string{"status Wiped"}},
		"a TPM that fails":  {func(l *lab) { l.tpm = errOther }, []string{"erase sda", "unlist sda", "alarm NOT ALL IS WIPED:", "power off"}, []string{"clear", "status Wiped"}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				l := newLab(t, install.Disk{Name: "sda"}, install.Disk{Name: "sdb"})
				l.noStickUsed = true
				l.systems["sda"] = &install.Installed{Disk: "sda", Whole: true, ESPGUID: "esp-sda"}
				if c.spoil != nil {
					c.spoil(l)
				}
				l.run(func(i *Installer) { i.WipeSystem("esp-sda") }, 0)
				l.want(c.want...)
				l.never(c.never...)
			})
		})
	}
}
