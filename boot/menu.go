package boot

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Firmware measures its boot menu into PCR 1: the variable BootOrder, and the
// Boot#### that it names (UEFI 3.3; PC Client Platform Firmware Profile 3.3.4.2).
const (
	menuPCR    = 1
	bootOrder  = "firmware variable BootOrder"
	maxEntries = 64
)

// menuText is the order as a text, "0003 0001"; empty where it is none.
func menuText(value []byte) string {
	if len(value)%2 != 0 || len(value) > 2*maxEntries {
		return ""
	}
	var entries []string
	for ; len(value) > 0; value = value[2:] {
		entries = append(entries, fmt.Sprintf("%04X", binary.LittleEndian.Uint16(value)))
	}
	return strings.Join(entries, " ")
}

// onlyShorter says whether a boot menu is that of the reference with entries
// gone, as those of a stick that was taken out, and PCR 1 is the same in all
// else: the order of what remains, each entry, each other event. Such a machine
// can start nothing that it could not before; what it did start is in PCR 4.
// An entry more, or another order, is not let pass.
func onlyShorter(before, after []Event) bool {
	was, is := order(before), order(after)
	if was == nil || is == nil || is.Text == "" {
		return false
	}
	gone := strings.Fields(was.Text)
	remain := slices.DeleteFunc(slices.Clone(gone), func(n string) bool { return !slices.Contains(strings.Fields(is.Text), n) })
	if strings.Join(remain, " ") != is.Text || len(remain) == len(gone) {
		return false
	}
	gone = slices.DeleteFunc(gone, func(n string) bool { return slices.Contains(remain, n) })
	var want []string
	for _, e := range before {
		number, entry := strings.CutPrefix(e.What, "firmware variable Boot")
		switch {
		case e.What == bootOrder:
			want = append(want, is.Digest)
		case !entry || !slices.Contains(gone, number):
			want = append(want, e.Digest)
		}
	}
	return slices.EqualFunc(want, after, func(digest string, e Event) bool { return digest == e.Digest })
}

// order is the one event that is a boot order whose text its digest shows.
func order(events []Event) (found *Event) {
	for i, e := range events {
		if e.What != bootOrder {
			continue
		}
		if found != nil || e.Text == "" {
			return nil
		}
		found = &events[i]
	}
	return found
}
