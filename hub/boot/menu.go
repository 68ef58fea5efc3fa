package boot

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf16"

	"gangway/tcg"
)

// Firmware measures its boot menu into PCR 1: the variable BootOrder, and the variables Boot####
// that BootOrder names (UEFI 3.3; PC Client Platform Firmware Profile 3.3.4.2).
const (
	menuPCR    = 1
	bootOrder  = "firmware variable BootOrder"
	whatOrder  = "the boot menu's order"
	whatEntry  = "an entry of the boot menu"
	maxEntries = 64
)

var bootEntry = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^firmware variable Boot([0-9A-F]{4})$`) })

// menuText returns a variable of the boot menu as text, or "" for any other variable. The text of
// BootOrder lists the numbers of the entries, for example "0003 0001". The text of an entry
// (EFI_LOAD_OPTION, UEFI 3.1.3) is the entry's description and the SHA-256 of the variable's value.
func menuText(what string, value []byte) string {
	if what != bootOrder {
		const head = 4 + 2
		if !bootEntry().MatchString(what) || len(value) < head {
			return ""
		}
		var name []uint16
		for rest := value[head:]; len(rest) >= 2 && len(name) < 64; rest = rest[2:] {
			unit := binary.LittleEndian.Uint16(rest)
			if unit == 0 {
				break
			}
			name = append(name, unit)
		}
		return fmt.Sprintf("%s, %x", tcg.Printable(string(utf16.Decode(name))), sha256.Sum256(value))
	}
	if len(value)%2 != 0 || len(value) > 2*maxEntries {
		return ""
	}
	var entries []string
	for ; len(value) > 0; value = value[2:] {
		entries = append(entries, fmt.Sprintf("%04X", binary.LittleEndian.Uint16(value)))
	}
	return strings.Join(entries, " ")
}

// onlyShorter reports whether two boots differ in PCR 1 only because the boot menu lost entries,
// for example because someone removed a USB stick. Firmware may renumber the remaining entries.
// Lost entries do not count as a change, because they let the machine start nothing new, and PCR 4
// shows the programs that it did start. An additional or changed entry, or another order, is a
// difference.
func onlyShorter(before, after []Event) bool {
	was, othersBefore := menu(before)
	is, othersAfter := menu(after)
	return len(is) > 0 && sameDigests(othersBefore, othersAfter) && isWithin(is, was)
}

func sameDigests(a, b []Event) bool {
	return slices.EqualFunc(a, b, func(a, b Event) bool { return a.Digest == b.Digest })
}

// isWithin reports whether `some` is a subsequence of `all`.
func isWithin(some, all []string) bool {
	for _, s := range all {
		if len(some) > 0 && some[0] == s {
			some = some[1:]
		}
	}
	return len(some) == 0
}

// menu returns the entries of the boot menu in order. The result `others` has the events that do
// not belong to the boot menu. If the digests do not prove the measured data, `entries` is empty.
func menu(events []Event) (entries []string, others []Event) {
	entries, others, ok := menuByPlace(events)
	if ok {
		return entries, others
	}
	return menuByName(events)
}

// menuByPlace returns the boot menu if the firmware's digests cover only the variables' values.
// Nothing then proves the variables' names in the log, so menuByPlace relies on the order of the
// events: firmware measures BootOrder first, and then the entries in the order that BootOrder
// states. The result `others` has all other events. The caller compares these too, so an attacker
// cannot hide an entry behind a false name.
func menuByPlace(events []Event) (entries []string, others []Event, ok bool) {
	order := 0
	for _, e := range events {
		switch {
		case e.What == whatOrder && order == 0:
			order = len(strings.Fields(e.Text))
		case e.What == whatEntry && order > 0:
			entries = append(entries, e.Text)
		case e.What == whatOrder, e.What == whatEntry, e.What == bootOrder, bootEntry().MatchString(e.What):
			return nil, nil, false
		default:
			others = append(others, e)
		}
	}
	return entries, others, len(entries) > 0 && len(entries) <= order
}

// menuByName returns the boot menu if the firmware's digests cover the variables' names and values.
func menuByName(events []Event) (entries []string, others []Event) {
	var order []string
	text := make(map[string]string)
	for _, e := range events {
		number := bootEntry().FindStringSubmatch(e.What)
		switch {
		case e.Text == "" || e.What != bootOrder && number == nil:
			others = append(others, e)
		case number == nil && order == nil:
			order = strings.Fields(e.Text)
		case number != nil && text[number[1]] == "":
			text[number[1]] = e.Text
		default: // BootOrder or an entry was measured twice
			return nil, nil
		}
	}
	for _, number := range order {
		if text[number] != "" {
			entries = append(entries, text[number])
			delete(text, number)
		}
	}
	if len(text) > 0 { // an entry that BootOrder does not name
		return nil, nil
	}
	return entries, others
}
