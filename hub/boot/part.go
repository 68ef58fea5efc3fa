package boot

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
)

// A Part of a boot, for example its firmware, is a set of PCRs that change for the same reasons.
type Part struct {
	Name  string
	Words string // for a person, in the middle of a sentence
	PCRs  []int
}

// Names of the parts of a boot.
const (
	PartFirmware = "firmware"
	PartKeys     = "keys"
	PartPath     = "boot-path"
	PartSystem   = "system"
	PartRest     = "rest"
	// FirmwareCode is the name of a subset of PartFirmware: the PCRs in codePCRs. Their values
	// depend only on the firmware's code, so they are the same on all machines of a model. If the
	// owner accepts these values, the part `firmware` of a boot is accepted, whatever settings are
	// in PCR 1 and 3. Judge gives no separate verdict on FirmwareCode.
	FirmwareCode = "firmware-code"
)

// Parts are the parts of a boot, in the order of the boot. PCR 10 is in no part: see imaPCR.
var Parts = []Part{
	{PartFirmware, "the firmware", []int{0, 1, 2, 3}},
	{PartKeys, "the Secure Boot keys", []int{secureBootPCR}},
	{PartPath, "the boot path", []int{pathPCR, exitPCR}},
	{PartSystem, "the system", []int{phasePCR, linePCR}},
	{PartRest, "the rest", []int{6, 8, nvPCR, 13, 14, 15}},
}

const (
	pathPCR = 4  // the programs that firmware started
	linePCR = 12 // command lines that did not come from the unified kernel image
)

// codePCRs are the PCRs of FirmwareCode: the firmware's code, and the code of plug-in cards.
var codePCRs = []int{0, 2}

// States of a part of the boot, as Judge finds them.
const (
	StateExpected    = "expected"         // it is what the owner's manifests state
	StateKnown       = "known"            // the owner accepted it: by the device's reference, or for a cohort
	StateChanged     = "changed"          // it is neither expected nor known
	StateUnexplained = "unexplained"      // it is neither expected nor known, and the event log does not explain it
	StateNothing     = "nothing-measured" // the firmware measured nothing
)

// AtLeast reports whether a part of a boot with the state `is` is good enough for `want`, which is
// StateExpected or StateKnown. StateExpected is better than StateKnown.
func AtLeast(is, want string) bool {
	return is == StateExpected || is == StateKnown && want == StateKnown
}

// PartNamed finds a part of the boot by its name, for example PartFirmware.
func PartNamed(name string) (Part, bool) {
	i := slices.IndexFunc(Parts, func(p Part) bool { return p.Name == name })
	if i < 0 {
		return Part{}, false
	}
	return Parts[i], true
}

// Values returns a hash for each part of the boot and one for FirmwareCode; the key is the part's
// name. Two boots have the same hash for a part only if they have the same PCR bank and the same
// PCR values in this part.
func (m *Measurement) Values() map[string]string {
	values := map[string]string{FirmwareCode: m.valueOf(codePCRs)}
	for _, p := range Parts {
		values[p.Name] = m.valueOf(p.PCRs)
	}
	return values
}

// valueOf returns the SHA-256, in hexadecimal, of the bank's name and the values of some PCRs.
func (m *Measurement) valueOf(pcrs []int) string {
	h := sha256.New()
	h.Write([]byte("gangway boot part v1\x00" + m.Bank + "\x00"))
	for _, pcr := range pcrs {
		h.Write([]byte(valueOf(m, pcr) + "\x00"))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// FirmwareText returns the firmware's version, as firmware measured it into PCR 0. It returns "" if
// the log does not explain PCR 0, or if firmware measured no version.
func (m *Measurement) FirmwareText() string {
	for _, e := range m.Events {
		if e.PCR == 0 && e.What == whatVersion {
			return e.Text
		}
	}
	return ""
}
