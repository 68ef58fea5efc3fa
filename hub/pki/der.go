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

// der encodes one DER value: tag, length, and the concatenated `parts`. encoding/asn1 and
// cryptobyte produce the same bytes, but need several times as long.
func der(tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b := make([]byte, 0, n+6)
	b = appendLength(append(b, tag), n)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// appendLength appends a length in its shortest form (X.690, 8.1.3).
func appendLength(b []byte, n int) []byte {
	switch {
	case n < 0x80:
		return append(b, byte(n))
	case n < 0x100:
		return append(b, 0x81, byte(n))
	case n < 0x10000:
		return binary.BigEndian.AppendUint16(append(b, 0x82), uint16(n))
	case n < 0x1000000:
		return append(b, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	panic("pki: a DER value has 16 MiB or more") // all input is much smaller
}

// buffer is DER that is written into one slice from front to back. Because the length of a value is
// known only when the value is complete, the method `close` inserts the length.
type buffer []byte

// open starts a value. It returns the mark that the caller passes to the method `close`.
func (b *buffer) open(tag byte) (mark int) {
	*b = append(*b, tag, 0)
	return len(*b)
}

// close ends the value for which `open` returned `mark`, and inserts its length.
func (b *buffer) close(mark int) {
	n := len(*b) - mark
	if n < 0x80 {
		(*b)[mark-1] = byte(n)
		return
	}
	var length [4]byte
	long := appendLength(length[:0], n)
	more := len(long) - 1
	*b = append(*b, length[:more]...) // makes the slice longer; the new bytes are overwritten below
	copy((*b)[mark+more:], (*b)[mark:mark+n])
	copy((*b)[mark-1:], long)
}

func (b *buffer) add(parts ...[]byte) {
	for _, p := range parts {
		*b = append(*b, p...)
	}
}

// text writes a DER value, for example a string, whose content is the concatenation of `parts`.
func (b *buffer) text(tag byte, parts ...string) {
	mark := b.open(tag)
	for _, p := range parts {
		*b = append(*b, p...)
	}
	b.close(mark)
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

// timestamp writes a Time (RFC 5280, 4.1.2.5): a UTCTime for the years 1950 to 2049, and a
// GeneralizedTime for other years.
func (b *buffer) timestamp(t time.Time) {
	t = t.UTC()
	tag, layout := byte(tagGeneralizedTime), "20060102150405Z"
	if t.Year() >= 1950 && t.Year() < 2050 {
		tag, layout = tagUTCTime, "060102150405Z"
	}
	mark := b.open(tag)
	*b = t.AppendFormat(*b, layout)
	b.close(mark)
}

func timestamp(t time.Time) []byte {
	var b buffer
	b.timestamp(t)
	return b
}
