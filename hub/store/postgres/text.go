package postgres

import (
	"strings"
	"unicode/utf8"
)

// PostgreSQL accepts neither the byte 0 nor invalid UTF-8 in a text, but both can come from a TPM
// or from a device's report. Therefore each such byte is stored as `escape` and two hexadecimal
// digits, and so are the bytes of the character `escape` itself. The schema's function text_size
// computes the length of a text without this encoding.
const escape = '\U0010FFFD'

const hexDigits = "0123456789abcdef"

// storable converts a text to the form in which the database stores it.
func storable(text string) string {
	if utf8.ValidString(text) && !strings.ContainsRune(text, 0) && !strings.ContainsRune(text, escape) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if r != 0 && r != escape && (r != utf8.RuneError || size > 1) {
			b.WriteString(text[i : i+size])
		} else {
			for _, c := range []byte(text[i : i+size]) {
				b.WriteRune(escape)
				b.WriteByte(hexDigits[c>>4])
				b.WriteByte(hexDigits[c&15])
			}
		}
		i += size
	}
	return b.String()
}

// original reverses storable.
func original(stored string) string {
	before, rest, found := strings.Cut(stored, string(escape))
	if !found {
		return stored
	}
	var b strings.Builder
	b.WriteString(before)
	for found {
		if len(rest) < 2 {
			return stored // not written by storable
		}
		high, low := strings.IndexByte(hexDigits, rest[0]), strings.IndexByte(hexDigits, rest[1])
		if high < 0 || low < 0 {
			return stored
		}
		b.WriteByte(byte(high<<4 | low))
		before, rest, found = strings.Cut(rest[2:], string(escape))
		b.WriteString(before)
	}
	return b.String()
}
