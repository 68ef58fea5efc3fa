package wire

import (
	"crypto/sha256"
	"time"
)

// BootExporterLabel is the label of the TLS exporter (RFC 8446, 7.5) that binds a boot measurement
// to its TLS connection. The exporter has ExporterSize bytes and an empty context.
const BootExporterLabel = "EXPORTER-gangway-boot"

// BootNonceSize is the size of a boot measurement's nonce, in bytes.
const BootNonceSize = 32

// BootQualifying returns the qualifying data of a report's quote, 32 bytes:
//
//	SHA-256("gangway boot v1" 00 || len(nonce) nonce || SHA-256(event log))
//
// The length of the nonce is encoded in one byte. Because the TPM signs the result, it signs the
// event log together with the nonce, so the hub detects an altered log.
func BootQualifying(nonce, eventLog []byte) []byte {
	log := sha256.Sum256(eventLog)
	h := sha256.New()
	h.Write([]byte("gangway boot v1\x00"))
	h.Write([]byte{byte(len(nonce))})
	h.Write(nonce)
	h.Write(log[:])
	return h.Sum(nil)
}

// MaxBootReport is the largest size of a BootReport's JSON, in bytes.
const MaxBootReport = 2 << 20

// BootChallenge is the hub's answer to GET /device/boot.
type BootChallenge struct {
	Nonce   []byte    `json:"nonce"`   // base64; valid for one quote on this TLS connection
	Expires time.Time `json:"expires"` // when the nonce expires
	State   string    `json:"state"`   // result of the last measurement: "matches", "changed", "nothing-measured", "refused"; or "unmeasured"
}

// BootReport is a device's boot measurement, the body of POST /device/boot. Byte strings are in
// base64.
type BootReport struct {
	Nonce     []byte   `json:"nonce"`
	Bank      uint16   `json:"bank"`   // TPM_ALG_ID of the PCR bank
	PCRs      [][]byte `json:"pcrs"`   // values of PCR 0 to 15
	Attest    []byte   `json:"attest"` // TPMS_ATTEST of TPM2_Quote, whose qualifying data is BootQualifying
	Signature []byte   `json:"signature"`
	EventLog  []byte   `json:"event-log,omitempty"` // unchanged, as the firmware wrote it
	// Installed is the report of the installer that installed the running system, or nil if the
	// device has no such report.
	Installed *InstallReport `json:"installed,omitempty"`
}

// BootVerdict is the response to a BootReport.
type BootVerdict struct {
	State   string   `json:"state"`             // "matches", "changed", "nothing-measured"
	Changes []string `json:"changes,omitempty"` // how the boot differs from expected and known boots
}
