package tcg

import (
	"errors"
	"fmt"
)

// GeneratedValue is TPM_GENERATED_VALUE (Part 2, 6.2): the magic number at the start of every
// structure that a TPM attests. A restricted key does not sign external data that begins with this
// number.
const GeneratedValue = 0xFF544347

// AttestType is a TPMI_ST_ATTEST (Part 2, 10.12.2).
type AttestType uint16

// The types of attestation that this package parses.
const (
	AttestCertify AttestType = 0x8017
	AttestQuote   AttestType = 0x8018
)

// MaxAttest is the largest TPMS_ATTEST that the parsers accept, in bytes.
const MaxAttest = 1024

// Attest is a TPMS_ATTEST (Part 2, 10.12.12) made by TPM2_Certify or TPM2_Quote. Raw contains the
// signed bytes.
type Attest struct {
	Raw             []byte
	Magic           uint32
	Type            AttestType
	QualifiedSigner []byte // qualified name of the signing key
	ExtraData       []byte // qualifying data of the TPM command, such as a nonce
	ClockInfo
	FirmwareVersion uint64
	// The fields of TPMS_CERTIFY_INFO.
	Name          []byte // TPM name of the certified key
	QualifiedName []byte
	// The fields of TPMS_QUOTE_INFO.
	Selection []PCRSelection
	PCRDigest []byte // digest of the selected PCR values, in the order of the selection
}

// ClockInfo is a TPMS_CLOCK_INFO (Part 2, 10.11.1).
type ClockInfo struct {
	Clock        uint64 // milliseconds for which the TPM was powered since the last TPM2_Clear
	ResetCount   uint32 // TPM resets since the last TPM2_Clear
	RestartCount uint32 // restarts and resumes since the last reset
	Safe         bool
}

// PCRSelection is a TPMS_PCR_SELECTION (Part 2, 10.6.2).
type PCRSelection struct {
	Hash AlgID
	PCRs []int // ascending
}

// maxBanks is the largest number of PCR selections in a quote. The TPM's own bound is called
// HASH_COUNT in Part 2.
const maxBanks = 16

// ErrNotGenerated means that the structure does not begin with GeneratedValue, so no TPM made it.
var ErrNotGenerated = errors.New("tcg: the TPMS_ATTEST does not begin with TPM_GENERATED_VALUE, so no TPM made it")

// ErrNotCertify means that TPM2_Certify did not make the attestation, so the attestation does not
// certify a key.
var ErrNotCertify = errors.New("tcg: the type of the TPMS_ATTEST is not TPM_ST_ATTEST_CERTIFY")

// ErrNotQuote means that TPM2_Quote did not make the attestation, so the attestation does not
// attest PCRs.
var ErrNotQuote = errors.New("tcg: the type of the TPMS_ATTEST is not TPM_ST_ATTEST_QUOTE")

// ParseCertify parses a TPMS_ATTEST that TPM2_Certify made. It accepts nothing after the structure.
func ParseCertify(raw []byte) (*Attest, error) {
	return parseAttest(raw, AttestCertify, ErrNotCertify, func(a *Attest, c *cursor) {
		a.Name = c.sized(66)
		a.QualifiedName = c.sized(66)
	})
}

// ParseQuote parses a TPMS_ATTEST that TPM2_Quote made. It accepts nothing after the structure.
func ParseQuote(raw []byte) (*Attest, error) {
	return parseAttest(raw, AttestQuote, ErrNotQuote, func(a *Attest, c *cursor) {
		n := c.u32()
		if c.err == nil && n > maxBanks {
			c.err = errTooLong
		}
		for range n {
			if c.err != nil {
				return
			}
			s := PCRSelection{Hash: AlgID(c.u16())}
			for i, bits := range c.take(int(c.u8())) {
				for bit := range 8 {
					if bits>>bit&1 == 1 {
						s.PCRs = append(s.PCRs, 8*i+bit)
					}
				}
			}
			a.Selection = append(a.Selection, s)
		}
		a.PCRDigest = c.sized(64)
	})
}

func parseAttest(raw []byte, kind AttestType, other error, body func(*Attest, *cursor)) (*Attest, error) {
	if len(raw) > MaxAttest {
		return nil, fmt.Errorf("tcg: the TPMS_ATTEST has %d bytes; at most %d are allowed", len(raw), MaxAttest)
	}
	c := cursor{b: raw}
	a := &Attest{Raw: raw, Magic: c.u32(), Type: AttestType(c.u16())}
	if c.err == nil && a.Magic != GeneratedValue {
		return nil, ErrNotGenerated
	}
	if c.err == nil && a.Type != kind {
		return nil, other
	}
	a.QualifiedSigner = c.sized(66)
	a.ExtraData = c.sized(64)
	a.Clock = c.u64()
	a.ResetCount = c.u32()
	a.RestartCount = c.u32()
	safe := c.u8()
	if c.err == nil && safe > 1 {
		return nil, errors.New("tcg: TPMS_CLOCK_INFO.safe is neither YES nor NO")
	}
	a.Safe = safe == 1
	a.FirmwareVersion = c.u64()
	body(a, &c)
	if err := c.end(); err != nil {
		return nil, fmt.Errorf("tcg: TPMS_ATTEST: %w", err)
	}
	return a, nil
}
