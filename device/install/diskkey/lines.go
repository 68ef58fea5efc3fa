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

// The file of a system (a unified kernel image) contains the kernel's command line. The boot manager
// gives this line to systemd's stub, and measures it into PCR 12. If Secure Boot is off, the stub
// measures the line into PCR 12 a second time. A person at the boot menu can type another line for
// the stub.

// lineDigests returns the possible digests of an event that measures the command line: as UTF-16
// with and without a terminating zero.
func lineDigests(cmdline string) [2][sha256.Size]byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(cmdline)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return [2][sha256.Size]byte{sha256.Sum256(append(slices.Clip(b), 0, 0)), sha256.Sum256(b)}
}

// checkLines returns nil if PCR 12 contains only the system's own command line, any number of
// times. In all other cases it returns an error.
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

// predictLines returns the value of PCR 12 after a start of the system `other`. PCR 12 must contain
// only the running system's own command line.
func predictLines(log *eventlog.Log, running, other System) []byte {
	events, own, next := eventsOf(log, linePCR), lineDigests(running.Cmdline), lineDigests(other.Cmdline)
	for i, e := range events {
		n := slices.Index(own[:], [sha256.Size]byte(e.Digest))
		events[i].Digest = next[n][:]
	}
	return replay(events)
}
