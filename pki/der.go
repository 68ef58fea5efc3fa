package pki

import (
	"encoding/asn1"
	"encoding/binary"
	"time"
)

// Tags (X.690, 8.1.2).
const (
	tagBoolean             = 0x01
	tagInteger             = 0x02
	tagBitString           = 0x03
	tagOctetString         = 0x04
	tagOID                 = 0x06
	tagPrintableString     = 0x13
	tagUTCTime             = 0x17
	tagGeneralizedTime     = 0x18
	tagSequence            = 0x30
	tagSet                 = 0x31
	tagContext0            = 0x80
	tagContext6            = 0x86
	tagContext0Constructed = 0xA0
	tagContext3Constructed = 0xA3
)

// der encodes a value: tag, length, and the parts one after the other. It is
// all the DER that a certificate needs; encoding/asn1 and cryptobyte do the
// same at several times the cost.
func der(tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b := make([]byte, 0, n+6)
	b = append(b, tag)
	switch {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 0x100:
		b = append(b, 0x81, byte(n))
	case n < 0x10000:
		b = binary.BigEndian.AppendUint16(append(b, 0x82), uint16(n))
	case n < 0x1000000:
		b = append(b, 0x83, byte(n>>16), byte(n>>8), byte(n))
	default:
		panic("pki: a value of 16 MiB or more") // all input is bounded far below
	}
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// oid encodes an object identifier (X.690, 8.19).
func oid(id asn1.ObjectIdentifier) []byte {
	content := make([]byte, 0, 16)
	content = append(content, byte(id[0]*40+id[1]))
	for _, v := range id[2:] {
		shift := 0
		for v>>(shift+7) > 0 {
			shift += 7
		}
		for ; shift > 0; shift -= 7 {
			content = append(content, byte(v>>shift)&0x7F|0x80)
		}
		content = append(content, byte(v)&0x7F)
	}
	return der(tagOID, content)
}

// timestamp encodes a Time as RFC 5280, 4.1.2.5 has it: UTCTime until 2049.
func timestamp(t time.Time) []byte {
	t = t.UTC()
	if t.Year() >= 1950 && t.Year() < 2050 {
		return der(tagUTCTime, t.AppendFormat(nil, "060102150405Z"))
	}
	return der(tagGeneralizedTime, t.AppendFormat(nil, "20060102150405Z"))
}
