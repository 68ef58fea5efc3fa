package tcg

import (
	"errors"
	"fmt"
)

// GeneratedValue is TPM_GENERATED_VALUE: the magic that a TPM puts in front of
// everything that it attests, and that a restricted key refuses to sign for
// anybody else (Part 2, 6.2).
const GeneratedValue = 0xFF544347

// AttestType is a TPMI_ST_ATTEST (Part 2, 10.12.2).
type AttestType uint16

// The kinds of attestation used here.
const (
	AttestCertify AttestType = 0x8017
	AttestQuote   AttestType = 0x8018
)

// MaxAttest is the largest TPMS_ATTEST accepted, in bytes.
const MaxAttest = 1024

// Attest is a TPMS_ATTEST (Part 2, 10.12.12) made by TPM2_Certify or TPM2_Quote.
// Raw is what was signed.
type Attest struct {
	Raw             []byte
	Magic           uint32
	Type            AttestType
	QualifiedSigner []byte // qualified name of the signing key
	ExtraData       []byte // the qualifying data of the command
	Clock           uint64 // milliseconds, TPMS_CLOCK_INFO
	ResetCount      uint32
	RestartCount    uint32
	Safe            bool
	FirmwareVersion uint64
	// TPMS_CERTIFY_INFO
	Name          []byte // of the certified key
	QualifiedName []byte
	// TPMS_QUOTE_INFO
	PCRs      []PCRSelection
	PCRDigest []byte
}

// PCRSelection is a TPMS_PCR_SELECTION (Part 2, 10.6.2).
type PCRSelection struct {
	Hash   AlgID
	Bitmap []byte // PCR 0 is the lowest bit of the first byte
}

// ErrNotGenerated means that the magic is wrong, so no TPM made this structure.
var ErrNotGenerated = errors.New("tcg: TPMS_ATTEST without TPM_GENERATED_VALUE: no TPM made it")

// ErrNotCertify means that a TPM attested something, but not a key.
var ErrNotCertify = errors.New("tcg: TPMS_ATTEST is of another type than TPM_ST_ATTEST_CERTIFY")

// ErrNotQuote means that a TPM attested something, but no PCRs.
var ErrNotQuote = errors.New("tcg: TPMS_ATTEST is of another type than TPM_ST_ATTEST_QUOTE")

// ParseCertify parses a TPMS_ATTEST that TPM2_Certify made, strictly.
func ParseCertify(raw []byte) (*Attest, error) {
	return parseAttest(raw, AttestCertify, ErrNotCertify, func(a *Attest, c *cursor) {
		a.Name = c.sized(66)
		a.QualifiedName = c.sized(66)
	})
}

// ParseQuote parses a TPMS_ATTEST that TPM2_Quote made, strictly.
func ParseQuote(raw []byte) (*Attest, error) {
	return parseAttest(raw, AttestQuote, ErrNotQuote, func(a *Attest, c *cursor) {
		n := c.u32()
		if n > 16 { // HASH_COUNT
			c.err = errTooLong
		}
		for range n {
			hash := AlgID(c.u16())
			a.PCRs = append(a.PCRs, PCRSelection{hash, c.take(int(c.u8()))})
			if c.err != nil {
				return
			}
		}
		a.PCRDigest = c.sized(64)
	})
}

func parseAttest(raw []byte, kind AttestType, other error, body func(*Attest, *cursor)) (*Attest, error) {
	if len(raw) > MaxAttest {
		return nil, fmt.Errorf("tcg: TPMS_ATTEST of %d bytes, at most %d are allowed", len(raw), MaxAttest)
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
