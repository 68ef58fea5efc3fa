package trail

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The function `canonical` appends the canonical JSON that Pantacor's programs hash
// (https://gibson042.github.io/canonicaljson-spec/). Names are sorted by code point. Strings have
// the shortest form. Whole numbers are digits, and other numbers have the form d.dEn. `v` is a
// value that encoding/json decoded, also with UseNumber.
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
		return canonicalNumber(b, strconv.FormatFloat(v, 'e', -1, 64))
	case json.Number:
		return canonicalNumber(b, string(v))
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

// canonicalNumber appends a JSON number. It changes only the number's form and keeps all digits, so
// two different numbers have different canonical forms, even if they have the same float64 value.
func canonicalNumber(b []byte, text string) []byte {
	text, negative := strings.CutPrefix(strings.ToLower(text), "-")
	mantissa, exponent, _ := strings.Cut(text, "e")
	exp := 0
	if exponent != "" {
		var err error
		if exp, err = strconv.Atoi(strings.TrimPrefix(exponent, "+")); err != nil {
			return append(b, text...) // an exponent below the range of int: no program writes such a number
		}
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	exp += len(whole) - 1
	digits := strings.TrimLeft(whole+fraction, "0")
	exp -= len(whole) + len(fraction) - len(digits)
	if digits = strings.TrimRight(digits, "0"); digits == "" { // also -0
		return append(b, '0')
	}
	// The number is d.ddd times ten to the power of exp.
	if negative {
		b = append(b, '-')
	}
	if size := exp + 1; len(digits) <= size {
		b = append(b, digits...)
		return append(b, strings.Repeat("0", size-len(digits))...)
	}
	b = append(b, digits[0], '.')
	if len(digits) == 1 {
		digits += "0"
	}
	b = append(b, digits[1:]...)
	b = append(b, 'E')
	return strconv.AppendInt(b, int64(exp), 10)
}
