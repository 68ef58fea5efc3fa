package boot_test

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"gangway/hub/boot"
	"gangway/internal/eventlog"
)

// header returns the first event of a log. The event names `n` hash algorithms; the function `alg`
// returns the algorithm with the number `i`.
func header(n int, alg func(i int) (id, size uint16)) []byte {
	le := binary.LittleEndian
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	spec = le.AppendUint32(spec, uint32(n))
	for i := range n {
		id, size := alg(i)
		spec = le.AppendUint16(spec, id)
		spec = le.AppendUint16(spec, size)
	}
	spec = append(spec, 0)
	log := le.AppendUint32(nil, 0)
	log = le.AppendUint32(log, eventlog.NoAction)
	log = append(log, make([]byte, 20)...)
	log = le.AppendUint32(log, uint32(len(spec)))
	return append(log, spec...)
}

// A log's header names 120,000 algorithms, and an event has 150,000 digests. The hub does not read
// this log. A careless reader would need a long time for the log, and any device could send it in
// one request.
func TestLogsThatCostTooMuchAreNotRead(t *testing.T) { // not parallel: it measures time
	le := binary.LittleEndian
	d, e := measured(t, eventlog.Boot(true, "linux 1", "quiet"))
	small := header(120_000, func(i int) (uint16, uint16) {
		if i == 0 {
			return 0x0B, 32
		}
		return 0x7777, 1
	})
	event := le.AppendUint32(nil, 4)
	event = le.AppendUint32(event, eventlog.IPL)
	event = le.AppendUint32(event, 150_000)
	for range 150_000 {
		event = append(event, 0x77, 0x77, 0)
	}
	event = le.AppendUint32(event, 0)
	e.Log = append(small, event...)
	if len(e.Log) > boot.MaxLog {
		t.Fatal(len(e.Log))
	}
	sign(t, d, e)
	start := time.Now()
	if m := must(boot.Verify(d.IAK.Public, e))(t); m.LogState != boot.LogUnreadable || len(m.Events) > 0 {
		t.Errorf("the log is %s, %d events", m.LogState, len(m.Events))
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// A log has 4,000 variables. Each variable claims a size of one megabyte. The hub reads the log
// fast anyway, because no claimed size decides how much memory the hub allocates.
func TestVariablesThatLieAboutTheirSizeCostLittle(t *testing.T) { // not parallel: it measures time
	l := eventlog.Boot(true, "linux 1", "quiet")
	liar := eventlog.Variable("SecureBoot", []byte{1})
	binary.LittleEndian.PutUint64(liar[24:], 1<<20)
	for range 4000 {
		l = append(l, eventlog.Event{PCR: 14, Type: eventlog.EFIVariableDriver, Data: liar})
	}
	d, e := measured(t, l)
	start := time.Now()
	if _, err := boot.Verify(d.IAK.Public, e); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// An attacker controls a device's system. The attacker extends PCR 7 with events that show Secure
// Boot as enabled, and writes these events into the log. The hub does not report Secure Boot as on.
func TestSecureBootIsToldByTheFirmwareAlone(t *testing.T) {
	t.Parallel()
	on := eventlog.Event{PCR: 7, Type: eventlog.EFIVariableDriver, Data: eventlog.Variable("SecureBoot", []byte{1})}
	other := on
	other.Data = append([]byte(nil), on.Data...)
	other.Data[0] ^= 1 // a variable with another vendor GUID
	hidden := on
	hidden.Data = eventlog.Variable("Secure\u200bBoot", []byte{1})
	off := eventlog.Boot(false, "linux 1", "quiet")
	for name, c := range map[string]struct {
		l    eventlog.Log
		want string
	}{
		"off":                           {off, "off"},
		"on, after the separator":       {append(off[:len(off):len(off)], on), "off"},
		"on, before":                    {append(eventlog.Log{on}, off...), "told more than once"},
		"another owner's variable":      {append(eventlog.Log{other}, off...), "off"},
		"a name that looks like it":     {append(eventlog.Log{hidden}, off...), "off"},
		"never told":                    {off[2:], "not told"},
		"never told, but afterwards on": {append(off[2:len(off):len(off)], on), "not told"},
	} {
		if m := verify(t, c.l); m.SecureBoot != c.want {
			t.Errorf("%s: Secure Boot is %q", name, m.SecureBoot)
		}
	}
}

// Some characters make a command line look shorter on a screen than the text that the kernel reads.
// The hub shows a command line with such characters in hexadecimal.
func TestTextThatCannotBeShownWholeIsShownAsBytes(t *testing.T) {
	t.Parallel()
	for _, cmdline := range []string{"quiet\x00 init=/bin/sh", "quiet \u202Ehs/nib/=tini", "quiet\r\nall is well"} {
		l := append(eventlog.Boot(true, "linux 1", ""), eventlog.Event{PCR: 12, Type: eventlog.IPL, Data: eventlog.UTF16(cmdline)})
		m := verify(t, l)
		if last := m.Events[len(m.Events)-1]; last.PCR != 12 || !strings.HasPrefix(last.Text, "71007500") {
			t.Errorf("%q is shown as %q", cmdline, last.Text)
		}
	}
}
