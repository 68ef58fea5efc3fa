package trail

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"unicode/utf8"
)

// maxDepth bounds how deep objects and arrays may be in each other.
const maxDepth = 64

// strict reads one JSON object that means the same to every reader: UTF-8, no
// name twice in an object at any depth, nothing after it, no number that a
// float64 cannot hold. It returns the object without its spaces.
func strict(text []byte) ([]byte, map[string]any, error) {
	if !utf8.Valid(text) {
		return nil, nil, errors.New("it is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := namesDiffer(dec, 0); err != nil {
		return nil, nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("data follows the JSON value")
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, nil, err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, nil, errors.New("it is no JSON object")
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		return nil, nil, err
	}
	return compact.Bytes(), object, nil
}

// namesDiffer reads one value.
func namesDiffer(dec *json.Decoder, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("it is more than %d levels deep", maxDepth)
	}
	t, err := dec.Token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('{'):
		names := map[string]bool{}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return err
			}
			if names[name.(string)] {
				return fmt.Errorf("it has the name %q twice in one object", name)
			}
			names[name.(string)] = true
			if err := namesDiffer(dec, depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	case json.Delim('['):
		for dec.More() {
			if err := namesDiffer(dec, depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	}
	return err
}

// canonical appends the canonical JSON that Pantacor's programs hash
// (https://gibson042.github.io/canonicaljson-spec/): names sorted by code
// point, the fewest bytes for strings, whole numbers as digits and others as
// d.dEn. v is what encoding/json makes of a document.
func canonical(b []byte, v any) []byte {
	switch v := v.(type) {
	case map[string]any:
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		slices.Sort(names) // bytes of UTF-8 sort as code points do
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
	// [-]d[.ddd]e±dd, without zeros at the end
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
