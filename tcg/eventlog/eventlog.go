// Package eventlog reads the event logs of UEFI firmware: the lists of the measurements that
// firmware and boot programs extended into a TPM's PCRs. The hub reads logs that devices send. A
// device reads its own log to find out whether the log explains its PCRs.
//
// A log is not signed. Its digests are proved only if a replay of them results in the PCRs' values.
// An event's data is proved only if the proved digest is the hash of the data. Nothing proves an
// event's type.
package eventlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"gangway/tcg"
)

// Limits for a log's header, so that reading any log is cheap.
const (
	maxAlgs   = 8
	maxHeader = 1024 // bytes of the first event's data
	maxDigest = 64   // bytes
)

// MaxLog is the maximum size of an event log that is read, in bytes. MaxEvents is the maximum
// number of events that are read.
const (
	MaxLog    = 1 << 20
	MaxEvents = 4096
)

// Path is the file in which Linux exposes the firmware's event log, if securityfs is mounted.
const Path = "/sys/kernel/security/tpm0/binary_bios_measurements"

// NoAction is the event type EV_NO_ACTION. Such an event is informative and extends no PCR.
const NoAction = 3

// States of a log. A state says how much of the log could be read. The hub does not refuse a
// measurement because of this state, but a PCR counts as unexplained if a replay of the readable
// events does not result in the PCR's value.
const (
	None       = "none"       // there is no log
	Whole      = "whole"      // the whole log was read
	Padded     = "padded"     // the whole log was read, and padding follows
	Part       = "part"       // a part of the log was read
	Unreadable = "unreadable" // the data is not a TPM event log
)

// Event is one entry of an event log.
type Event struct {
	PCR    uint32
	Type   uint32 // no digest covers the type, so use it only to skip NoAction events
	Digest []byte // digest for the bank that was asked for; nil: the event does not extend that bank
	Data   []byte
}

// Log is the readable part of an event log.
type Log struct {
	Events  []Event
	State   string
	Problem string      // what is wrong with the log, a sentence; may be empty
	Algs    []tcg.AlgID // the algorithms of the log's digests; empty if the log is unreadable
}

var (
	errLogShort  = errors.New("the data ends inside an event")
	errLogHeader = errors.New("the first event, which names the digests' algorithms, cannot be read")
	errLogFormat = errors.New("the data does not begin like a TPM event log")
)

// Read reads as much as possible of a firmware's event log, with the digests of one bank. It reads
// these formats:
//   - the crypto-agile format (PC Client Platform Firmware Profile, 10.2), with or without its Spec
//     ID event;
//   - the format of TPM 1.2, which has SHA-1 digests only (10.2.1).
//
// Every number from the log is checked against a limit before an allocation or a loop uses the
// number. Without the limits, a log of 1 MiB could have a header with 120,000 algorithms, and an
// event with 120,000 digests.
func Read(raw []byte, bank tcg.AlgID) *Log {
	switch {
	case len(raw) == 0:
		return &Log{State: None}
	case len(raw) > MaxLog:
		return &Log{State: Unreadable, Problem: fmt.Sprintf("The event log was not read: it has more than %d bytes.", MaxLog)}
	}
	if bytes.HasPrefix(raw, []byte("CCEL")) { // the ACPI table that contains the address of the log, instead of the log
		return &Log{State: Unreadable, Problem: "The device sent a confidential machine's ACPI table (CCEL), not an event log."}
	}
	algs, at, err := readHeader(raw)
	if err == nil && algs != nil {
		l := readEvents(raw, at, bank, algs, readEvent2)
		l.setAlgs(algs)
		return l
	}
	if err != nil {
		return &Log{State: Unreadable, Problem: sentence(err)}
	}
	// Without a Spec ID event the log may have either format. Use the format with more readable
	// bytes.
	old := readEvents(raw, 0, bank, sha1Only, readEvent1)
	agile := readEvents(raw, 0, bank, usualAlgs, readEvent2)
	l, algs := old, sha1Only
	if old.State == Part && (agile.State != Part || len(agile.Events) > len(old.Events)) {
		l, algs = agile, usualAlgs
	}
	if l.State == Part && len(l.Events) < 2 || len(l.Events) == 0 {
		return &Log{State: Unreadable, Problem: sentence(errLogFormat)}
	}
	l.setAlgs(algs)
	return l
}

func sentence(err error) string { return fmt.Sprintf("The event log cannot be read: %v.", err) }

func (l *Log) setAlgs(algs []algSize) {
	for _, a := range algs {
		l.Algs = append(l.Algs, a.alg)
	}
}

type algSize struct {
	alg  tcg.AlgID
	size int
}

// AlgSHA1 is the algorithm of the old format's digests.
const AlgSHA1 tcg.AlgID = 0x0004

var (
	sha1Only = []algSize{{AlgSHA1, 20}}
	// usualAlgs are the algorithms assumed for firmware that writes no Spec ID event; 0x0012 is
	// SM3.
	usualAlgs = []algSize{{AlgSHA1, 20}, {tcg.AlgSHA256, 32}, {tcg.AlgSHA384, 48}, {tcg.AlgSHA512, 64}, {0x0012, 32}}
)

// readHeader reads the first event, which has the format of TPM 1.2 and contains a
// TCG_EfiSpecIDEvent. The result `algs` has the digests' sizes, and `end` is the offset of the
// event's end. If the log begins with another event, `algs` and the error are nil.
func readHeader(raw []byte) (algs []algSize, end int, err error) {
	const head = 4 + 4 + 20 + 4
	if len(raw) < head+16 || le32(raw[4:]) != NoAction || !bytes.HasPrefix(raw[head:], []byte("Spec ID Event03\x00")) {
		return nil, 0, nil
	}
	size := le32(raw[head-4:])
	if size > maxHeader {
		return nil, 0, errLogHeader
	}
	if int(size) > len(raw)-head {
		return nil, 0, errLogShort
	}
	data := raw[head : head+int(size)]
	const fixed = 16 + 4 + 4 + 4 // signature, class, versions, count
	if len(data) < fixed {
		return nil, 0, errLogHeader
	}
	n := int(le32(data[fixed-4:]))
	if n < 1 || n > maxAlgs || len(data) < fixed+4*n {
		return nil, 0, errLogHeader
	}
	for i := range n {
		b := data[fixed+4*i:]
		a := algSize{tcg.AlgID(le16(b)), int(le16(b[2:]))}
		if h, err := a.alg.Hash(); err == nil && h.Size() != a.size || a.size < 1 || a.size > maxDigest || sizeOf(algs, a.alg) != 0 {
			return nil, 0, errLogHeader
		}
		algs = append(algs, a)
	}
	return algs, head + int(size), nil
}

// sizeOf returns the size of the digests of algorithm `alg`, or 0 if `algs` does not list the
// algorithm.
func sizeOf(algs []algSize, alg tcg.AlgID) int {
	for _, a := range algs {
		if a.alg == alg {
			return a.size
		}
	}
	return 0
}

// readEvents reads events from the offset `at` up to the end, the padding, or the first unreadable
// event. Firmware and kernels pad with 0x00 or 0xFF.
func readEvents(raw []byte, at int, bank tcg.AlgID, algs []algSize, read func(b []byte, bank tcg.AlgID, algs []algSize) (Event, int, error)) *Log {
	l := &Log{State: Whole}
	padding := len(raw)
	for padding > 0 && (raw[padding-1] == 0 || raw[padding-1] == 0xFF) {
		padding--
	}
	for at < len(raw) {
		if at >= padding {
			l.State = Padded
			break
		}
		if len(l.Events) == MaxEvents {
			l.State, l.Problem = Part, fmt.Sprintf("The event log has more than %d events; the rest was not read.", MaxEvents)
			break
		}
		e, size, err := read(raw[at:], bank, algs)
		if err != nil {
			l.State, l.Problem = Part, fmt.Sprintf("The event log cannot be read after event %d, at byte %d of %d: %v.", len(l.Events), at, len(raw), err)
			break
		}
		at += size
		if e.PCR == 0 && e.Type == 0 && e.Digest == nil && len(e.Data) == 0 {
			continue // zeros between two parts of the log
		}
		l.Events = append(l.Events, e)
	}
	return l
}

// readEvent2 reads a TCG_PCR_EVENT2. The result `size` is the event's size in bytes.
func readEvent2(b []byte, bank tcg.AlgID, algs []algSize) (e Event, size int, err error) {
	if len(b) < 12 {
		return e, 0, errLogShort
	}
	e.PCR, e.Type = le32(b), le32(b[4:])
	count := le32(b[8:])
	if uint64(count) > uint64(len(algs)) {
		return e, 0, errors.New("an event has more digests than the log has algorithms")
	}
	next := 12
	var seen []tcg.AlgID
	for range count {
		if len(b) < next+2 {
			return e, 0, errLogShort
		}
		alg := tcg.AlgID(le16(b[next:]))
		n := sizeOf(algs, alg)
		if n == 0 {
			return e, 0, errors.New("an event has a digest of an algorithm that the log does not name")
		}
		for _, other := range seen {
			if other == alg {
				return e, 0, errors.New("an event has two digests of one algorithm")
			}
		}
		seen = append(seen, alg)
		if next += 2; n > len(b)-next {
			return e, 0, errLogShort
		}
		if alg == bank {
			e.Digest = b[next : next+n]
		}
		next += n
	}
	return e.withData(b, next)
}

// readEvent1 reads a TCG_PCClientPCREvent, the format of TPM 1.2.
func readEvent1(b []byte, bank tcg.AlgID, _ []algSize) (e Event, size int, err error) {
	if len(b) < 8+20 {
		return e, 0, errLogShort
	}
	e.PCR, e.Type = le32(b), le32(b[4:])
	if bank == AlgSHA1 {
		e.Digest = b[8 : 8+20]
	}
	return e.withData(b, 8+20)
}

// withData reads the event's data. The size of the data is at the offset `at` in `b`, and the data
// follows the size.
func (e Event) withData(b []byte, at int) (Event, int, error) {
	if len(b)-at < 4 {
		return e, 0, errLogShort
	}
	size := le32(b[at:])
	if at += 4; uint64(size) > uint64(len(b)-at) {
		return e, 0, errLogShort
	}
	e.Data = b[at : at+int(size)]
	return e, at + int(size), nil
}

func le16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
