package boot_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/boot"
	"gangway/internal/eventlog"
	"gangway/wire/manifest"
)

const bank = "SHA-256"

func hexSum(text string) string {
	d := sha256.Sum256([]byte(text))
	return hex.EncodeToString(d[:])
}

func extendedWith(value []byte, digest [32]byte) []byte {
	d := sha256.Sum256(append(slices.Clone(value), digest[:]...))
	return d[:]
}

// shipped returns the manifest of the system that eventlog.Boot starts. The manifest's values are
// computed from the system's content, not copied from a measurement.
func shipped(name string, sequence uint64, kernel, line string) *manifest.Manifest {
	pcr11 := make([]byte, 32)
	for _, s := range []string{".linux\x00", kernel, ".cmdline\x00", line} {
		pcr11 = extendedWith(pcr11, sha256.Sum256([]byte(s)))
	}
	m := &manifest.Manifest{Format: manifest.Format, Name: name, Sequence: sequence}
	m.System.SHA256 = hexSum("file of " + kernel + line)
	m.System.Authenticode = map[string]string{bank: hexSum("image of " + kernel + line)}
	m.System.Cmdline = line
	m.System.PCR11 = map[string]map[string]string{bank: {"": hex.EncodeToString(pcr11)}}
	return m
}

// states summarizes the verdict, for example as "firmware known, keys known, ...".
func states(v *boot.Verdict) string {
	var out []string
	for _, p := range v.Parts {
		out = append(out, p.Part+" "+p.State)
	}
	return strings.Join(out, ", ")
}

func TestPartsOfABootAreJudged(t *testing.T) {
	t.Parallel()
	one, two := shipped("one", 1, "linux 1", "quiet"), shipped("two", 2, "linux 2", "quiet")
	log1, log2 := eventlog.Boot(true, "linux 1", "quiet"), eventlog.Boot(true, "linux 2", "quiet")
	ref1 := boot.NewReference(verify(t, log1), "the first boot", may3)
	first := log1[0]
	other := append(eventlog.Log{{PCR: 0, Type: first.Type, Data: eventlog.UTF16("fw 1.3")}}, log2[1:]...)
	foreign := eventlog.Boot(true, "live system", "")
	line := append(slices.Clone(log2), eventlog.Event{PCR: 12, Type: eventlog.IPL, Data: eventlog.UTF16("init=/bin/sh")})
	sameLine := append(slices.Clone(log2), eventlog.Event{PCR: 12, Type: eventlog.IPL, Data: eventlog.UTF16("quiet")})
	before := &boot.System{Name: "two", Sequence: 2, Since: may3.AddDate(0, 1, 0)}
	for _, c := range []struct {
		name  string
		log   eventlog.Log
		rules boot.Rules
		want  string
		cause string // of the first part that is neither expected nor known
		learn bool
	}{
		{"the first boot, without manifests", log1, boot.Rules{}, "firmware known, keys known, boot-path known, system known, rest known", "", true},
		{"the same boot, without manifests", log1, boot.Rules{Reference: ref1}, "firmware known, keys known, boot-path known, system known, rest known", "", false},
		{"another system, without manifests", log2, boot.Rules{Reference: ref1}, "firmware known, keys known, boot-path changed, system changed, rest known", "", false},
		{"the first boot, with its manifest", log1, boot.Rules{Manifests: []*manifest.Manifest{one, two}}, "firmware known, keys known, boot-path expected, system expected, rest expected", "", true},
		{"the first boot of a foreign system", foreign, boot.Rules{Manifests: []*manifest.Manifest{one}}, "firmware changed, keys changed, boot-path changed, system changed, rest changed", boot.CauseNoReference, false},
		{"a posted update", log2, boot.Rules{Reference: ref1, Manifests: []*manifest.Manifest{one, two}, Wanted: []string{one.System.SHA256, two.System.SHA256}}, "firmware known, keys known, boot-path expected, system expected, rest expected", "", false},
		{"an update that nobody posted", log2, boot.Rules{Reference: ref1, Manifests: []*manifest.Manifest{one, two}, Wanted: []string{one.System.SHA256}}, "firmware known, keys known, boot-path changed, system changed, rest known", boot.CauseUnwanted, false},
		{"an ordered roll-back", log1, boot.Rules{Reference: ref1, Before: before, Manifests: []*manifest.Manifest{one, two}, Wanted: []string{one.System.SHA256}}, "firmware known, keys known, boot-path expected, system expected, rest expected", "", false},
		{"a roll-back after the update was done", log1, boot.Rules{Reference: ref1, Before: before, Since: may3.AddDate(0, 1, 0), Manifests: []*manifest.Manifest{one, two}, Wanted: []string{two.System.SHA256}}, "firmware known, keys known, boot-path changed, system changed, rest known", boot.CauseRolledBack, false},
		{"a roll-back on a device without revisions", log1, boot.Rules{Reference: ref1, Before: before, Manifests: []*manifest.Manifest{one, two}}, "firmware known, keys known, boot-path changed, system changed, rest known", boot.CauseRolledBack, false},
		{"a roll-back that the owner accepted", log1, boot.Rules{Reference: boot.NewReference(verify(t, log1), "the boot", may3.AddDate(0, 2, 0)), Before: before, Manifests: []*manifest.Manifest{one, two}}, "firmware known, keys known, boot-path known, system known, rest known", "", false},
		{"other firmware under the right system", other, boot.Rules{Reference: ref1, Manifests: []*manifest.Manifest{two}}, "firmware changed, keys known, boot-path expected, system expected, rest expected", boot.CauseFirmware, false},
		{"another command line", line, boot.Rules{Reference: ref1, Manifests: []*manifest.Manifest{two}}, "firmware known, keys known, boot-path expected, system changed, rest expected", boot.CauseNoManifest, false},
		{"the manifest's command line, measured again", sameLine, boot.Rules{Reference: ref1, Manifests: []*manifest.Manifest{two}}, "firmware known, keys known, boot-path expected, system expected, rest expected", "", false},
		{"a program before the right system", append(append(slices.Clone(log2[:12]), eventlog.Event{PCR: 4, Type: eventlog.EFIBootApplication, Data: []byte{1}}), log2[12:]...), boot.Rules{Reference: ref1, Manifests: []*manifest.Manifest{two}}, "firmware known, keys known, boot-path changed, system expected, rest expected", boot.CauseNoManifest, false},
		{"a program after the right system", append(slices.Clone(log2), eventlog.Event{PCR: 4, Type: eventlog.EFIBootApplication, Data: []byte{1}}), boot.Rules{Reference: ref1, Manifests: []*manifest.Manifest{two}}, "firmware known, keys known, boot-path changed, system expected, rest expected", boot.CauseNoManifest, false},
		{"Secure Boot off", eventlog.Boot(false, "linux 1", "quiet"), boot.Rules{Reference: ref1}, "firmware known, keys changed, boot-path known, system known, rest known", boot.CauseSecureBoot, false},
	} {
		v := boot.Judge(verify(t, c.log), c.rules)
		if got := states(v); got != c.want || v.Learn != c.learn {
			t.Errorf("%s: %s, learn %v", c.name, got, v.Learn)
		}
		if v.Matches() != (len(v.Changes) == 0) {
			t.Errorf("%s: matches %v with the changes %q", c.name, v.Matches(), words(v.Changes))
		}
		cause := ""
		for _, p := range v.Parts {
			if !strings.HasSuffix(p.Words, ".") || len(p.Value) != 64 {
				t.Errorf("%s: %+v", c.name, p)
			}
			if cause == "" {
				cause = p.Cause
			}
		}
		if cause != c.cause {
			t.Errorf("%s: cause %q", c.name, cause)
		}
	}
}

// If the rules have no manifests and no decisions, the verdict must list the changes that Compare
// finds. If Compare finds none, the boot must match.
func TestVerdictWithoutManifestsIsTheComparison(t *testing.T) {
	t.Parallel()
	names := []string{"uki", "uki-cmdline", "uki-kernel", "sdboot", "sdboot-cmdline", "sdboot-kernel", "sdboot-initrd"}
	for _, from := range names {
		ref := boot.NewReference(realMeasured(t, from), "the first boot", may3)
		for _, is := range names {
			m := realMeasured(t, is)
			v := boot.Judge(m, boot.Rules{Reference: ref})
			if want := boot.Compare(ref, m); !slices.Equal(words(v.Changes), words(want)) || v.Matches() != (len(want) == 0) {
				t.Errorf("%s as %s: %q, not %q", is, from, words(v.Changes), words(want))
			}
		}
	}
}

// realManifest describes the system that a machine in QEMU booted: see testdata/README.md.
func realManifest(t *testing.T, name, line string) *manifest.Manifest {
	t.Helper()
	m := realMeasured(t, name)
	var images []string
	for _, e := range m.Events {
		if e.PCR == 4 && e.What != "the separator in PCR 4" && e.Text == "" {
			images = append(images, e.Digest)
		}
	}
	if len(images) != 2 {
		t.Fatalf("%d images", len(images))
	}
	out := &manifest.Manifest{Name: name, Sequence: 1}
	out.System.SHA256 = hexSum(name)
	out.System.Authenticode = map[string]string{bank: images[0]}
	out.System.Kernel.Authenticode = map[string]string{bank: images[1]}
	out.System.Cmdline = line
	out.System.PCR11 = map[string]map[string]string{bank: {"": m.PCRs[11]}}
	return out
}

// OVMF, systemd's stub and a real kernel measured these boots. The manifest's own boot must be
// expected, although the kernel measured its initial file system and its command line into PCR 9.
// An altered boot must not match, and must not become the reference.
func TestRealBootIsExpectedByItsManifestAndAnAlteredOneIsNot(t *testing.T) {
	t.Parallel()
	line := "console=ttyS0 quiet loglevel=3 panic=-1 gangway.poweroff=onboarded gangway.show=boot"
	rules := boot.Rules{Manifests: []*manifest.Manifest{realManifest(t, "uki", line)}}
	v := boot.Judge(realMeasured(t, "uki"), rules)
	if got := states(v); got != "firmware known, keys known, boot-path expected, system expected, rest expected" || !v.Learn || v.System == nil || v.System.Name != "uki" {
		t.Errorf("%s", got)
	}
	for _, name := range []string{"uki-cmdline", "uki-kernel", "sdboot"} {
		v := boot.Judge(realMeasured(t, name), rules)
		if v.Matches() || v.Learn {
			t.Errorf("%s: %s", name, states(v))
		}
	}
	rules.Manifests[0] = realManifest(t, "uki", "another line")
	if v := boot.Judge(realMeasured(t, "uki"), rules); v.Parts[4].State == boot.StateExpected {
		t.Error("the rest is expected, although PCR 9 has another command line than the manifest")
	}
}

// Nothing proves an event's label and type, so the device can send any label and any type. Neither
// may affect the verdict.
func TestForgedLabelThatNamesTheRightProgramDecidesNothing(t *testing.T) {
	t.Parallel()
	one := shipped("one", 1, "linux 1", "quiet")
	evil := eventlog.Boot(true, "evil", "quiet")
	good := eventlog.Boot(true, "linux 1", "quiet")
	for i := range evil {
		evil[i].Type = good[i].Type
		if evil[i].Digest != nil {
			evil[i].Data = good[i].Digest // the text names the right digest; the extended digest is another
		}
	}
	v := boot.Judge(verify(t, evil), boot.Rules{Manifests: []*manifest.Manifest{one}})
	if v.Matches() || v.Learn || v.System != nil {
		t.Errorf("%s", states(v))
	}
	// The device sends the log of the right boot with the PCR values of another boot.
	d, e := measured(t, eventlog.Boot(true, "evil", "quiet"))
	e.Log = good.Bytes()
	sign(t, d, e)
	v = boot.Judge(must(boot.Verify(d.IAK.Public, e))(t), boot.Rules{Manifests: []*manifest.Manifest{one}})
	if v.Matches() || v.Parts[3].State != boot.StateUnexplained || v.Parts[2].State != boot.StateUnexplained {
		t.Errorf("%s", states(v))
	}
}

// If a device sends an empty event log, the PCR values decide the verdict.
func TestEmptyLogIsJudgedByTheValues(t *testing.T) {
	t.Parallel()
	one := shipped("one", 1, "linux 1", "quiet")
	log := eventlog.Boot(true, "linux 1", "quiet")
	d, e := measured(t, log)
	e.Log = nil
	sign(t, d, e)
	m := must(boot.Verify(d.IAK.Public, e))(t)
	v := boot.Judge(m, boot.Rules{Manifests: []*manifest.Manifest{one}})
	if v.Parts[3].State != boot.StateExpected || v.Parts[2].State != boot.StateUnexplained || v.Learn {
		t.Errorf("%s", states(v)) // PCR 11 is the manifest's value; nothing shows the programs in PCR 4
	}
	ref := boot.NewReference(verify(t, log), "the first boot", may3)
	if v := boot.Judge(m, boot.Rules{Reference: ref}); !v.Matches() {
		t.Errorf("%s", states(v))
	}
	if v := boot.Judge(m, boot.Rules{Reference: boot.NewReference(verify(t, eventlog.Boot(true, "linux 2", "quiet")), "", may3)}); v.Parts[3].State != boot.StateUnexplained {
		t.Errorf("%s", states(v))
	}
}

// A manifest's digests count only for the bank that was quoted.
func TestManifestOfAnotherBankDecidesNothing(t *testing.T) {
	t.Parallel()
	one := shipped("one", 1, "linux 1", "quiet")
	one.System.PCR11 = map[string]map[string]string{"SHA-384": one.System.PCR11[bank]}
	one.System.Authenticode = map[string]string{"SHA-384": one.System.Authenticode[bank]}
	m := verify(t, eventlog.Boot(true, "linux 1", "quiet"))
	if v := boot.Judge(m, boot.Rules{Manifests: []*manifest.Manifest{one}}); v.Matches() || v.System != nil {
		t.Errorf("%s", states(v))
	}
	other := *m
	other.Bank = "SHA-384"
	if m.Values()[boot.PartFirmware] == other.Values()[boot.PartFirmware] {
		t.Error("the value of a part does not depend on the bank")
	}
	v := boot.Judge(&other, boot.Rules{Reference: boot.NewReference(m, "", may3)})
	if v.Matches() || v.Parts[0].Cause != boot.CauseOtherBank || len(v.Changes) != 1 {
		t.Errorf("%s: %q", states(v), words(v.Changes))
	}
}

// A manifest that lists no PCR values matches no boot.
func TestManifestWithoutValuesNamesNoBoot(t *testing.T) {
	t.Parallel()
	for _, log := range []eventlog.Log{eventlog.Boot(true, "linux 1", "quiet"), eventlog.Boot(true, "linux 1", "quiet")[:12]} {
		v := boot.Judge(verify(t, log), boot.Rules{Manifests: []*manifest.Manifest{{Name: "empty"}}})
		if v.Matches() || v.System != nil || v.Learn {
			t.Errorf("%s", states(v))
		}
	}
}

// The owner's decision accepts one measured value of one part of the boot. Other values of this
// part are still not accepted, and other parts of the boot are not affected. A decision about
// FirmwareCode also covers other firmware settings.
func TestDecisionCoversItsPartAndValueOnly(t *testing.T) {
	t.Parallel()
	log := eventlog.Boot(true, "linux 1", "quiet")
	ref := boot.NewReference(verify(t, log), "the first boot", may3)
	log[0].Data = eventlog.UTF16("fw 1.3")
	m := verify(t, log)
	settings := verify(t, append(slices.Clone(log), eventlog.Event{PCR: 1, Type: eventlog.EFIAction, Data: []byte("serial 4711")}))
	accepted := boot.Decision{Part: boot.PartFirmware, Value: m.Values()[boot.PartFirmware], Since: may3}
	code := boot.Decision{Part: boot.FirmwareCode, Value: m.Values()[boot.FirmwareCode], Since: may3}
	for _, c := range []struct {
		name string
		m    *boot.Measurement
		d    boot.Decision
		want string
	}{
		{"its value", m, accepted, boot.StateKnown},
		{"another part", m, boot.Decision{Part: boot.PartKeys, Value: accepted.Value}, boot.StateChanged},
		{"another value", m, boot.Decision{Part: boot.PartFirmware, Value: m.Values()[boot.PartKeys]}, boot.StateChanged},
		{"other settings", settings, accepted, boot.StateChanged},
		{"the code, with other settings", settings, code, boot.StateKnown},
		{"the code's value for the firmware", m, boot.Decision{Part: boot.PartFirmware, Value: code.Value}, boot.StateChanged},
	} {
		v := boot.Judge(c.m, boot.Rules{Reference: ref, Known: []boot.Decision{c.d}})
		if v.Parts[0].State != c.want || v.Parts[1].State != boot.StateKnown {
			t.Errorf("%s: %s", c.name, states(v))
		}
	}
}

// If the firmware measured nothing, the boot never matches, even with a manifest of the system and
// a decision of the owner.
func TestNothingMeasuredIsNeitherExpectedNorKnown(t *testing.T) {
	t.Parallel()
	var log eventlog.Log
	for pcr := range 8 {
		log = append(log, eventlog.Event{PCR: pcr, Type: eventlog.Separator, Data: make([]byte, 4)})
	}
	one := shipped("one", 1, "linux 1", "quiet")
	m := verify(t, append(log, eventlog.Boot(true, "linux 1", "quiet")[13:]...))
	v := boot.Judge(m, boot.Rules{Manifests: []*manifest.Manifest{one}, Known: []boot.Decision{{Part: boot.PartFirmware, Value: m.Values()[boot.PartFirmware]}}})
	if v.Matches() || v.Learn || strings.Count(states(v), boot.StateNothing) != len(boot.Parts) || len(v.Changes) != 1 {
		t.Errorf("%s", states(v))
	}
}

// If a person entered the reference as PCR values, Compare compares only the PCRs that this
// reference has, and PCR 10 may be one of them.
func TestReferenceOfFewValuesComparesOnlyThese(t *testing.T) {
	t.Parallel()
	log := eventlog.Boot(true, "linux 1", "quiet")
	m := verify(t, log)
	ref := &boot.Reference{Bank: bank, PCRs: map[int]string{4: m.PCRs[4], 10: m.PCRs[10]}, Since: may3}
	if v := boot.Judge(m, boot.Rules{Reference: ref}); !v.Matches() {
		t.Errorf("%s: %q", states(v), words(v.Changes))
	}
	ref.PCRs[10] = strings.Repeat("1", 64)
	if v := boot.Judge(m, boot.Rules{Reference: ref}); v.Matches() || v.Parts[4].State != boot.StateChanged {
		t.Errorf("%s", states(v))
	}
	if v := boot.Judge(m, boot.Rules{Reference: &boot.Reference{Bank: bank, Since: may3}}); v.Matches() {
		t.Errorf("a reference without values: %s", states(v))
	}
}

// An update is accepted if it was started by the boot manager of the reference, but not if it was
// started by another boot manager.
func TestUpdateStartedByTheReferencesBootManagerIsKnown(t *testing.T) {
	t.Parallel()
	manager := eventlog.Event{PCR: 4, Type: eventlog.EFIBootApplication, Data: []byte("boot manager")}
	with := func(kernel string, manager eventlog.Event) eventlog.Log {
		l := eventlog.Boot(true, kernel, "quiet")
		return slices.Insert(l, 12, manager)
	}
	two := shipped("two", 2, "linux 2", "quiet")
	ref := boot.NewReference(verify(t, with("linux 1", manager)), "the first boot", may3)
	rules := boot.Rules{Reference: ref, Manifests: []*manifest.Manifest{two}, Wanted: []string{two.System.SHA256}, Since: may3.Add(time.Hour)}
	if got := states(boot.Judge(verify(t, with("linux 2", manager)), rules)); got != "firmware known, keys known, boot-path known, system expected, rest expected" {
		t.Errorf("%s", got)
	}
	evil := manager
	evil.Data = []byte("another boot manager")
	if v := boot.Judge(verify(t, with("linux 2", evil)), rules); v.Matches() {
		t.Errorf("%s", states(v))
	}
	two.BootManager = &manifest.Program{Authenticode: map[string]string{bank: hexSum("boot manager")}}
	if got := states(boot.Judge(verify(t, with("linux 2", manager)), rules)); got != "firmware known, keys known, boot-path expected, system expected, rest expected" {
		t.Errorf("%s", got)
	}
}

// With Secure Boot on, systemd's stub starts its kernel without the firmware's help, so PCR 4 has
// no event for the kernel. With Secure Boot off, the kernel follows the system in PCR 4. No other
// program may follow.
func TestKernelIsInPCR4OnlyIfFirmwareStartsIt(t *testing.T) {
	t.Parallel()
	one := shipped("one", 1, "linux 1", "quiet")
	one.System.Kernel.Authenticode = map[string]string{bank: hexSum("kernel of one")}
	started := func(programs ...string) eventlog.Log {
		l := eventlog.Boot(true, "linux 1", "quiet")
		for _, p := range programs {
			l = append(l, eventlog.Event{PCR: 4, Type: eventlog.EFIBootApplication, Data: []byte(p)})
		}
		return l
	}
	for _, c := range []struct {
		name string
		log  eventlog.Log
		want string
	}{
		{"no kernel", started(), boot.StateExpected},
		{"the kernel", started("kernel of one"), boot.StateExpected},
		{"another kernel", started("another kernel"), boot.StateChanged},
		{"the kernel twice", started("kernel of one", "kernel of one"), boot.StateChanged},
		{"the kernel, then another program", started("kernel of one", "shell"), boot.StateChanged},
	} {
		if v := boot.Judge(verify(t, c.log), boot.Rules{Manifests: []*manifest.Manifest{one}}); v.Parts[2].State != c.want {
			t.Errorf("%s: the boot path is %s, want %s", c.name, v.Parts[2].State, c.want)
		}
	}
}

// Settings of a boot manager in PCR 5 may change with an update; the partition table may not.
func TestPartitionTableIsComparedWithTheReference(t *testing.T) {
	t.Parallel()
	disk := func(table, settings string) eventlog.Log {
		return append(eventlog.Boot(true, "linux 1", "quiet"),
			eventlog.Event{PCR: 5, Type: eventlog.IPL, Data: []byte("EFI PART" + table)}, eventlog.Event{PCR: 5, Type: eventlog.IPL, Data: []byte(settings)})
	}
	one := shipped("one", 1, "linux 1", "quiet")
	rules := boot.Rules{Reference: boot.NewReference(verify(t, disk("a", "default a")), "", may3), Manifests: []*manifest.Manifest{one}}
	for want, log := range map[string]eventlog.Log{boot.StateExpected: disk("a", "default b"), boot.StateChanged: disk("b", "default a")} {
		if v := boot.Judge(verify(t, log), rules); v.Parts[2].State != want {
			t.Errorf("%s, not %s: %s", v.Parts[2].State, want, v.Parts[2].Words)
		}
	}
}

func FuzzValues(f *testing.F) {
	f.Add("ab", "c")
	f.Fuzz(func(t *testing.T, a, b string) {
		one := boot.Measurement{Bank: bank, PCRs: []string{hex.EncodeToString([]byte(a)), hex.EncodeToString([]byte(b)), "", ""}}
		two := one
		two.PCRs = []string{hex.EncodeToString([]byte(a + b)), "", "", ""}
		if (one.Values()[boot.PartFirmware] == two.Values()[boot.PartFirmware]) != (b == "") {
			t.Error(fmt.Sprint(a, b))
		}
	})
}
