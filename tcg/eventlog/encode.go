package eventlog

import (
	"crypto"
	"encoding/binary"

	"gangway/tcg"
)

// Encode writes a log in the crypto-agile format (PC Client Platform Firmware Profile, 10.2), with
// digests of one bank only. It leaves out the events that do not extend this bank.
func Encode(events []Event, bank tcg.AlgID, hash crypto.Hash) []byte {
	le := binary.LittleEndian
	header := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2) // class: client; version 2.0; size of UINTN: 64 bits
	header = le.AppendUint32(header, 1)
	header = le.AppendUint16(header, uint16(bank))
	header = le.AppendUint16(header, uint16(hash.Size()))
	header = append(header, 0)
	out := le.AppendUint32(nil, 0)
	out = le.AppendUint32(out, NoAction)
	out = append(out, make([]byte, 20)...)
	out = le.AppendUint32(out, uint32(len(header)))
	out = append(out, header...)
	for _, e := range events {
		if len(e.Digest) != hash.Size() {
			continue
		}
		out = le.AppendUint32(out, e.PCR)
		out = le.AppendUint32(out, e.Type)
		out = le.AppendUint32(out, 1)
		out = le.AppendUint16(out, uint16(bank))
		out = append(out, e.Digest...)
		out = le.AppendUint32(out, uint32(len(e.Data)))
		out = append(out, e.Data...)
	}
	return out
}
