package boot_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gangway/hub/boot"
	"gangway/internal/eventlog"
	"gangway/tcg"
)

const headerSize = 32 + 28 + 4 + 1 // size of the header in the logs of package eventlog, in bytes

func sum(b []byte) []byte { v := sha256.Sum256(b); return v[:] }

// extend returns the PCR value `v` after it has been extended by the hash of each word.
func extend(v []byte, words ...string) []byte {
	for _, w := range words {
		v = sum(slices.Concat(v, sum([]byte(w))))
	}
	return v
}

// informative returns an EV_NO_ACTION event.
func informative(pcr uint32, data []byte) []byte {
	le := binary.LittleEndian
	out := le.AppendUint32(nil, pcr)
	out = le.AppendUint32(out, eventlog.NoAction)
	out = le.AppendUint32(out, 1)
	out = le.AppendUint16(out, 0xB)
	out = append(out, make([]byte, 32)...)
	out = le.AppendUint32(out, uint32(len(data)))
	return append(out, data...)
}

// old returns an event in the format of TPM 1.2.
func old(pcr, kind uint32, data []byte) []byte {
	le := binary.LittleEndian
	out := le.AppendUint32(nil, pcr)
	out = le.AppendUint32(out, kind)
	out = append(out, make([]byte, 20)...)
	out = le.AppendUint32(out, uint32(len(data)))
	return append(out, data...)
}

func measurement(t testing.TB, pcrs [][]byte, log []byte) *boot.Measurement {
	t.Helper()
	d, e := quoted(t, pcrs, log)
	return must(boot.Verify(d.IAK.Public, e))(t)
}

var separated = []int{0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14}

// osSeparated returns the PCR values `pcrs` after systemd 261 has extended them by its separator.
func osSeparated(pcrs [][]byte) [][]byte {
	pcrs = slices.Clone(pcrs)
	for _, i := range separated {
		pcrs[i] = extend(pcrs[i], "os-separator")
	}
	return pcrs
}

// Measurements are accepted even if firmware, kernels or boot loaders deviate from the
// specifications. The hub shows as much as the log explains. If such a boot becomes the reference,
// only an identical boot matches it.
func TestOddLogsExplainWhatTheyCan(t *testing.T) {
	t.Parallel()
	usual := eventlog.Boot(true, "linux 1", "quiet")
	evil := eventlog.Boot(true, "linux 2", "quiet")
	header := usual.Bytes()[:headerSize]
	with := func(l eventlog.Log, more ...eventlog.Event) eventlog.Log { return slices.Concat(l, more) }
	whole := func(l eventlog.Log) []byte { return l.Bytes() }
	values := func(l eventlog.Log) [][]byte { return l.PCRs() }
	action := func(s string) eventlog.Event {
		return eventlog.Event{PCR: 5, Type: eventlog.EFIAction, Data: []byte(s)}
	}
	invoked, succeeded := action("Exit Boot Services Invocation"), action("Exit Boot Services Returned with Success")
	begun := func(locality byte, hcrtm string) func(l eventlog.Log) [][]byte {
		return func(l eventlog.Log) [][]byte {
			pcrs := l.PCRs()
			v := make([]byte, 32)
			v[31] = locality
			if hcrtm != "" {
				v = extend(v, hcrtm)
			}
			for _, e := range l {
				if e.PCR == 0 {
					v = sum(slices.Concat(v, sum(e.Data)))
				}
			}
			pcrs[0] = v
			return pcrs
		}
	}
	says := func(size int, locality byte) func(l eventlog.Log) []byte {
		data := make([]byte, size)
		copy(data, "StartupLocality\x00")
		data[16] = locality
		return func(l eventlog.Log) []byte {
			return slices.Concat(header, informative(0, data), l.Bytes()[headerSize:])
		}
	}
	padded := func(with byte, n int) func(l eventlog.Log) []byte {
		return func(l eventlog.Log) []byte { return append(l.Bytes(), bytes.Repeat([]byte{with}, n)...) }
	}
	sha1 := func(eventlog.Log) []byte {
		return slices.Concat(old(0, 7, []byte("CoreBoot Guard Measurement")), old(0, 8, []byte("1.0.31")))
	}
	lost := func(pcr int) func(l eventlog.Log) [][]byte {
		return func(l eventlog.Log) [][]byte {
			return with(l, eventlog.Event{PCR: pcr, Type: eventlog.IPL, Data: []byte("x")}).PCRs()
		}
	}
	all := []int{0, 1, 2, 3, 4, 5, 6, 7, 11}
	for _, c := range []struct {
		name        string
		pcrs        func(eventlog.Log) [][]byte
		log         func(eventlog.Log) []byte
		state       string
		why         string
		unexplained []int
		secureBoot  string
	}{
		{"usual", values, whole, boot.LogWhole, "", nil, "on"},
		{"systemd 261", func(l eventlog.Log) [][]byte { return osSeparated(l.PCRs()) }, whole, boot.LogWhole, "", nil, "on"},
		{"systemd 261 after kexec", func(l eventlog.Log) [][]byte { return osSeparated(osSeparated(l.PCRs())) }, whole, boot.LogWhole, "", nil, "on"},
		{"systemd 261 with its separator of PCR 9", func(l eventlog.Log) [][]byte {
			pcrs := osSeparated(l.PCRs())
			pcrs[9] = extend(pcrs[9], "nvpcr-separator")
			return pcrs
		}, whole, boot.LogWhole, "", nil, "on"},
		{"locality 3", begun(3, ""), says(17, 3), boot.LogWhole, "", nil, "on"},
		{"locality 3 in an entry of 20 bytes", begun(3, ""), says(20, 3), boot.LogWhole, "", nil, "on"},
		{"locality 3 in an entry of 50 bytes", begun(3, ""), says(50, 3), boot.LogWhole, "", nil, "on"},
		{"locality 3 of which the log says nothing", begun(3, ""), whole, boot.LogWhole, "", nil, "on"},
		{"locality 0, and the log says 3", values, says(17, 3), boot.LogWhole, "", nil, "on"},
		{"H-CRTM", begun(4, "HCRTM"), func(l eventlog.Log) []byte {
			return with(eventlog.Log{{PCR: 0, Type: 0x80000010, Data: []byte("HCRTM")}}, l...).Bytes()
		}, boot.LogWhole, "", nil, "on"},
		{"SHA-1 only, without a Spec ID event", values, sha1, boot.LogWhole, "digests only for SHA-1", all, "not told"},
		{"SHA-1 only, padded", values, func(l eventlog.Log) []byte { return append(sha1(l), make([]byte, 500)...) }, boot.LogPadded, "digests only for SHA-1", all, "not told"},
		{"without a Spec ID event", values, func(l eventlog.Log) []byte { return l.Bytes()[headerSize:] }, boot.LogWhole, "", nil, "on"},
		{"padded with 0xFF", values, padded(0xFF, 100), boot.LogPadded, "", nil, "on"},
		{"padded with three zeros", values, padded(0, 3), boot.LogPadded, "", nil, "on"},
		{"padded with a page of zeros", values, padded(0, 4096), boot.LogPadded, "", nil, "on"},
		{"zeros between its parts", values, func(l eventlog.Log) []byte {
			return slices.Concat(l[:9].Bytes(), make([]byte, 16*5000), l[9:].Bytes()[headerSize:])
		}, boot.LogWhole, "", nil, "on"},
		{"cut in its last event", values, func(l eventlog.Log) []byte { return l.Bytes()[:len(l.Bytes())-5] }, boot.LogPart, "ends inside an event", []int{11}, "on"},
		{"something else behind it", values, padded('x', 100), boot.LogPart, "more digests", nil, "on"},
		{"no event", values, func(eventlog.Log) []byte { return header }, boot.LogWhole, "", all, "not told"},
		{"the kernel took over, which the log does not have", func(l eventlog.Log) [][]byte { return with(l, invoked, succeeded).PCRs() }, whole, boot.LogWhole, "", nil, "on"},
		{"the kernel took over, which the log has twice", func(l eventlog.Log) [][]byte { return with(l, invoked, succeeded).PCRs() },
			func(l eventlog.Log) []byte { return with(l, invoked, succeeded, invoked, succeeded).Bytes() }, boot.LogWhole, "", nil, "on"},
		{"an event of PCR 1 is missing", lost(1), whole, boot.LogWhole, "", []int{1}, "on"},
		{"an event of PCR 4 is missing", lost(4), whole, boot.LogWhole, "", []int{4}, "on"},
		{"an event of PCR 7 is missing", lost(7), whole, boot.LogWhole, "", []int{7}, "not told"},
		{"an event of PCR 9 is missing", lost(9), whole, boot.LogWhole, "", []int{9}, "on"},
		{"an event of PCR 4 is there twice", values, func(l eventlog.Log) []byte {
			return with(l, l[slices.IndexFunc(l, func(e eventlog.Event) bool { return e.PCR == 4 })]).Bytes()
		}, boot.LogWhole, "", []int{4}, "on"},
		{"an event of no PCR", values, func(l eventlog.Log) []byte {
			return append(l.Bytes(), informative(0xFFFFFFFF, []byte("SP800-155 Event\x00x"))...)
		}, boot.LogWhole, "", nil, "on"},
		{"an event of PCR 24", values, func(l eventlog.Log) []byte {
			e := informative(24, []byte("x"))
			binary.LittleEndian.PutUint32(e[4:], eventlog.IPL)
			return append(l.Bytes(), e...)
		}, boot.LogWhole, "", nil, "on"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := measurement(t, c.pcrs(usual), c.log(usual))
			if m.LogState != c.state || !strings.Contains(m.LogProblem, c.why) || (c.why == "") != (m.LogProblem == "") {
				t.Errorf("the log is %s: %q", m.LogState, m.LogProblem)
			}
			if !slices.Equal(m.Unexplained, c.unexplained) || m.SecureBoot != c.secureBoot {
				t.Errorf("unexplained %v, Secure Boot %s", m.Unexplained, m.SecureBoot)
			}
			r := boot.NewReference(m, "the first boot", may3)
			if changes := boot.Compare(r, m); len(changes) > 0 {
				t.Errorf("it differs from itself: %q", words(changes))
			}
			changes := boot.Compare(r, measurement(t, c.pcrs(evil), c.log(evil)))
			for _, pcr := range []int{4, 11} {
				if !slices.ContainsFunc(changes, func(c boot.Change) bool { return c.PCR == pcr }) {
					t.Errorf("another kernel: PCR %d is not among %q", pcr, words(changes))
				}
			}
		})
	}
}

// When a device updates systemd to version 261, Compare reports a change that names systemd, with
// or without a log. If the device gets a new kernel at the same time, Compare reports the new
// kernel too.
func TestSeparatorOfSystemdIsNamed(t *testing.T) {
	t.Parallel()
	usual, other := eventlog.Boot(true, "linux 1", "quiet"), eventlog.Boot(true, "linux 2", "quiet")
	const all = "PCR 0 to 7, 9 and 12 to 14: extended by systemd's os-separator after the end of the firmware's log; the reference of 3 May 2026 has no such extension."
	for name, log := range map[string]func(eventlog.Log) []byte{"log": eventlog.Log.Bytes, "no log": func(eventlog.Log) []byte { return nil }} {
		r := boot.NewReference(measurement(t, usual.PCRs(), log(usual)), "the first boot", may3)
		updated := measurement(t, osSeparated(usual.PCRs()), log(usual))
		got := words(boot.Compare(r, updated))
		if len(got) != 1 || !strings.HasPrefix(got[0], all) {
			t.Errorf("%s: %q", name, got)
		}
		accepted := boot.NewReference(updated, "the boot of today", may3)
		if c := boot.Compare(accepted, updated); len(c) > 0 {
			t.Errorf("%s: accepted, and still %q", name, words(c))
		}
		got = words(boot.Compare(accepted, measurement(t, usual.PCRs(), log(usual))))
		if len(got) != 1 || !strings.Contains(got[0], "not extended by systemd's os-separator") {
			t.Errorf("%s: taken back: %q", name, got)
		}
		// This PCR was extended by the hash of another word, not by systemd's separator, so the
		// change does not name systemd.
		forged := slices.Clone(usual.PCRs())
		forged[4] = extend(forged[4], "evil-separator")
		if got := words(boot.Compare(r, measurement(t, forged, log(usual)))); len(got) != 1 || !strings.HasPrefix(got[0], "PCR 4 differs from the reference of 3 May 2026") {
			t.Errorf("%s: another word: %q", name, got)
		}
	}
	r := boot.NewReference(measurement(t, usual.PCRs(), usual.Bytes()), "the first boot", may3)
	got := words(boot.Compare(r, measurement(t, osSeparated(other.PCRs()), other.Bytes())))
	if !slices.Contains(got, "The kernel's hash differs from the reference of 3 May 2026.") || !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, all) }) {
		t.Errorf("%q", got)
	}
}

// The agent may measure at any time during the boot, so it is not a change if systemd has reached a
// different phase.
func TestPhasesOfSystemdAreNoChange(t *testing.T) {
	t.Parallel()
	usual := eventlog.Boot(true, "linux 1", "quiet")
	at := func(l eventlog.Log, log bool, phases ...string) *boot.Measurement {
		pcrs := l.PCRs()
		pcrs[11] = extend(pcrs[11], phases...)
		if !log {
			return measurement(t, pcrs, nil)
		}
		return measurement(t, pcrs, l.Bytes())
	}
	for _, log := range []bool{true, false} {
		r := boot.NewReference(at(usual, log, "enter-initrd", "leave-initrd", "sysinit"), "the first boot", may3)
		for _, phases := range [][]string{nil, {"enter-initrd"}, {"enter-initrd", "leave-initrd", "sysinit", "ready"}} {
			m := at(usual, log, phases...)
			if c := boot.Compare(r, m); len(c) > 0 || log && len(m.Unexplained) > 0 {
				t.Errorf("%v: %q, unexplained %v", phases, words(c), m.Unexplained)
			}
		}
		for name, m := range map[string]*boot.Measurement{
			"another kernel": at(eventlog.Boot(true, "linux 2", "quiet"), log, "enter-initrd"), "another word": at(usual, log, "enter-initrd", "evil"),
			"another order": at(usual, log, "ready", "sysinit"),
		} {
			if !slices.ContainsFunc(boot.Compare(r, m), func(c boot.Change) bool { return c.PCR == 11 }) {
				t.Errorf("%s is treated as a phase", name)
			}
		}
	}
}

// If the firmware measured nothing, later measurements prove nothing about the boot.
func TestNothingMeasuredIsAStateOfItsOwn(t *testing.T) {
	t.Parallel()
	zero := eventlog.Log{}
	var separators eventlog.Log
	for pcr := range 8 {
		separators = append(separators, eventlog.Event{PCR: pcr, Type: eventlog.Separator, Data: make([]byte, 4)})
	}
	late := append(slices.Clone(separators), eventlog.Event{PCR: 9, Type: eventlog.IPL, Data: []byte("initrd")}, eventlog.Event{PCR: 10, Type: eventlog.IPL, Data: []byte("ima")})
	started := func(last byte) [][]byte {
		pcrs := zero.PCRs()
		pcrs[0][31] = last
		return pcrs
	}
	for name, c := range map[string]struct {
		pcrs    [][]byte
		log     []byte
		nothing bool
	}{
		"zeros without a log":          {zero.PCRs(), nil, true},
		"zeros with a log of no event": {zero.PCRs(), zero.Bytes(), true},
		"zeros with another's log":     {zero.PCRs(), eventlog.Boot(true, "linux 1", "quiet").Bytes(), true},
		"locality 3":                   {started(3), nil, true},
		"an H-CRTM start value":        {started(4), nil, true},
		"separators":                   {separators.PCRs(), separators.Bytes(), true},
		"systemd's separator":          {osSeparated(zero.PCRs()), nil, true},
		"separators and systemd's":     {osSeparated(separators.PCRs()), separators.Bytes(), true},
		"after four starts by kexec":   {osSeparated(osSeparated(osSeparated(osSeparated(separators.PCRs())))), separators.Bytes(), true},
		"only what came later":         {late.PCRs(), late.Bytes(), true},
		"a boot":                       {eventlog.Boot(true, "linux 1", "quiet").PCRs(), nil, false},
		"one event":                    {eventlog.Log{{PCR: 4, Data: []byte("x")}}.PCRs(), nil, false},
	} {
		if m := measurement(t, c.pcrs, c.log); m.NothingMeasured() != c.nothing {
			t.Errorf("%s: nothing measured is %v", name, !c.nothing)
		}
	}
	empty := &boot.Reference{Bank: "SHA-256", PCRs: map[int]string{}, Since: may3}
	if c := boot.Compare(empty, measurement(t, eventlog.Boot(true, "linux 1", "quiet").PCRs(), nil)); len(c) == 0 {
		t.Error("a boot matches a reference of nothing")
	}
	of := boot.NewReference(measurement(t, separators.PCRs(), nil), "values", may3)
	if err := of.Check(); err == nil {
		t.Error("values of only separators were accepted as a reference")
	}
}

// No digest covers the event types in a log, so a changed type does not change the result, with one
// exception: an event with the type EV_NO_ACTION extends no PCR. If an attacker gives an event this
// type, the log no longer explains the event's PCR.
func TestRelabelledLogSaysNothingElse(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 4))
	types := []uint32{0, 1, 4, 5, 7, 8, 9, 0xA, 0xD, 0x80000001, 0x80000002, 0x80000003, 0x80000006, 0x80000007, 0x8000000C, 0x800000E0, 0xFFFFFFFF}
	l := append(eventlog.Boot(false, "linux 1", "quiet"), eventlog.Event{PCR: 12, Type: eventlog.IPL, Data: eventlog.UTF16("quiet")})
	honest := measurement(t, l.PCRs(), l.Bytes())
	for range 200 {
		lie := slices.Clone(l)
		for i := range lie {
			lie[i].Type = types[rnd.IntN(len(types))]
		}
		if m := measurement(t, l.PCRs(), lie.Bytes()); !reflect.DeepEqual(m.Events, honest.Events) || m.SecureBoot != honest.SecureBoot || len(m.Unexplained) > 0 {
			t.Fatalf("Secure Boot %s, %+v", m.SecureBoot, m.Events)
		}
	}
}

// Secure Boot is disabled, but an attacker extends PCR 7 with the events of an enabled Secure Boot,
// and sends a log that describes the real events as something else. The hub does not report Secure
// Boot as on.
func TestRelabelledSecureBootIsNotTold(t *testing.T) {
	t.Parallel()
	off := eventlog.Boot(false, "linux 1", "quiet")
	on := eventlog.Event{PCR: 7, Type: eventlog.EFIVariableDriver, Data: eventlog.Variable("SecureBoot", []byte{1})}
	end := eventlog.Event{PCR: 7, Type: eventlog.Separator, Data: make([]byte, 4)}
	real := append(slices.Clone(off), on, end)
	at := slices.IndexFunc(real, func(e eventlog.Event) bool { return e.PCR == 7 })
	separator := slices.IndexFunc(real, func(e eventlog.Event) bool { return e.PCR == 7 && len(e.Data) == 4 })
	hide := func(l eventlog.Log, i int, kind uint32, data []byte) {
		l[i] = eventlog.Event{PCR: l[i].PCR, Type: kind, Data: data, Digest: sum(l[i].Data)}
	}
	for name, alter := range map[string]func(l eventlog.Log){
		"the truth as an action": func(l eventlog.Log) {
			hide(l, at, eventlog.EFIAction, []byte("Calling EFI Application from Boot Option"))
		},
		"the truth as a lie":            func(l eventlog.Log) { hide(l, at, eventlog.EFIVariableDriver, on.Data) },
		"the truth without a word":      func(l eventlog.Log) { hide(l, at, eventlog.EFIVariableDriver, nil) },
		"the truth as a separator":      func(l eventlog.Log) { hide(l, at, eventlog.Separator, make([]byte, 4)) },
		"the separator as a variable":   func(l eventlog.Log) { hide(l, separator, eventlog.EFIVariableDriver, eventlog.Variable("db", nil)) },
		"both":                          func(l eventlog.Log) { hide(l, at, 5, nil); hide(l, separator, 5, nil) },
		"the truth extends nothing":     func(l eventlog.Log) { l[at].Type = eventlog.NoAction },
		"the separator extends nothing": func(l eventlog.Log) { l[separator].Type = eventlog.NoAction },
		"nothing but types":             func(l eventlog.Log) { l[at].Type, l[separator].Type = 5, 5 },
	} {
		l := slices.Clone(real)
		alter(l)
		if m := measurement(t, real.PCRs(), l.Bytes()); m.SecureBoot == "on" {
			t.Errorf("%s: Secure Boot is on", name)
		}
	}
	// When firmware loads a driver from an option ROM, it measures the entry of db that allowed the
	// driver. This event comes before the separator and has the name db, but its value is only that
	// entry, not the whole variable db.
	allowed := eventlog.Variable("db", slices.Concat(make([]byte, 16), []byte{0x30, 3, 2, 1, 1}))
	copy(allowed, []byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f})
	rom := slices.Insert(eventlog.Boot(true, "k", ""), 3, eventlog.Event{PCR: 7, Type: 0x800000E0, Data: allowed})
	if m := measurement(t, rom.PCRs(), rom.Bytes()); m.SecureBoot != "on" {
		t.Errorf("with a driver that was allowed before the separator Secure Boot is %s", m.SecureBoot)
	}
	// Each variable may occur only once, and no unknown event may come before the separator.
	db := eventlog.Event{PCR: 7, Type: eventlog.EFIVariableDriver, Data: eventlog.Variable("db", []byte("keys"))}
	unknown := eventlog.Event{PCR: 7, Type: eventlog.EFIVariableDriver, Data: []byte("?"), Digest: sum([]byte("!"))}
	for name, l := range map[string]eventlog.Log{"a variable twice": append(eventlog.Log{db}, eventlog.Boot(true, "k", "")...), "something unknown": append(eventlog.Log{unknown}, eventlog.Boot(true, "k", "")...)} {
		if m := measurement(t, l.PCRs(), l.Bytes()); m.SecureBoot != "not told" {
			t.Errorf("%s: Secure Boot is %s", name, m.SecureBoot)
		}
	}
}

// No digest covers the prefix that a boot loader adds to a text in the log, or the firmware's
// description of an event. The hub calls a text the kernel command line only if the text was
// measured.
func TestOnlyWhatWasMeasuredIsCalledTheCommandLine(t *testing.T) {
	t.Parallel()
	base := eventlog.Boot(true, "linux 1", "quiet")[:12] // the firmware's events
	grub := func(words, text string) eventlog.Event {
		return eventlog.Event{PCR: 8, Type: eventlog.IPL, Data: []byte(words + text + "\x00"), Digest: sum([]byte(text))}
	}
	odd := eventlog.UTF16("root=/dev/sda2 quiet")
	const line, evil = "/vmlinuz ro quiet", "/vmlinuz init=/bin/sh"
	for name, c := range map[string]struct {
		l    eventlog.Log
		want []string
	}{
		"GRUB":                           {eventlog.Log{grub("grub_cmd: ", "linux "+line), grub("kernel_cmdline: ", line)}, []string{line}},
		"old GRUB":                       {eventlog.Log{grub("grub_cmd ", "linuxefi "+line), grub("grub_kernel_cmdline ", line)}, []string{line}},
		"GRUB without commands":          {eventlog.Log{grub("kernel_cmdline: ", line)}, []string{line}},
		"GRUB and a module":              {eventlog.Log{grub("grub_cmd: ", "multiboot2 /xen a"), grub("kernel_cmdline: ", "/xen a"), grub("grub_cmd: ", "module2 "+line), grub("module_cmdline: ", line)}, []string{"/xen a"}},
		"a module under another's name":  {eventlog.Log{grub("grub_cmd: ", "multiboot2 /xen a"), grub("module_cmdline: ", "/xen a"), grub("grub_cmd: ", "module2 "+line), grub("kernel_cmdline: ", line)}, []string{"/xen a"}},
		"a command under another's name": {eventlog.Log{grub("grub_cmd: ", "linux "+evil), grub("grub_cmd: ", evil), grub("kernel_cmdline: ", "echo "+line)}, []string{evil}},
		"the true one without a word":    {eventlog.Log{{PCR: 8, Type: eventlog.IPL, Data: []byte("?"), Digest: sum([]byte(evil))}, grub("kernel_cmdline: ", line)}, nil},
		"another text than was measured": {eventlog.Log{{PCR: 8, Type: eventlog.IPL, Data: []byte("kernel_cmdline: " + line), Digest: sum([]byte(evil))}}, nil},
		"systemd-boot":                   {eventlog.Log{{PCR: 12, Type: eventlog.IPL, Data: eventlog.UTF16("quiet")}}, []string{"quiet"}},
		"old systemd-boot":               {eventlog.Log{{PCR: 8, Type: eventlog.IPL, Data: odd}}, []string{"root=/dev/sda2 quiet"}},
		"old systemd-boot, a byte short": {eventlog.Log{{PCR: 8, Type: eventlog.IPL, Data: odd[:len(odd)-1], Digest: sum(odd)}}, []string{"root=/dev/sda2 quiet"}},
		"systemd-boot, another text":     {eventlog.Log{{PCR: 12, Type: eventlog.IPL, Data: eventlog.UTF16("quiet"), Digest: sum([]byte(evil))}}, nil},
	} {
		l := slices.Concat(base, c.l)
		m := measurement(t, l.PCRs(), l.Bytes())
		var got []string
		for _, e := range m.Events {
			if e.What == "the kernel command line" {
				got = append(got, e.Text)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: the kernel command line is %q, %q was measured", name, got, c.want)
		}
	}
}

// The boot manager measures the command line into PCR 12. Then the kernel's stub measures the same
// command line into PCR 9. The hub names the event in PCR 9 by its digest. It names only one such
// event, so that many small events cannot make a measurement of many megabytes.
func TestCommandLineIsNamedAgainOnlyOnce(t *testing.T) {
	t.Parallel()
	line := eventlog.UTF16(strings.Repeat("x", 1000))
	l := append(eventlog.Boot(true, "linux 1", "quiet"), eventlog.Event{PCR: 12, Type: eventlog.IPL, Data: line})
	for range 1000 {
		l = append(l, eventlog.Event{PCR: 9, Type: eventlog.IPL, Digest: sum(line)})
	}
	m := measurement(t, l.PCRs(), l.Bytes())
	told := 0
	for _, e := range m.Events {
		if e.PCR == 9 && e.What == "the kernel command line" && len(e.Text) == 1000 {
			told++
		}
	}
	if len(m.Unexplained) > 0 || told != 1 {
		t.Errorf("it is shown %d times, unexplained %v", told, m.Unexplained)
	}
}

// Some firmware pads its log entries with zeros to a fixed size. The hub recognizes the measured
// data in spite of the zeros.
func TestEntriesThatAreFilledUpWithZerosAreTold(t *testing.T) {
	t.Parallel()
	usual := eventlog.Boot(true, "linux 1", "quiet")
	filled := slices.Clone(usual)
	for i, e := range filled {
		if e.PCR > 7 || e.PCR == 4 && e.Type == eventlog.EFIBootApplication {
			continue
		}
		filled[i].Digest = sum(e.Data)
		filled[i].Data = append(slices.Clone(e.Data), make([]byte, 64-len(e.Data)%64)...)
	}
	m := measurement(t, usual.PCRs(), filled.Bytes())
	named := map[string]bool{}
	for _, e := range m.Events {
		named[e.What] = true
	}
	if len(m.Unexplained) > 0 || !named["the separator in PCR 7"] || !named["the firmware's step \"Calling EFI Application from Boot Option\""] {
		t.Errorf("unexplained %v, %v", m.Unexplained, named)
	}
}

// Some firmware hashes only the values of the boot menu's variables, not the variables' names. So
// the names in the log may be false. Only the order of the measurements is proven.
func TestNamesInABootMenuThatNoDigestCoversDecideNothing(t *testing.T) {
	t.Parallel()
	option := func(s string) []byte { return append(make([]byte, 6), eventlog.UTF16(s)...) }
	type entry struct {
		name  string
		value []byte
	}
	boots := func(entries ...entry) *boot.Measurement {
		var l eventlog.Log
		for _, e := range entries {
			l = append(l, eventlog.Event{PCR: 1, Type: 0x80000002, Data: eventlog.Variable(e.name, e.value), Digest: sum(e.value)})
		}
		l = append(l, eventlog.Boot(true, "linux 1", "quiet")...)
		return measurement(t, l.PCRs(), l.Bytes())
	}
	order := func(n ...byte) entry {
		var list []byte
		for _, i := range n {
			list = append(list, i, 0)
		}
		return entry{"BootOrder", list}
	}
	stick, disk, network, shell := option("stick"), option("disk"), option("network"), option("shell")
	r := boot.NewReference(boots(order(3, 1, 4), entry{"Boot0003", stick}, entry{"Boot0001", disk}, entry{"Boot0004", network}), "the first boot", may3)
	for name, c := range map[string]struct {
		m       *boot.Measurement
		matches bool
	}{
		"the stick is out":               {boots(order(1, 4), entry{"Boot0001", disk}, entry{"Boot0004", network}), true},
		"the stick is out, counted anew": {boots(order(0, 1), entry{"Boot0000", disk}, entry{"Boot0001", network}), true},
		"another order":                  {boots(order(4, 1), entry{"Boot0004", network}, entry{"Boot0001", disk}), false},
		"another order, names exchanged": {boots(order(4, 1), entry{"Boot0001", network}, entry{"Boot0004", disk}), false},
		"an entry more":                  {boots(order(3, 1, 4, 5), entry{"Boot0003", stick}, entry{"Boot0001", disk}, entry{"Boot0004", network}, entry{"Boot0005", shell}), false},
		"an entry more, called another":  {boots(order(5, 1, 4), entry{"BootOrder", shell}, entry{"Boot0001", disk}, entry{"Boot0004", network}), false},
		"an entry more, called nothing":  {boots(order(5, 1, 4), entry{"Timeout", shell}, entry{"Boot0001", disk}, entry{"Boot0004", network}), false},
		"the order called an entry":      {boots(entry{"Boot0001", []byte{5, 0, 1, 0, 4, 0}}, entry{"BootOrder", shell}, entry{"Boot0001", disk}, entry{"Boot0004", network}), false},
	} {
		if changes := boot.Compare(r, c.m); (len(changes) == 0) != c.matches {
			t.Errorf("%s: %q", name, words(changes))
		}
	}
}

// If an event has no digest for the quoted bank, it does not extend that bank. If the other events
// replay to the PCR's value, the log explains the PCR, and the hub ignores the event without a
// digest. A log with digests only for another bank explains no PCR.
func TestEventWithoutTheBanksDigestSaysNothing(t *testing.T) {
	t.Parallel()
	l := eventlog.Boot(true, "linux 1", "quiet")
	raw := l.Bytes()
	bare := binary.LittleEndian.AppendUint32(nil, 4) // PCR 4, no digest, no data
	bare = binary.LittleEndian.AppendUint32(bare, eventlog.IPL)
	bare = append(bare, make([]byte, 8)...)
	m := measurement(t, l.PCRs(), append(raw, append(bare, informative(0, []byte("x"))...)...))
	if len(m.Unexplained) > 0 || !reflect.DeepEqual(m.Events, measurement(t, l.PCRs(), raw).Events) {
		t.Errorf("unexplained %v, %+v", m.Unexplained, m.Events)
	}
	d := must(machine())(t)
	pcrs := make([][]byte, boot.PCRs)
	for i := range pcrs {
		pcrs[i] = bytes.Repeat([]byte{byte(i + 1)}, 48)
	}
	e := &boot.Evidence{Nonce: nonce, Bank: tcg.AlgSHA384, PCRs: pcrs, Log: raw}
	sign(t, d, e)
	if m := must(boot.Verify(d.IAK.Public, e))(t); m.LogProblem == "" || len(m.Unexplained) != boot.PCRs {
		t.Errorf("%q, unexplained %v", m.LogProblem, m.Unexplained)
	}
}
