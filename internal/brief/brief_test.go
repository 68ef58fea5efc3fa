package brief

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
)

func TestLongValuesAreCut(t *testing.T) {
	t.Parallel()
	kilobytes := bytes.Repeat([]byte{0x30, 0x82, 0xFF}, 1500)
	encoded := base64.StdEncoding.EncodeToString(kilobytes)
	type view struct {
		Request     []byte
		Certificate string
		Status      string
	}
	for name, c := range map[string]struct {
		value any
		shows string
	}{
		"a body in JSON":         {[]byte(`{"request":"` + encoded + `","error":"ek-untrusted"}`), `"error":"ek-untrusted"`},
		"a structure":            {view{kilobytes, encoded, "waiting"}, "Status:waiting"},
		"a pointer to it":        {&view{kilobytes, encoded, "waiting"}, "Status:waiting"},
		"DER":                    {kilobytes, "3082ff"},
		"a page":                 {strings.Repeat("<p>words of a page</p> ", 200), "<p>words"},
		"text in another script": {strings.Repeat("это длинный текст ", 200), "это"},
	} {
		got := Of(c.value)
		if len(got) > Most+40 || !strings.Contains(got, c.shows) || !strings.Contains(got, "…") || strings.Contains(got, "\uFFFD") {
			t.Errorf("%s: %d bytes: %s", name, len(got), got)
		}
	}
}

// The function Of does not shorten a short value.
func TestShortValuesAreWhole(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value any
		want  string
	}{
		{"ready", "ready"}, {[]byte(`{"error":"limit"}` + "\n"), `{"error":"limit"}`}, {[]byte{1, 0xFF}, "01ff"}, {nil, "nothing"}, {"a\x00b\n\tc", `a\x00b` + "\n\tc"},
		{struct{ A, B int }{1, 2}, "{A:1 B:2}"}, {[]string{"a", "b"}, "[a b]"}, {[]byte{}, ""},
	} {
		if got := Of(c.value); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
