package evidence

import (
	"encoding/json"
	"slices"
	"strings"
)

// JSON encodes the verdict exactly as json.Marshal does. Almost every verdict accepts the request
// and is plain ASCII. For such a verdict, JSON avoids reflection, because that is faster.
func (v *Verdict) JSON() ([]byte, error) {
	asked := slices.ContainsFunc(v.Checks, func(s Check) bool { return s.Ask || s.OK && s.Skipped })
	if v.Refusal != nil || asked || len(v.Questions) > 0 || v.Checks == nil {
		return json.Marshal(v)
	}
	size := 64
	for _, s := range v.Checks {
		size += len(s.Check) + len(s.Detail) + 48
	}
	b := append(make([]byte, 0, size), `{"steps":[`...)
	for i, s := range v.Checks {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendJSONString(append(b, `{"check":`...), s.Check)
		switch {
		case s.OK:
			b = append(b, `,"ok":true,"detail":`...)
		case s.Skipped:
			b = append(b, `,"ok":false,"skipped":true,"detail":`...)
		default:
			b = append(b, `,"ok":false,"detail":`...)
		}
		b = append(appendJSONString(b, s.Detail), '}')
	}
	b = append(b, ']')
	for i, n := range v.Notes {
		if i == 0 {
			b = append(b, `,"notes":[`...)
		} else {
			b = append(b, ',')
		}
		b = appendJSONString(b, n)
	}
	if len(v.Notes) > 0 {
		b = append(b, ']')
	}
	return append(b, '}'), nil
}

// plain[c] is true if `c` is a printable ASCII character that encoding/json does not escape.
var plain = func() (plain [256]bool) {
	for c := ' '; c <= '~'; c++ {
		plain[c] = !strings.ContainsRune(`"\<>&`, c)
	}
	return plain
}()

// appendJSONString appends the string `s` in the encoding of encoding/json. It calls encoding/json
// only if `s` has a character that is not printable ASCII, or a character that encoding/json
// escapes for HTML.
func appendJSONString(b []byte, s string) []byte {
	start, done := len(b), 0 // s[:done] is in `b`
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case plain[c]:
		case c == '"' || c == '\\':
			b = append(append(b, s[done:i]...), '\\')
			done = i
		default:
			whole, err := json.Marshal(s)
			if err != nil {
				panic(err) // encoding/json can encode every string
			}
			return append(b[:start], whole...)
		}
	}
	return append(append(b, s[done:]...), '"')
}
