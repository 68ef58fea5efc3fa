// Package boot judges a device's boot by a TPM quote of the PCRs and by the firmware's event log.
// The event log explains the PCR values. Package boot does no I/O and keeps no state.
//
// Only the PCR values decide, because the TPM signs them: two boots match if their PCRs match. The
// event log is only the device's statement. The hub uses the log for a PCR only if replaying the
// log results in the PCR's quoted value. If it does not, the log proves nothing about that PCR.
// Package boot names an event by the event's digest, PCR and position. It never uses an event's
// type, which the TPM does not sign. The hub displays all other data of the log, and says that
// nothing proves this data.
package boot

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"fmt"
	"slices"

	"gangway/hub/evidence"
	"gangway/tcg"
	"gangway/tcg/eventlog"
	"gangway/wire"
)

// PCRs is the number of quoted PCRs, from PCR 0 on.
const PCRs = 16

// MaxLog is the maximum size of an event log that is read, in bytes. MaxEvents is the maximum
// number of its events.
const (
	MaxLog    = eventlog.MaxLog
	MaxEvents = eventlog.MaxEvents
)

// Evidence is the boot evidence that a device sends.
type Evidence struct {
	Nonce     []byte
	Attest    []byte // TPMS_ATTEST of TPM2_Quote
	Signature []byte // TPMT_SIGNATURE over Attest, by the IAK
	Bank      tcg.AlgID
	PCRs      [][]byte // values of PCR 0 to 15
	Log       []byte   // event log of the firmware; empty: none
}

// Measurement describes a boot: the PCR values that the quote proves, and the events of the log
// that explain these values.
type Measurement struct {
	Bank string `json:"bank"` // "SHA-256", "SHA-384"
	// PCRs are the quoted values, hexadecimal.
	PCRs []string `json:"pcrs"`
	// Unexplained lists the PCRs that the log does not explain: replaying the log does not result
	// in the PCR's value. Without a log, it lists all PCRs that were extended. For PCRs in this
	// list, Compare compares only the values.
	Unexplained []int   `json:"unexplained,omitempty"`
	Log         bool    `json:"log"`                 // the device sent a log
	LogState    string  `json:"log-state,omitempty"` // how much of the log could be read: LogWhole and others; empty in old measurements
	LogProblem  string  `json:"log-why,omitempty"`   // what is wrong with the log, a sentence; may be empty
	Events      []Event `json:"events,omitempty"`
	SecureBoot  string  `json:"secure-boot"` // "on" or "off"; "not told" or "told more than once" if the state is not known
	// Keys are the Secure Boot variables that PCR 7 proves; empty in old measurements.
	Keys []KeyVariable `json:"keys,omitempty"`
	// StartupLocality is the locality of TPM2_Startup, which the value of PCR 0 shows. The locality
	// is 4 after an H-CRTM sequence.
	StartupLocality int `json:"startup-locality,omitempty"`
	// Installed is the report of the installer that wrote the partition table; nil: the device sent
	// no report, or an invalid one. InstalledProblem says what is wrong with an invalid report.
	Installed        *Installation `json:"installed,omitempty"`
	InstalledProblem string        `json:"installed-why,omitempty"`

	Clock        uint64            `json:"clock"` // milliseconds, as in tcg.ClockInfo
	ClockSafe    bool              `json:"clock-safe"`
	ResetCount   uint32            `json:"reset-count"`
	RestartCount uint32            `json:"restart-count"`
	Firmware     string            `json:"firmware"` // version of the TPM's firmware
	Version      evidence.Firmware `json:"firmware-version"`
}

// Counters returns the TPM's counters at the time of the measurement.
func (m *Measurement) Counters() Counters {
	return Counters{tcg.ClockInfo{Clock: m.Clock, ResetCount: m.ResetCount, RestartCount: m.RestartCount, Safe: m.ClockSafe}, m.Version}
}

// SameBoot reports whether the measurements `m` and `o` are of the same boot, and whether nothing
// was measured between the two. It ignores PCR 10, which a running system extends at any time. If
// SameBoot is true, Compare finds the same changes in both measurements.
func (m *Measurement) SameBoot(o *Measurement) bool {
	if m.ResetCount != o.ResetCount || m.RestartCount != o.RestartCount || m.Version != o.Version || m.Bank != o.Bank || m.Log != o.Log {
		return false
	}
	for pcr := range PCRs {
		if pcr == imaPCR {
			continue
		}
		if valueOf(m, pcr) != valueOf(o, pcr) || slices.Contains(m.Unexplained, pcr) != slices.Contains(o.Unexplained, pcr) || !slices.Equal(eventsOf(m.Events, pcr), eventsOf(o.Events, pcr)) {
			return false
		}
	}
	return true
}

// Event is an event of the log. The log explains the PCR of this event.
type Event struct {
	PCR    int    `json:"pcr"`
	What   string `json:"what"`            // for a person: "the kernel", "Secure Boot variable db"
	Digest string `json:"digest"`          // hexadecimal
	Text   string `json:"text,omitempty"`  // the measured data, if the digest proves it
	Label  string `json:"label,omitempty"` // the log's description; no digest covers it, so only the device states it
}

// Stable codes of refusals.
const (
	CodeMalformed = "boot-malformed"
	CodeSigner    = "boot-other-key"
	CodeNonce     = "boot-nonce"
	CodeSelection = "boot-selection"
	CodeValues    = "boot-pcr-values"
)

func refuse(code, reason string) *evidence.Refusal {
	return &evidence.Refusal{Code: code, Reason: reason, Hint: "The agent repeats the measurement automatically. If this happens again, inspect the machine."}
}

// Verify checks that the IAK signed the quote over the nonce, the PCR values and the log in `e`.
// For each PCR value, it looks for the events in the log that result in this value. Errors have the
// type *evidence.Refusal: if a quote is not valid, the device is faulty or sends false data. A log
// is never a reason for refusal, because the quote is valid even if the log is wrong.
func Verify(iak *tcg.Public, e *Evidence) (*Measurement, error) {
	q, bank, err := verifyQuote(iak, e, wire.BootQualifying(e.Nonce, e.Log))
	if err != nil {
		return nil, err
	}
	return newMeasurement(q, e, bank), nil
}

// newMeasurement returns the measurement of a valid quote.
func newMeasurement(q *tcg.Attest, e *Evidence, bank crypto.Hash) *Measurement {
	m := &Measurement{
		Bank: bankNames[e.Bank], Log: len(e.Log) > 0,
		Clock: q.Clock, ClockSafe: q.Safe, ResetCount: q.ResetCount, RestartCount: q.RestartCount,
		Firmware: evidence.Firmware(q.FirmwareVersion).String(), Version: evidence.Firmware(q.FirmwareVersion),
	}
	for _, v := range e.PCRs {
		m.PCRs = append(m.PCRs, hex.EncodeToString(v))
	}
	m.replay(e, bank)
	return m
}

const stateUnknown = "not told"

var bankNames = map[tcg.AlgID]string{tcg.AlgSHA256: "SHA-256", tcg.AlgSHA384: "SHA-384", tcg.AlgSHA512: "SHA-512"}

// hashOf returns the hash function of the PCR bank with this name, for example "SHA-256".
func hashOf(bank string) (crypto.Hash, bool) {
	for alg, name := range bankNames {
		if h, err := alg.Hash(); err == nil && name == bank {
			return h, true
		}
	}
	return 0, false
}

// verifyQuote checks the quote in `e`. The qualifying data (extraData) of the quote must be
// `qualifying`.
func verifyQuote(iak *tcg.Public, e *Evidence, qualifying []byte) (*tcg.Attest, crypto.Hash, error) {
	q, err := tcg.ParseQuote(e.Attest)
	if err != nil {
		return nil, 0, refuse(CodeMalformed, fmt.Sprintf("The quote cannot be read: %v.", err))
	}
	s, err := tcg.ParseSignature(e.Signature)
	if err != nil {
		return nil, 0, refuse(CodeMalformed, fmt.Sprintf("The quote's signature cannot be read: %v.", err))
	}
	name, err := iak.Name()
	if err != nil {
		return nil, 0, refuse(CodeMalformed, "The device's attestation key is unusable.")
	}
	signer, err := tcg.EndorsementQualifiedName(name)
	if err != nil || !bytes.Equal(q.QualifiedSigner, signer) || iak.Verify(e.Attest, s) != nil {
		return nil, 0, refuse(CodeSigner, "The quote is not signed by the device's attestation key.")
	}
	if !bytes.Equal(q.ExtraData, qualifying) {
		return nil, 0, refuse(CodeNonce, "The quote was not made for the hub's nonce and the event log that the device sent.")
	}
	bank, err := e.Bank.Hash()
	if err != nil || bankNames[e.Bank] == "" {
		return nil, 0, refuse(CodeSelection, "The quoted PCR bank is too weak: SHA-256 or stronger is required.")
	}
	if len(q.Selection) != 1 || q.Selection[0].Hash != e.Bank || len(q.Selection[0].PCRs) != PCRs || q.Selection[0].PCRs[PCRs-1] != PCRs-1 {
		return nil, 0, refuse(CodeSelection, "The quote does not cover exactly PCR 0 to 15 of one bank.")
	}
	h, err := iak.SchemeHash.Hash()
	if err != nil {
		return nil, 0, refuse(CodeMalformed, "The device's attestation key is unusable.")
	}
	d := h.New()
	for _, v := range e.PCRs {
		if len(v) != bank.Size() {
			return nil, 0, refuse(CodeValues, "A PCR value does not have the size of its bank's digests.")
		}
		d.Write(v)
	}
	if len(e.PCRs) != PCRs || !bytes.Equal(d.Sum(nil), q.PCRDigest) {
		return nil, 0, refuse(CodeValues, "The PCR values that the device sent are not the quoted values.")
	}
	return q, bank, nil
}
