package boot_test

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"gangway/hub/boot"
	"gangway/internal/eventlog"
	"gangway/internal/fleet"
	"gangway/tcg"
	tcglog "gangway/tcg/eventlog"
	"gangway/wire"
	"gangway/wire/manifest"
	"gangway/wire/manifest/measure"
)

// realTable returns the partition table that OVMF measured into PCR 5 when it started a disk: see
// testdata/README.md.
func realTable(t testing.TB) []byte {
	t.Helper()
	_, log := real(t, "sdboot")
	for _, e := range tcglog.Read(log, tcg.AlgSHA256).Events {
		if tcglog.CheckPartitions(e.Data) == nil {
			return e.Data
		}
	}
	t.Fatal("no partition table")
	return nil
}

// otherTable returns realTable with another GUID of the disk.
func otherTable(t testing.TB, n byte) []byte {
	table := bytes.Clone(realTable(t))
	table[56] ^= n
	return table
}

// OVMF leaves in PCR 5 exactly the value that follows from the partition table.
func TestPCR5OfARealBootFollowsFromItsPartitionTable(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"uki", "sdboot"} {
		pcrs, log := real(t, name)
		var table []byte
		for _, e := range tcglog.Read(log, tcg.AlgSHA256).Events {
			if e.PCR == 5 && tcglog.CheckPartitions(e.Data) == nil {
				table = e.Data
			}
		}
		if got := measure.PCR5(table, crypto.SHA256); !bytes.Equal(got, pcrs[5]) {
			t.Errorf("%s: PCR 5 is %x, computed %x", name, pcrs[5], got)
		}
		table = append(bytes.Clone(table[:len(table)-1]), table[len(table)-1]^1)
		if bytes.Equal(measure.PCR5(table, crypto.SHA256), pcrs[5]) {
			t.Errorf("%s: another table has the same PCR 5", name)
		}
	}
}

// managerDigest is the SHA-256 of the boot manager in the image that the tests install.
var managerDigest = hexSum("boot manager")

// imaged returns the manifest of an image: its system, its boot manager and its installer.
func imaged(t testing.TB) *manifest.Manifest {
	t.Helper()
	m := shipped("image", 1, "linux 1", "quiet")
	m.BootManager = &manifest.Program{SHA256: hexSum("file"), Authenticode: map[string]string{bank: managerDigest}}
	m.Installers = []manifest.System{shipped("", 1, "installer", "install").System}
	return m
}

// managed returns the log of a boot in which firmware starts the boot manager, and the boot manager
// starts the system. If `table` is not nil, firmware also measures the partition table `table`, and
// measures into PCR 5 that the kernel takes over (ExitBootServices).
func managed(t testing.TB, kernel, line string, table []byte) eventlog.Log {
	t.Helper()
	l := eventlog.Boot(true, kernel, line)
	i := slices.IndexFunc(l, func(e eventlog.Event) bool { return e.Type == eventlog.EFIBootApplication })
	started := eventlog.Event{PCR: 4, Type: eventlog.EFIBootApplication, Data: make([]byte, 32), Digest: must(hex.DecodeString(managerDigest))(t)}
	events := eventlog.Log{started}
	if table != nil {
		events = eventlog.Log{{PCR: 5, Type: 0x80000006, Data: table}, started}
	}
	l = slices.Insert(l, i, events...)
	if table != nil {
		for _, step := range []string{"Exit Boot Services Invocation", "Exit Boot Services Returned with Success"} {
			l = append(l, eventlog.Event{PCR: 5, Type: eventlog.EFIAction, Data: []byte(step)})
		}
	}
	return l
}

// reportBy returns a program's report about the partition table `table`. The program makes the
// report in a boot with the log `l`. Like an installer's report, the report has only the events of
// a few PCRs.
func reportBy(t testing.TB, d *fleet.Device, l eventlog.Log, table []byte, resets uint32) *wire.InstallReport {
	t.Helper()
	short := slices.DeleteFunc(slices.Clone(l), func(e eventlog.Event) bool { return e.PCR != 4 && e.PCR != 11 && e.PCR != 12 }).Bytes()
	attest, signature, err := d.Quote(wire.InstallQualifying(table, short), tcg.AlgSHA256, l.PCRs(), resets)
	if err != nil {
		t.Fatal(err)
	}
	return &wire.InstallReport{Table: table, Bank: uint16(tcg.AlgSHA256), PCRs: l.PCRs(), Attest: attest, Signature: signature, EventLog: short}
}

// bootWith returns the measurement of a boot with a report. `resets` is the TPM's reset count in
// that boot.
func bootWith(t testing.TB, l eventlog.Log, r *wire.InstallReport, resets uint32) *boot.Measurement {
	t.Helper()
	return bootHiding(t, l, nil, r, resets)
}

// bootHiding returns the measurement of a boot in which the device also measures the events
// `hidden`, which it leaves out of the log.
func bootHiding(t testing.TB, l, hidden eventlog.Log, r *wire.InstallReport, resets uint32) *boot.Measurement {
	t.Helper()
	d, e := measured(t, append(slices.Clone(l), hidden...))
	e.Log = l.Bytes()
	var err error
	if e.Attest, e.Signature, err = d.Quote(wire.BootQualifying(e.Nonce, e.Log), e.Bank, e.PCRs, resets); err != nil {
		t.Fatal(err)
	}
	m := must(boot.Verify(d.IAK.Public, e))(t)
	if r != nil {
		if m.Installed, err = boot.VerifyInstallation(d.IAK.Public, r); err != nil {
			m.InstalledProblem = err.Error()
		}
	}
	return m
}

// path returns the verdict on the boot path.
func path(v *boot.Verdict) boot.PartVerdict { return v.Parts[2] }

// A report makes PCR 5 expected only if the owner's installer made the report, on this machine,
// before this boot. No other program can make such a report.
func TestReportOfAnInstallerCountsOnlyIfTheOwnersInstallerMadeIt(t *testing.T) {
	t.Parallel()
	d := must(machine())(t)
	stranger := must(d.WithNewIdentity())(t)
	table, other := realTable(t), otherTable(t, 1)
	installer := managed(t, "installer", "install", nil)
	system := managed(t, "linux 1", "quiet", table)
	shell := append(slices.Clone(installer), eventlog.Event{PCR: 12, Type: eventlog.IPL, Data: eventlog.UTF16("init=/bin/sh")})
	// foreign is the boot of a live system that extends PCR 11 as the installer does.
	foreign := append(managed(t, "live system", "", nil)[:14], installer[14:]...)
	after := append(slices.Clone(installer), eventlog.Event{PCR: 4, Type: eventlog.EFIBootApplication, Data: []byte{1}})
	extension := append(slices.Clone(installer), eventlog.Event{PCR: 11, Type: eventlog.IPL, Data: []byte("a system extension")})
	good := func() *wire.InstallReport { return reportBy(t, d, installer, table, 4) }
	altered := good()
	altered.Table = other
	mixed := good()
	mixed.PCRs = system.PCRs()
	broken := good()
	broken.Table = broken.Table[:40]
	large := good()
	large.EventLog = append(large.EventLog, make([]byte, wire.MaxInstallReport)...)
	attest, signature, err := d.Quote(wire.BootQualifying(nonce, good().EventLog), tcg.AlgSHA256, installer.PCRs(), 4)
	if err != nil {
		t.Fatal(err)
	}
	replayed := &wire.InstallReport{Table: table, Bank: uint16(tcg.AlgSHA256), PCRs: installer.PCRs(), Attest: attest, Signature: signature, EventLog: good().EventLog}
	const first = "This boot is the reference now. "
	for _, c := range []struct {
		name   string
		report *wire.InstallReport
		state  string
		words  string // the end of the sentence
	}{
		{"the installer's report", good(), boot.StateExpected, `PCR 5 has the partition table that the installer of "image" wrote on this disk.`},
		{"no report", nil, boot.StateKnown, first + "The device sent no report of an installer."},
		{"a report on another table", reportBy(t, d, installer, other, 4), boot.StateChanged, "firmware started another disk."},
		{"a report of the installed system", reportBy(t, d, system, table, 4), boot.StateKnown, "that the owner's manifests name."},
		{"a report of a live system with the installer's PCR 11", reportBy(t, d, foreign, table, 4), boot.StateKnown, "that the owner's manifests name."},
		{"a report of an installer with another command line", reportBy(t, d, shell, table, 4), boot.StateKnown, "that the owner's manifests name."},
		{"a report of an installer with something else in PCR 11", reportBy(t, d, extension, table, 4), boot.StateKnown, "that the owner's manifests name."},
		{"a report of a program that the installer started", reportBy(t, d, after, table, 4), boot.StateKnown, "that the owner's manifests name."},
		{"a report of another TPM", reportBy(t, stranger, installer, table, 4), boot.StateKnown, "The quote is not signed by the device's attestation key."},
		{"a report whose table was altered", altered, boot.StateKnown, "The quote was not made for the reported partition table."},
		{"a report with the PCRs of another boot", mixed, boot.StateKnown, "The PCR values that the device sent are not the quoted values."},
		{"a boot measurement in the place of a report", replayed, boot.StateKnown, "The quote was not made for the reported partition table."},
		{"a report without a table", broken, boot.StateKnown, "It has no partition table."},
		{"a report that is too large", large, boot.StateKnown, "It has more than 32768 bytes."},
		{"a report from the same boot", reportBy(t, d, installer, table, 5), boot.StateKnown, "The report of an installer is not older than this boot."},
		{"a report from a later boot", reportBy(t, d, installer, table, 6), boot.StateKnown, "The report of an installer is not older than this boot."},
	} {
		v := boot.Judge(bootWith(t, system, c.report, 5), boot.Rules{Manifests: []*manifest.Manifest{imaged(t)}})
		if p := path(v); p.State != c.state || !strings.HasSuffix(p.Words, c.words) {
			t.Errorf("%s: %s: %s", c.name, p.State, p.Words)
		}
		if v.Learn != (c.state != boot.StateChanged) || v.Unproven != (c.state == boot.StateKnown) {
			t.Errorf("%s: learn %v, unproven %v", c.name, v.Learn, v.Unproven)
		}
		if counted := c.state == boot.StateExpected; v.System == nil || counted != (v.System.Installed == 4) {
			t.Errorf("%s: %+v", c.name, v.System)
		}
	}
	// If the log does not explain PCR 5, the value of PCR 5 still proves the partition table.
	m := bootWith(t, system, good(), 5)
	m.Events = slices.DeleteFunc(m.Events, func(e boot.Event) bool { return e.PCR == 5 })
	m.Unexplained = []int{5}
	if p := path(boot.Judge(m, boot.Rules{Manifests: []*manifest.Manifest{imaged(t)}})); p.State != boot.StateExpected {
		t.Errorf("without the events of PCR 5: %+v", p)
	}
	// If a manifest names no installer, its image makes no report.
	plain := imaged(t)
	plain.Installers = nil
	for _, r := range []*wire.InstallReport{nil, good()} {
		if p := path(boot.Judge(bootWith(t, system, r, 5), boot.Rules{Manifests: []*manifest.Manifest{plain}})); p.State != boot.StateExpected || strings.Contains(p.Words, "installer") {
			t.Errorf("an image without reports: %+v", p)
		}
	}
}

// A partition table that was altered after the installation is a change, whatever report the device
// sends. A new installation by the owner's installer is expected, and the report of the former
// installation then no longer counts.
func TestAlteredPartitionTableIsAChange(t *testing.T) {
	t.Parallel()
	d := must(machine())(t)
	table, altered, again := realTable(t), otherTable(t, 1), otherTable(t, 2)
	installer := managed(t, "installer", "install", nil)
	report, second := reportBy(t, d, installer, table, 4), reportBy(t, d, installer, again, 9)
	rules := boot.Rules{Manifests: []*manifest.Manifest{imaged(t)}}
	firstBoot := bootWith(t, managed(t, "linux 1", "quiet", table), report, 5)
	v := boot.Judge(firstBoot, rules)
	if path(v).State != boot.StateExpected || !v.Learn {
		t.Fatalf("the first boot: %s", states(v))
	}
	rules.Reference, rules.Before = boot.NewReference(firstBoot, "the first boot", may3), v.System
	for _, c := range []struct {
		name   string
		table  []byte
		report *wire.InstallReport
		state  string
	}{
		{"the same table", table, report, boot.StateExpected},
		{"the same table, without the report", table, nil, boot.StateExpected},
		{"an altered table", altered, report, boot.StateChanged},
		{"an altered table, without the report", altered, nil, boot.StateChanged},
		{"an altered table that the installed system reports", altered, reportBy(t, d, managed(t, "linux 1", "quiet", table), altered, 6), boot.StateChanged},
		{"a new installation", again, second, boot.StateExpected},
		{"a new installation, without the report", again, nil, boot.StateChanged},
	} {
		v := boot.Judge(bootWith(t, managed(t, "linux 1", "quiet", c.table), c.report, 10), rules)
		if p := path(v); p.State != c.state {
			t.Errorf("%s: %s: %s", c.name, p.State, p.Words)
		}
		if c.name == "a new installation" {
			rules.Before = v.System
		}
	}
	if rules.Before.Installed != 9 {
		t.Fatalf("%+v", rules.Before)
	}
	rules.Reference = boot.NewReference(bootWith(t, managed(t, "linux 1", "quiet", again), second, 10), "latest", may3)
	if p := path(boot.Judge(bootWith(t, managed(t, "linux 1", "quiet", table), report, 11), rules)); p.State != boot.StateChanged {
		t.Errorf("the disk of the former installation, with its report: %+v", p)
	}
}

// If nothing proves the partition table of a first boot, the verdict on the boot path is
// StateKnown. It becomes StateExpected only if the owner accepts the boot, or the device sends the
// installer's report.
func TestUnprovenFirstBootIsKnownUntilItsOwnerAcceptsIt(t *testing.T) {
	t.Parallel()
	d := must(machine())(t)
	table := realTable(t)
	system := managed(t, "linux 1", "quiet", table)
	m := bootWith(t, system, nil, 5)
	rules := boot.Rules{Manifests: []*manifest.Manifest{imaged(t)}, Reference: boot.NewReference(m, "the first boot", may3)}
	rules.Reference.Unproven = true
	for _, c := range []struct {
		name   string
		report *wire.InstallReport
		want   string
	}{
		{"without a report", nil, boot.StateKnown},
		{"with a report", reportBy(t, d, managed(t, "installer", "install", nil), table, 4), boot.StateExpected},
	} {
		if p := path(boot.Judge(bootWith(t, system, c.report, 7), rules)); p.State != c.want {
			t.Errorf("%s: %+v", c.name, p)
		}
	}
	rules.Reference = boot.NewReference(m, "the boot of 3 May", may3)
	if p := path(boot.Judge(bootWith(t, system, nil, 7), rules)); p.State != boot.StateExpected {
		t.Errorf("accepted by its owner: %+v", p)
	}
}

// A new installation adds its entry to the boot menu. The report determines this entry, so PCR 1
// may differ from the reference only in this entry.
func TestBootEntryOfTheReportedDiskIsNoChange(t *testing.T) {
	t.Parallel()
	d := must(machine())(t)
	table := realTable(t)
	guid, start, size, ok := tcglog.FirstESP(table)
	if !ok {
		t.Fatal("the table does not begin with an EFI system partition")
	}
	own := wire.BootEntry(start, size, guid)
	forged := bytes.Clone(own)
	forged[len(forged)-8] ^= 1
	on := func(table []byte, entries ...[]byte) eventlog.Log {
		var l eventlog.Log
		var order []byte
		for i := range entries {
			order = append(order, byte(i), 0)
		}
		l = append(l, eventlog.Event{PCR: 1, Type: eventlog.EFIVariableDriver, Data: eventlog.Variable("BootOrder", order)})
		for i, e := range entries {
			l = append(l, eventlog.Event{PCR: 1, Type: eventlog.EFIVariableDriver, Data: eventlog.Variable("Boot000"+string(rune('0'+i)), e)})
		}
		return append(l, managed(t, "linux 1", "quiet", table)...)
	}
	with := func(entries ...[]byte) eventlog.Log { return on(table, entries...) }
	setup := append(append([]byte{1, 0, 0, 0, 4, 0}, eventlog.UTF16("Setup")...), 0x7F, 0xFF, 4, 0)
	report := reportBy(t, d, managed(t, "installer", "install", nil), table, 4)
	rules := boot.Rules{Manifests: []*manifest.Manifest{imaged(t)}, Reference: boot.NewReference(bootWith(t, with(setup), nil, 3), "the first boot", may3)}
	setting := eventlog.Event{PCR: 1, Type: eventlog.EFIVariableDriver, Data: eventlog.Variable("Setup", []byte{1})}
	for _, c := range []struct {
		name        string
		log, hidden eventlog.Log
		report      *wire.InstallReport
		want        string
	}{
		{"the installer's entry", with(own, setup), nil, report, boot.StateKnown},
		{"the installer's entry, without a report", with(own, setup), nil, nil, boot.StateChanged},
		{"the installer's entry, on a disk with another partition table", on(otherTable(t, 1), own, setup), nil, report, boot.StateChanged},
		{"another entry", with(forged, setup), nil, report, boot.StateChanged},
		{"the installer's entry and another one", with(own, forged, setup), nil, report, boot.StateChanged},
		{"the installer's entry and a setting of the firmware", append(with(own, setup), setting), nil, report, boot.StateChanged},
		{"the installer's entry and a setting that the log does not have", with(own, setup), eventlog.Log{setting}, report, boot.StateUnexplained},
	} {
		v := boot.Judge(bootHiding(t, c.log, c.hidden, c.report, 5), rules)
		if p := v.Parts[0]; p.State != c.want {
			t.Errorf("%s: %+v", c.name, p)
		}
	}
}
