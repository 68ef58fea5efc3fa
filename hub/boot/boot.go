// Package boot judges what a device has booted: a TPM's quote of its PCRs, and
// the firmware's event log that explains them. It is pure.
//
// What counts are the PCRs, which the quote vouches for: two boots match when
// their PCRs do. The log is the device's word. It is believed where it replays
// to a quoted PCR, and then only as far as digests go: an event says what its
// digest, its PCR and its place show. Its type decides nothing, and what else
// the log says of it is shown as the log's word. A log that does not replay to
// a PCR says nothing about it.
package boot

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"fmt"
	"slices"

	"gangway/hub/evidence"
	"gangway/tcg"
	"gangway/wire"
)

// PCRs is how many are quoted, from PCR 0.
const PCRs = 16

// MaxLog bounds what is read of an event log, in bytes; MaxEvents the events.
const (
	MaxLog    = 1 << 20
	MaxEvents = 4096
)

// Evidence is what a device sends.
type Evidence struct {
	Nonce     []byte
	Attest    []byte // TPMS_ATTEST of TPM2_Quote
	Signature []byte // TPMT_SIGNATURE of it, by the IAK
	Bank      tcg.AlgID
	PCRs      [][]byte // values of PCR 0 to 15
	Log       []byte   // event log of the firmware; empty: none
}

// Measurement is what was booted, as far as it is verified.
type Measurement struct {
	Bank string `json:"bank"` // "SHA-256", "SHA-384"
	// PCRs are the quoted values, hexadecimal.
	PCRs []string `json:"pcrs"`
	// Unexplained are the PCRs that the log does not replay to, or all into which
	// something was measured where there is no log. They are compared by value.
	Unexplained []int   `json:"unexplained,omitempty"`
	Log         bool    `json:"log"`                 // there was a log
	LogState    string  `json:"log-state,omitempty"` // how far it could be read: LogWhole and others; empty in old measurements
	LogProblem  string  `json:"log-why,omitempty"`   // a sentence on what is wrong with the log, if something is
	Events      []Event `json:"events,omitempty"`
	SecureBoot  string  `json:"secure-boot"` // "on", "off", "not told"
	// StartupLocality is the locality of TPM2_Startup, as PCR 0 shows it; 4 after
	// an H-CRTM sequence.
	StartupLocality int `json:"startup-locality,omitempty"`

	Clock        uint64            `json:"clock"` // ms, as tcg.ClockInfo
	ClockSafe    bool              `json:"clock-safe"`
	ResetCount   uint32            `json:"reset-count"`
	RestartCount uint32            `json:"restart-count"`
	Firmware     string            `json:"firmware"` // the TPM's
	Version      evidence.Firmware `json:"firmware-version"`
}

// Counters are the TPM's own, at the measurement.
func (m *Measurement) Counters() Counters {
	return Counters{tcg.ClockInfo{Clock: m.Clock, ResetCount: m.ResetCount, RestartCount: m.RestartCount, Safe: m.ClockSafe}, m.Version}
}

// SameBoot says whether another measurement is of the same boot: of the machine
// as it was started then, with nothing measured since. PCR 10, into which a
// running system measures, does not count. Compare finds the same changes in
// both.
func (m *Measurement) SameBoot(o *Measurement) bool {
	if m.ResetCount != o.ResetCount || m.RestartCount != o.RestartCount || m.Version != o.Version || m.Bank != o.Bank || m.Log != o.Log {
		return false
	}
	for pcr := range PCRs {
		if pcr == imaPCR {
			continue
		}
		if valueOf(m, pcr) != valueOf(o, pcr) || slices.Contains(m.Unexplained, pcr) != slices.Contains(o.Unexplained, pcr) || !slices.Equal(of(m.Events, pcr), of(o.Events, pcr)) {
			return false
		}
	}
	return true
}

// Event is a measurement of the log in a PCR that the log explains.
type Event struct {
	PCR    int    `json:"pcr"`
	What   string `json:"what"`            // for a person: "the kernel", "Secure Boot variable db"
	Digest string `json:"digest"`          // hexadecimal
	Text   string `json:"text,omitempty"`  // what was measured, where its digest shows that it was
	Label  string `json:"label,omitempty"` // what the log calls it, which no digest covers: the device's word
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
	return &evidence.Refusal{Code: code, Reason: reason, Hint: "The agent measures again by itself; if it happens again, look at the machine."}
}

// Verify checks that the quote is by the IAK over this nonce, these values and
// this log, and explains the values by the log as far as it goes. Its error is
// of type *evidence.Refusal: a device whose quote does not hold lies, or is
// broken. A log is never a reason to refuse: whatever it says, the values are
// those that the TPM quoted.
func Verify(iak *tcg.Public, e *Evidence) (*Measurement, error) {
	q, bank, err := verifyQuote(iak, e)
	if err != nil {
		return nil, err
	}
	m := &Measurement{
		Bank: bankNames[e.Bank], Log: len(e.Log) > 0,
		Clock: q.Clock, ClockSafe: q.Safe, ResetCount: q.ResetCount, RestartCount: q.RestartCount,
		Firmware: evidence.Firmware(q.FirmwareVersion).String(), Version: evidence.Firmware(q.FirmwareVersion),
	}
	for _, v := range e.PCRs {
		m.PCRs = append(m.PCRs, hex.EncodeToString(v))
	}
	m.replay(e, bank)
	return m, nil
}

const notTold = "not told"

var bankNames = map[tcg.AlgID]string{tcg.AlgSHA256: "SHA-256", tcg.AlgSHA384: "SHA-384", tcg.AlgSHA512: "SHA-512"}

// hashOf is the hash of a bank by its name.
func hashOf(bank string) (crypto.Hash, bool) {
	for alg, name := range bankNames {
		if h, err := alg.Hash(); err == nil && name == bank {
			return h, true
		}
	}
	return 0, false
}

func verifyQuote(iak *tcg.Public, e *Evidence) (*tcg.Attest, crypto.Hash, error) {
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
		return nil, 0, refuse(CodeSigner, "The quote is not by the device's attestation key.")
	}
	if !bytes.Equal(q.ExtraData, wire.BootQualifying(e.Nonce, e.Log)) {
		return nil, 0, refuse(CodeNonce, "The quote is over another nonce than the hub gave, or over another event log than was sent.")
	}
	bank, err := e.Bank.Hash()
	if err != nil || bankNames[e.Bank] == "" {
		return nil, 0, refuse(CodeSelection, "The quote is of a PCR bank that is too weak: SHA-256 or better is needed.")
	}
	if len(q.Selection) != 1 || q.Selection[0].Hash != e.Bank || len(q.Selection[0].PCRs) != PCRs || q.Selection[0].PCRs[PCRs-1] != PCRs-1 {
		return nil, 0, refuse(CodeSelection, "The quote is not of PCR 0 to 15 of one bank.")
	}
	h, err := iak.SchemeHash.Hash()
	if err != nil {
		return nil, 0, refuse(CodeMalformed, "The device's attestation key is unusable.")
	}
	d := h.New()
	for _, v := range e.PCRs {
		if len(v) != bank.Size() {
			return nil, 0, refuse(CodeValues, "A PCR's value has another size than its bank's.")
		}
		d.Write(v)
	}
	if len(e.PCRs) != PCRs || !bytes.Equal(d.Sum(nil), q.PCRDigest) {
		return nil, 0, refuse(CodeValues, "The PCR values are not those that were quoted.")
	}
	return q, bank, nil
}
