package boot_test

import (
	"encoding/binary"
	"testing"

	"gangway/hub/boot"
	"gangway/internal/eventlog"
)

// menu returns the log of a boot in which the firmware measured the boot menu entries with the
// numbers in `order`. The argument `content` maps an entry's number to its description. The events
// in `more` follow.
func menu(order []uint16, content map[uint16]string, more ...eventlog.Event) eventlog.Log {
	var list []byte
	for _, n := range order {
		list = binary.LittleEndian.AppendUint16(list, n)
	}
	variable := func(name string, value []byte) eventlog.Event {
		return eventlog.Event{PCR: 1, Type: 0x8000000C, Data: eventlog.Variable(name, value)} // EV_EFI_VARIABLE_BOOT2
	}
	l := eventlog.Log{variable("BootOrder", list)}
	for _, n := range order {
		l = append(l, variable("Boot000"+string(rune('0'+n)), append(make([]byte, 6), eventlog.UTF16(content[n])...)))
	}
	return append(append(l, more...), eventlog.Boot(true, "linux 1", "quiet")...)
}

// If someone removes a USB stick, Compare reports no change. Every other difference in the boot
// menu is a change, because the machine could start something new.
func TestMenuThatOnlyLostEntriesIsNoChange(t *testing.T) {
	t.Parallel()
	content := map[uint16]string{1: "disk", 3: "stick", 4: "network"}
	r := boot.NewReference(verify(t, menu([]uint16{3, 1, 4}, content)), "the first boot", may3)
	lies := menu([]uint16{1, 4}, content)
	lies[0].Data, lies[0].Digest = lies[1].Data, lies[0].Data[:32] // the digest does not match the data
	for _, c := range []struct {
		name    string
		log     eventlog.Log
		matches bool
	}{
		{"the same", menu([]uint16{3, 1, 4}, content), true},
		{"the stick is out", menu([]uint16{1, 4}, content), true},
		{"the stick is out, and firmware counts anew", menu([]uint16{0, 2}, map[uint16]string{0: "disk", 2: "network"}), true},
		{"two are gone", menu([]uint16{1}, content), true},
		{"another order", menu([]uint16{1, 3, 4}, content), false},
		{"another order of what remains", menu([]uint16{4, 1}, content), false},
		{"an entry more", menu([]uint16{3, 1, 4, 5}, map[uint16]string{1: "disk", 3: "stick", 4: "network", 5: "shell"}), false},
		{"an entry twice", menu([]uint16{1, 2}, map[uint16]string{1: "disk", 2: "disk"}), false},
		{"all are gone", menu(nil, content), false},
		{"an entry that the order does not name", menu([]uint16{1, 4}, content, menu([]uint16{3}, content)[1]), false},
		{"one gone, one more", menu([]uint16{1, 4, 5}, map[uint16]string{1: "disk", 4: "network", 5: "shell"}), false},
		{"an entry that changed", menu([]uint16{1, 4}, map[uint16]string{1: "disk init=/bin/sh", 4: "network"}), false},
		{"something besides in PCR 1", menu([]uint16{1, 4}, content, eventlog.Event{PCR: 1, Type: eventlog.EFIAction, Data: []byte("setup")}), false},
		{"an order that is not what was measured", lies, false},
	} {
		changes := boot.Compare(r, verify(t, c.log))
		if matches := len(changes) == 0; matches != c.matches {
			t.Errorf("%s: %+v", c.name, changes)
		}
	}
	r = boot.NewReference(verify(t, menu([]uint16{1, 4}, content)), "the first boot", may3)
	if c := boot.Compare(r, verify(t, menu([]uint16{3, 1, 4}, content))); len(c) == 0 {
		t.Error("an entry that is not in the reference was accepted")
	}
}
