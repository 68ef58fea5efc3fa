package trail

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
)

// canonical appends the canonical JSON that Pantacor's programs hash
// (https://gibson042.github.io/canonicaljson-spec/). Names are sorted by code point. Strings have
// the shortest form. Whole numbers are digits, and other numbers have the form d.dEn. `v` is a
// value that encoding/json decoded.
func canonical(b []byte, v any) []byte {
	switch v := v.(type) {
	case map[string]any:
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		slices.Sort(names) // the order of UTF-8 bytes equals the order of code points
		b = append(b, '{')
		for i, name := range names {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(canonicalString(b, name), ':')
			b = canonical(b, v[name])
		}
		return append(b, '}')
	case []any:
		b = append(b, '[')
		for i, x := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = canonical(b, x)
		}
		return append(b, ']')
	case string:
		return canonicalString(b, v)
	case float64:
		return canonicalNumber(b, v)
	case bool:
		return strconv.AppendBool(b, v)
	}
	return append(b, "null"...)
}

func canonicalString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, c := range []byte(s) {
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, `\b`...)
		case '\t':
			b = append(b, `\t`...)
		case '\n':
			b = append(b, `\n`...)
		case '\f':
			b = append(b, `\f`...)
		case '\r':
			b = append(b, `\r`...)
		default:
			if c < 0x20 {
				b = fmt.Appendf(b, `\u%04X`, c)
			} else {
				b = append(b, c)
			}
		}
	}
	return append(b, '"')
}

func canonicalNumber(b []byte, f float64) []byte {
	if f == 0 { // also -0
		return append(b, '0')
	}
	// text has the form [-]d[.ddd]e±dd, without zeros at the end of the fraction
	text := strconv.AppendFloat(nil, f, 'e', -1, 64)
	if text[0] == '-' {
		b, text = append(b, '-'), text[1:]
	}
	mantissa, exponent, _ := bytes.Cut(text, []byte("e"))
	exp, err := strconv.Atoi(string(exponent))
	if err != nil {
		panic(err) // strconv made it
	}
	digits := slices.DeleteFunc(mantissa, func(c byte) bool { return c == '.' })
	if whole := exp + 1; len(digits) <= whole {
		b = append(b, digits...)
		return append(b, bytes.Repeat([]byte("0"), whole-len(digits))...)
	}
	b = append(b, digits[0], '.')
	if len(digits) == 1 {
		digits = append(digits, '0')
	}
	b = append(b, digits[1:]...)
	b = append(b, 'E')
	return strconv.AppendInt(b, int64(exp), 10)
}
