package tcg

import (
	"errors"
	"fmt"
)

// Quote is a TPMS_ATTEST (Part 2, 10.12.12) made by TPM2_Quote. Raw is what was
// signed.
type Quote struct {
	Raw             []byte
	QualifiedSigner []byte // qualified name of the signing key
	ExtraData       []byte // the qualifying data of the command
	ClockInfo
	FirmwareVersion uint64
	Selection       []PCRSelection
	PCRDigest       []byte // over the selected values, in the order of the selection
}

// ClockInfo is a TPMS_CLOCK_INFO (Part 2, 10.11.1).
type ClockInfo struct {
	Clock        uint64 // milliseconds that the TPM was powered since it was last cleared
	ResetCount   uint32 // TPM resets since it was last cleared
	RestartCount uint32 // restarts and resumes since the last reset
	Safe         bool
}

// PCRSelection is a TPMS_PCR_SELECTION (Part 2, 10.5.2).
type PCRSelection struct {
	Hash AlgID
	PCRs []int // ascending
}

// ErrNotQuote means that a TPM attested something, but not PCRs.
var ErrNotQuote = errors.New("tcg: TPMS_ATTEST is of another type than TPM_ST_ATTEST_QUOTE")

// maxBanks bounds the selections of a quote.
const maxBanks = 4

// ParseQuote parses a TPMS_ATTEST that TPM2_Quote made, strictly.
func ParseQuote(raw []byte) (*Quote, error) {
	if len(raw) > MaxAttest {
		return nil, fmt.Errorf("tcg: TPMS_ATTEST of %d bytes, at most %d are allowed", len(raw), MaxAttest)
	}
	c := cursor{b: raw}
	magic, kind := c.u32(), AttestType(c.u16())
	if c.err == nil && magic != GeneratedValue {
		return nil, ErrNotGenerated
	}
	if c.err == nil && kind != AttestQuote {
		return nil, ErrNotQuote
	}
	q := &Quote{Raw: raw}
	q.QualifiedSigner = c.sized(66)
	q.ExtraData = c.sized(64)
	q.Clock = c.u64()
	q.ResetCount = c.u32()
	q.RestartCount = c.u32()
	safe := c.u8()
	if c.err == nil && safe > 1 {
		return nil, errors.New("tcg: TPMS_CLOCK_INFO.safe is neither YES nor NO")
	}
	q.Safe = safe == 1
	q.FirmwareVersion = c.u64()
	banks := c.u32()
	if c.err == nil && banks > maxBanks {
		return nil, fmt.Errorf("tcg: quote of %d PCR selections, at most %d are allowed", banks, maxBanks)
	}
	for range banks {
		s := PCRSelection{Hash: AlgID(c.u16())}
		size := int(c.u8())
		if c.err == nil && size > 4 {
			return nil, errors.New("tcg: PCR selection of more than 32 PCRs")
		}
		for i, bits := range c.take(size) {
			for bit := range 8 {
				if bits>>bit&1 == 1 {
					s.PCRs = append(s.PCRs, 8*i+bit)
				}
			}
		}
		q.Selection = append(q.Selection, s)
	}
	q.PCRDigest = c.sized(64)
	if err := c.end(); err != nil {
		return nil, fmt.Errorf("tcg: TPMS_ATTEST: %w", err)
	}
	return q, nil
}
