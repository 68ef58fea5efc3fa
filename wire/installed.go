package wire

import "crypto/sha256"

// MaxInstallReport is the largest size of an InstallReport's JSON, in bytes.
const MaxInstallReport = 32 << 10

// InstallReport is an installer's report on the partition table that it has written. The installer
// makes the report before the machine restarts, so the quote shows the boot of the installer. The
// device sends the report with each boot measurement. Byte strings are in base64.
type InstallReport struct {
	Table     []byte   `json:"table"` // UEFI_GPT_DATA, as firmware measures it into PCR 5 (tcg/eventlog)
	Bank      uint16   `json:"bank"`  // TPM_ALG_ID of the PCR bank
	PCRs      [][]byte `json:"pcrs"`  // values of PCR 0 to 15
	Attest    []byte   `json:"attest"`
	Signature []byte   `json:"signature"`
	// EventLog has only the events of those PCRs that show which program made the report.
	EventLog []byte `json:"event-log"`
}

// InstallQualifying returns the qualifying data of an InstallReport's quote, 32 bytes:
//
//	SHA-256("gangway install v1" 00 || SHA-256(table) || SHA-256(event log))
//
// The text at the beginning distinguishes this quote from the quote of a boot measurement.
func InstallQualifying(table, eventLog []byte) []byte {
	t, log := sha256.Sum256(table), sha256.Sum256(eventLog)
	h := sha256.New()
	h.Write([]byte("gangway install v1\x00"))
	h.Write(t[:])
	h.Write(log[:])
	return h.Sum(nil)
}
