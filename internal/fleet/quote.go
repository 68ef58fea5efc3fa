package fleet

import (
	"encoding/binary"

	"gangway/tcg"
)

// Quote returns the TPMS_ATTEST that TPM2_Quote would make with the device's IAK over PCR 0 to
// len(pcrs)-1 of a bank, and its signature. `resets` is the TPM's reset counter. The TPM's clock
// shows two seconds.
func (d *Device) Quote(nonce []byte, bank tcg.AlgID, pcrs [][]byte, resets uint32) (attest, signature []byte, err error) {
	return d.QuoteAt(nonce, bank, pcrs, tcg.ClockInfo{Clock: 2000, ResetCount: resets, Safe: true})
}

// QuoteAt does the same as Quote, but with the clock values `clock`.
func (d *Device) QuoteAt(nonce []byte, bank tcg.AlgID, pcrs [][]byte, clock tcg.ClockInfo) (attest, signature []byte, err error) {
	signer, err := tcg.EndorsementQualifiedName(d.IAK.Name())
	if err != nil {
		return nil, nil, err
	}
	h, err := d.IAK.Public.SchemeHash.Hash()
	if err != nil {
		return nil, nil, err
	}
	values := h.New()
	for _, v := range pcrs {
		values.Write(v)
	}
	var out []byte
	sized := func(b []byte) {
		out = binary.BigEndian.AppendUint16(out, uint16(len(b)))
		out = append(out, b...)
	}
	out = binary.BigEndian.AppendUint32(out, tcg.GeneratedValue)
	out = binary.BigEndian.AppendUint16(out, uint16(tcg.AttestQuote))
	sized(signer)
	sized(nonce)
	out = appendClock(out, clock)
	out = binary.BigEndian.AppendUint64(out, 0x000100000000) // firmwareVersion
	out = binary.BigEndian.AppendUint32(out, 1)
	out = binary.BigEndian.AppendUint16(out, uint16(bank))
	select3 := [3]byte{}
	for i := range pcrs {
		select3[i/8] |= 1 << (i % 8)
	}
	out = append(out, 3)
	out = append(out, select3[:]...)
	sized(values.Sum(nil))
	signature, err = d.IAK.Sign(out)
	return out, signature, err
}
