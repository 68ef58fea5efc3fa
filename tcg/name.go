package tcg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// String types of X.680 for which cryptobyte has no constants.
const (
	tagUniversalString = casn1.Tag(28)
	tagBMPString       = casn1.Tag(30)
)

// attribute is one AttributeTypeAndValue of a name (RFC 5280, 4.1.2.4).
type attribute struct {
	id    []byte // content of the OID in DER
	tag   casn1.Tag
	value []byte
}

// text returns the value as UTF-8. The value may have any string type. Invalid parts become U+FFFD.
func (a *attribute) text() string {
	switch a.tag {
	case tagBMPString:
		units := make([]uint16, len(a.value)/2)
		for i := range units {
			units[i] = binary.BigEndian.Uint16(a.value[2*i:])
		}
		return string(utf16.Decode(units))
	case tagUniversalString:
		runes := make([]rune, len(a.value)/4)
		for i := range runes {
			runes[i] = rune(binary.BigEndian.Uint32(a.value[4*i:]))
		}
		return string(runes)
	case casn1.T61String:
		if !utf8.Valid(a.value) { // in practice Latin-1
			runes := make([]rune, len(a.value))
			for i, b := range a.value {
				runes[i] = rune(b)
			}
			return string(runes)
		}
	}
	return strings.ToValidUTF8(string(a.value), "\uFFFD")
}

// eachAttribute calls the function `f` for each attribute of a DER Name, in order. It calls the
// function `unsorted` for each RDN whose attributes are not in DER order.
func eachAttribute(der []byte, f func(*attribute), unsorted func()) error {
	s := cryptobyte.String(der)
	var rdns cryptobyte.String
	if !s.ReadASN1(&rdns, casn1.SEQUENCE) || !s.Empty() {
		return errors.New("unreadable directory name")
	}
	for !rdns.Empty() {
		var set cryptobyte.String
		if !rdns.ReadASN1(&set, casn1.SET) {
			return errors.New("unreadable directory name")
		}
		var last cryptobyte.String
		for !set.Empty() {
			var element, value cryptobyte.String
			var a attribute
			if !set.ReadASN1Element(&element, casn1.SEQUENCE) {
				return errors.New("unreadable attribute")
			}
			if bytes.Compare(last, element) > 0 {
				unsorted()
			}
			last = element
			var content cryptobyte.String
			var id cryptobyte.String
			if !element.ReadASN1(&content, casn1.SEQUENCE) || !content.ReadASN1(&id, casn1.OBJECT_IDENTIFIER) || !isOID(id) ||
				!content.ReadAnyASN1(&value, &a.tag) || !content.Empty() {
				return errors.New("unreadable attribute")
			}
			a.id, a.value = id, value
			f(&a)
		}
	}
	return nil
}

// isOID reports whether `b` is the content of an OID in DER (X.690, 8.19). It accepts the same OIDs
// as ReadASN1ObjectIdentifier of cryptobyte, whose numbers have at most 31 bits, but it allocates
// nothing.
func isOID(b []byte) bool {
	n, first := 0, true // the bits of the current number that were read; the next byte begins a number
	for _, v := range b {
		if first && v == 0x80 || n >= 1<<(31-7) {
			return false
		}
		n = n<<7 | int(v&0x7F)
		if first = v&0x80 == 0; first {
			n = 0
		}
	}
	return len(b) > 0 && first
}

// CanonicalName returns the DER Name with every text value encoded as UTF8String. Names that differ
// only in their string types become equal, as RFC 5280, 7.1 requires; crypto/x509 compares only the
// bytes. CanonicalName does not change case, spaces, or values that are not text. If the name is
// already canonical or unreadable, CanonicalName returns it unchanged, without a copy.
func CanonicalName(der []byte) []byte {
	other := false
	if eachAttribute(der, func(a *attribute) { other = other || isText(a.tag) && a.tag != casn1.UTF8String }, func() {}) != nil || !other {
		return der
	}
	s := cryptobyte.String(der)
	var rdns cryptobyte.String
	s.ReadASN1(&rdns, casn1.SEQUENCE)
	var b cryptobyte.Builder
	b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for !rdns.Empty() {
			var set cryptobyte.String
			rdns.ReadASN1(&set, casn1.SET)
			b.AddASN1(casn1.SET, func(b *cryptobyte.Builder) { addCanonical(b, set) })
		}
	})
	out, err := b.Bytes()
	if err != nil {
		return der
	}
	return out
}

func addCanonical(b *cryptobyte.Builder, set cryptobyte.String) {
	for !set.Empty() {
		var content, id, value cryptobyte.String
		var a attribute
		set.ReadASN1(&content, casn1.SEQUENCE)
		content.ReadASN1(&id, casn1.OBJECT_IDENTIFIER)
		content.ReadAnyASN1(&value, &a.tag)
		a.value = value
		b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(casn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(id) })
			if isText(a.tag) {
				a.value, a.tag = []byte(a.text()), casn1.UTF8String
			}
			b.AddASN1(a.tag, func(b *cryptobyte.Builder) { b.AddBytes(a.value) })
		})
	}
}

func isText(tag casn1.Tag) bool {
	switch tag {
	case casn1.UTF8String, casn1.PrintableString, casn1.IA5String, casn1.T61String, tagBMPString, tagUniversalString:
		return true
	}
	return false
}

// WithinName reports whether the DER Name `name` is in the subtree of `base` (RFC 5280, 4.2.1.10),
// that is, whether `name` begins with the relative names of `base`. The comparison ignores string
// types, case, and repeated spaces (RFC 5280, 7.1). An unreadable name is not in any subtree.
func WithinName(name, base []byte) bool {
	n, err := relativeNames(name)
	if err != nil {
		return false
	}
	b, err := relativeNames(base)
	return err == nil && len(b) <= len(n) && slices.Equal(b, n[:len(b)])
}

// relativeNames returns one string for each relative name of a Name, for comparison. Equal relative
// names give equal strings.
func relativeNames(der []byte) (out []string, err error) {
	s := cryptobyte.String(der)
	var rdns cryptobyte.String
	if !s.ReadASN1(&rdns, casn1.SEQUENCE) || !s.Empty() {
		return nil, errors.New("unreadable directory name")
	}
	for !rdns.Empty() {
		var set cryptobyte.String
		if !rdns.ReadASN1Element(&set, casn1.SET) {
			return nil, errors.New("unreadable directory name")
		}
		var b cryptobyte.Builder
		b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(set) })
		one, err := b.Bytes()
		if err != nil {
			return nil, err
		}
		var attributes []string
		if err := eachAttribute(one, func(a *attribute) {
			var value string
			if isText(a.tag) {
				value = strings.ToLower(strings.Join(strings.Fields(a.text()), " "))
			} else {
				value = fmt.Sprintf("#%02x%x", uint8(a.tag), a.value)
			}
			attributes = append(attributes, fmt.Sprintf("%x=%q", a.id, value))
		}, func() {}); err != nil {
			return nil, err
		}
		slices.Sort(attributes)
		out = append(out, strings.Join(attributes, "+"))
	}
	return out, nil
}
