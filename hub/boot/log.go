package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"gangway/tcg"
)

// Limits for a log's header, so that reading any log is cheap.
const (
	maxAlgs   = 8
	maxHeader = 1024 // bytes of the first event's data
	maxDigest = 64   // bytes
)

const evNoAction = 3 // EV_NO_ACTION: informative, extends no PCR

// States of a log. A state says how much of the log the hub could read. No state is a reason to
// refuse a measurement. If the events do not replay to a PCR's value, that PCR is unexplained.
const (
	LogNone       = "none"       // there is no log
	LogWhole      = "whole"      // the whole log was read
	LogPadded     = "padded"     // the whole log was read, and padding follows
	LogPart       = "part"       // a part of the log was read
	LogUnreadable = "unreadable" // the data is not a TPM event log
)

// logEvent is one entry of an event log.
type logEvent struct {
	pcr    uint32
	kind   uint32 // no digest covers the type, so the type is used only to skip EV_NO_ACTION, which extends no PCR
	digest []byte // digest for the quoted bank; nil: the event does not extend that bank
	data   []byte
}

// eventLog is the readable part of an event log.
type eventLog struct {
	events []logEvent
	state  string
	why    string // what is wrong with the log, a sentence; may be empty
}

var (
	errLogShort  = errors.New("it ends inside an event")
	errLogHeader = errors.New("its first event, which names the digests' algorithms, cannot be read")
	errLogFormat = errors.New("it does not begin like a TPM event log")
)

// readLog reads as much as possible of a firmware's event log, for one bank:
//   - the crypto-agile format (PC Client Platform Firmware Profile, 10.2), with
//     its Spec ID event, or without one;
//   - the format of TPM 1.2, which has SHA-1 digests only (10.2.1).
//
// Every number from the log is checked against a limit before an allocation or a loop uses the
// number. Without the limits, a log of 1 MiB could have a header with 120,000 algorithms, and an
// event with 120,000 digests.
func readLog(raw []byte, bank tcg.AlgID) *eventLog {
	switch {
	case len(raw) == 0:
		return &eventLog{state: LogNone}
	case len(raw) > MaxLog:
		return &eventLog{state: LogUnreadable, why: fmt.Sprintf("The event log was not read: it has more than %d bytes.", MaxLog)}
	}
	if bytes.HasPrefix(raw, []byte("CCEL")) { // the ACPI table that contains the address of the log, instead of the log
		return &eventLog{state: LogUnreadable, why: "The device sent a confidential machine's ACPI table (CCEL), not an event log."}
	}
	algs, at, err := readHeader(raw)
	if err == nil && algs != nil {
		l := readEvents(raw, at, bank, algs, readEvent2)
		l.remark(bank, algs)
		return l
	}
	if err != nil {
		return &eventLog{state: LogUnreadable, why: sentence(err)}
	}
	// Without a Spec ID event the log may have either format. Use the format with more readable
	// bytes.
	old := readEvents(raw, 0, bank, sha1Only, readEvent1)
	agile := readEvents(raw, 0, bank, usualAlgs, readEvent2)
	l, algs := old, sha1Only
	if old.state == LogPart && (agile.state != LogPart || len(agile.events) > len(old.events)) {
		l, algs = agile, usualAlgs
	}
	if l.state == LogPart && len(l.events) < 2 || len(l.events) == 0 {
		return &eventLog{state: LogUnreadable, why: sentence(errLogFormat)}
	}
	l.remark(bank, algs)
	return l
}

func sentence(err error) string { return fmt.Sprintf("The event log cannot be read: %v.", err) }

// remark sets the field `why` if a readable log cannot explain any PCR of the bank. The value is a
// sentence with the reason.
func (l *eventLog) remark(bank tcg.AlgID, algs []algSize) {
	if l.why != "" {
		return
	}
	has := false
	var names []string
	for _, a := range algs {
		has = has || a.alg == bank
		names = append(names, algName(a.alg))
	}
	if l.confidential() {
		l.why = "The event log is about a confidential machine's registers (CCEL), not about a TPM's PCRs."
	} else if !has {
		l.why = fmt.Sprintf("The event log has digests only for %[2]s, not for the quoted %[1]s bank, so it explains nothing.", algName(bank), strings.Join(names, ", "))
	}
}

func algName(a tcg.AlgID) string {
	if a == algSHA1 {
		return "SHA-1"
	}
	if name := bankNames[a]; name != "" {
		return name
	}
	return fmt.Sprintf("algorithm 0x%04X", uint16(a))
}

// confidential reports whether the log is about the registers of a confidential machine (CCEL)
// instead of PCRs. In a CCEL log the state of Secure Boot is in register 1, and no register is
// above 4 (UEFI 38.4.1).
func (l *eventLog) confidential() bool {
	found := false
	for _, e := range l.events {
		if e.kind == evNoAction {
			continue
		}
		if e.pcr > 4 {
			return false
		}
		if v, ok := parseVariable(e.data); ok && e.pcr == 1 && v.name == "SecureBoot" && v.owner == globalVariable {
			found = true
		}
	}
	return found
}

type algSize struct {
	alg  tcg.AlgID
	size int
}

const algSHA1 tcg.AlgID = 0x0004

var (
	sha1Only = []algSize{{algSHA1, 20}}
	// usualAlgs are the algorithms assumed for firmware that writes no Spec ID event; 0x0012 is
	// SM3.
	usualAlgs = []algSize{{algSHA1, 20}, {tcg.AlgSHA256, 32}, {tcg.AlgSHA384, 48}, {tcg.AlgSHA512, 64}, {0x0012, 32}}
)

// readHeader reads the first event, which has the format of TPM 1.2 and contains a
// TCG_EfiSpecIDEvent. The result `algs` has the digests' sizes, and `end` is the offset of the
// event's end. If the log begins with another event, `algs` and the error are nil.
func readHeader(raw []byte) (algs []algSize, end int, err error) {
	const head = 4 + 4 + 20 + 4
	if len(raw) < head+16 || le32(raw[4:]) != evNoAction || !bytes.HasPrefix(raw[head:], []byte("Spec ID Event03\x00")) {
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
func readEvents(raw []byte, at int, bank tcg.AlgID, algs []algSize, read func(b []byte, bank tcg.AlgID, algs []algSize) (logEvent, int, error)) *eventLog {
	l := &eventLog{state: LogWhole}
	padding := len(raw)
	for padding > 0 && (raw[padding-1] == 0 || raw[padding-1] == 0xFF) {
		padding--
	}
	for at < len(raw) {
		if at >= padding {
			l.state = LogPadded
			break
		}
		if len(l.events) == MaxEvents {
			l.state, l.why = LogPart, fmt.Sprintf("The event log has more than %d events; the rest was not read.", MaxEvents)
			break
		}
		e, size, err := read(raw[at:], bank, algs)
		if err != nil {
			l.state, l.why = LogPart, fmt.Sprintf("The event log cannot be read after event %d, at byte %d of %d: %v.", len(l.events), at, len(raw), err)
			break
		}
		at += size
		if e.pcr == 0 && e.kind == 0 && e.digest == nil && len(e.data) == 0 {
			continue // zeros between two parts of the log
		}
		l.events = append(l.events, e)
	}
	return l
}

// readEvent2 reads a TCG_PCR_EVENT2. The result `size` is the event's size in bytes.
func readEvent2(b []byte, bank tcg.AlgID, algs []algSize) (e logEvent, size int, err error) {
	if len(b) < 12 {
		return e, 0, errLogShort
	}
	e.pcr, e.kind = le32(b), le32(b[4:])
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
			e.digest = b[next : next+n]
		}
		next += n
	}
	return e.withData(b, next)
}

// readEvent1 reads a TCG_PCClientPCREvent, the format of TPM 1.2.
func readEvent1(b []byte, bank tcg.AlgID, _ []algSize) (e logEvent, size int, err error) {
	if len(b) < 8+20 {
		return e, 0, errLogShort
	}
	e.pcr, e.kind = le32(b), le32(b[4:])
	if bank == algSHA1 {
		e.digest = b[8 : 8+20]
	}
	return e.withData(b, 8+20)
}

// withData reads the event's data. The size of the data is at the offset `at` in `b`, and the data
// follows the size.
func (e logEvent) withData(b []byte, at int) (logEvent, int, error) {
	if len(b)-at < 4 {
		return e, 0, errLogShort
	}
	size := le32(b[at:])
	if at += 4; uint64(size) > uint64(len(b)-at) {
		return e, 0, errLogShort
	}
	e.data = b[at : at+int(size)]
	return e, at + int(size), nil
}

func le16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
