package diskkey

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf16"

	"gangway/tcg/eventlog"
)

// The unified kernel image of a system contains the kernel's command line. The boot manager passes
// this line to systemd's stub, and measures it into PCR 12. If Secure Boot is off, the stub
// measures the line into PCR 12 a second time. A person at the boot menu can type another line,
// which the boot manager then passes to the stub instead.

// lineDigests returns the digests that an event that measures the command line can have. They are
// the hashes of the line in UTF-16, with and without a terminating zero.
func lineDigests(cmdline string) [2][sha256.Size]byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(cmdline)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return [2][sha256.Size]byte{sha256.Sum256(append(slices.Clip(b), 0, 0)), sha256.Sum256(b)}
}

// checkLines returns nil if nothing but the system's own command line was measured into PCR 12, any
// number of times. Otherwise it returns an error.
func checkLines(log *eventlog.Log, value []byte, running System) error {
	events, own := eventsOf(log, linePCR), lineDigests(running.Cmdline)
	if !bytes.Equal(replay(events), value) {
		return fmt.Errorf("%w: the event log does not explain PCR 12", ErrUnpredictable)
	}
	for _, e := range events {
		if !slices.Contains(own[:], [sha256.Size]byte(e.Digest)) {
			return ErrAdditions
		}
	}
	return nil
}

// predictLines returns the value that PCR 12 will have after a boot of the system `other`. PCR 12
// must contain only the running system's own command line (see checkLines).
func predictLines(log *eventlog.Log, running, other System) []byte {
	events, own, next := eventsOf(log, linePCR), lineDigests(running.Cmdline), lineDigests(other.Cmdline)
	for i, e := range events {
		n := slices.Index(own[:], [sha256.Size]byte(e.Digest))
		events[i].Digest = next[n][:]
	}
	return replay(events)
}
