package boot

import (
	"encoding/binary"
	"fmt"
	"strings"

	"gangway/tcg"
	"gangway/tcg/eventlog"
)

const evNoAction = eventlog.NoAction

// States of a log. A state says how much of the log the hub could read. No state is a reason to
// refuse a measurement. If replaying the log's events does not result in a PCR's value, that PCR is
// unexplained.
const (
	LogNone       = eventlog.None
	LogWhole      = eventlog.Whole
	LogPadded     = eventlog.Padded
	LogPart       = eventlog.Part
	LogUnreadable = eventlog.Unreadable
)

// logEvent is one entry of an event log, as in eventlog.Event.
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

// readLog reads a firmware's event log, for one bank.
func readLog(raw []byte, bank tcg.AlgID) *eventLog {
	log := eventlog.Read(raw, bank)
	l := &eventLog{state: log.State, why: log.Problem}
	for _, e := range log.Events {
		l.events = append(l.events, logEvent{e.PCR, e.Type, e.Digest, e.Data})
	}
	if len(log.Algs) > 0 {
		l.remark(bank, log.Algs)
	}
	return l
}

// remark sets the field `why` if a readable log cannot explain any PCR of the bank. The value is a
// sentence with the reason.
func (l *eventLog) remark(bank tcg.AlgID, algs []tcg.AlgID) {
	if l.why != "" {
		return
	}
	has := false
	var names []string
	for _, a := range algs {
		has = has || a == bank
		names = append(names, algName(a))
	}
	if l.confidential() {
		l.why = "The event log is about a confidential machine's registers (CCEL), not about a TPM's PCRs."
	} else if !has {
		l.why = fmt.Sprintf("The event log has digests only for %[2]s, not for the quoted %[1]s bank, so it explains nothing.", algName(bank), strings.Join(names, ", "))
	}
}

func algName(a tcg.AlgID) string {
	if a == eventlog.AlgSHA1 {
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
		if v, ok := eventlog.ParseVariable(e.data); ok && e.pcr == 1 && v.Name == "SecureBoot" && v.Vendor == globalVariable {
			found = true
		}
	}
	return found
}

func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
