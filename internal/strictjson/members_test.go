package strictjson_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"gangway/internal/strictjson"
)

// encoded returns the JSON text of a value, as the hub stores it.
func encoded(t *testing.T, v any) string {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// checkMembers checks that Members agrees with Decode and CheckStorable, if Members accepts the
// text.
func checkMembers(t *testing.T, text string) (ok bool) {
	t.Helper()
	list, compact, ok := strictjson.Members([]byte(text))
	if !ok {
		return false
	}
	var m map[string]any
	if err := strictjson.Decode([]byte(text), &m); err != nil {
		t.Fatalf("Members accepts %q, but Decode does not: %v", text, err)
	}
	if err := strictjson.CheckStorable(m); err != nil {
		t.Fatalf("Members accepts %q, but CheckStorable does not: %v", text, err)
	}
	if want := encoded(t, m); compact != want {
		t.Fatalf("Members returns %q for %q; encoding/json returns %q", compact, text, want)
	}
	names := slices.Sorted(maps.Keys(m))
	if len(list) != len(names) {
		t.Fatalf("%d members of %q", len(list), text)
	}
	for i, name := range names {
		if want := encoded(t, m[name]); list[i] != (strictjson.Member{Name: name, Value: want}) {
			t.Fatalf("member %d of %q is %v, want %s: %s", i, text, list[i], name, want)
		}
	}
	return true
}

// Each text is plain, or is not; in this case, the caller must use Decode.
var membersCases = []struct {
	text string
	ok   bool
}{
	{`{}`, true},
	{" {\r\n\t} ", true},
	{`{"a":1}`, true},
	{`{ "b" : [ 1 , -0.50 , "x y" , null ] , "a" : { "z" : true , "y" : false } }`, true},
	{`{"b":{"z":{"b":1,"a":2},"y":[]},"a":{},"ü":"€ <&>"}`, true},
	{`{"":"","\u007f":"` + "\x7f" + `"}`, false},
	{`{"":"` + "\x7f" + `"}`, true},
	{`{"a":"\"\\\b\f\n\r\t\\"}`, true},
	{`{"a":` + strings.Repeat("9", 300) + `}`, true},
	{`{"a":` + strings.Repeat("9", 400) + `}`, false},
	{`{"a":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + `}`, true},
	{`{"a":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`, false},
	{`{"a":` + strings.Repeat(`{"a":`, 31) + `1` + strings.Repeat("}", 32), true},
	{`{"a":` + strings.Repeat(`{"a":`, 32) + `1` + strings.Repeat("}", 33), false},
	{`{"a":1e3}`, false}, {`{"a":1E999}`, false}, {`{"a":"\u000a"}`, false}, {`{"a":"\/"}`, false}, {`{"a":"\x"}`, false}, {`{"a":"\`, false}, {`{"a":"\"`, false}, {`{"\u0061":1}`, false}, {`{"\n":1}`, false}, {"{\"a\":\"\u2028\"}", false}, {"{\"a\":\"\u2029\"}", false},
	// Decode refuses these texts too.
	{``, false}, {`null`, false}, {`[]`, false}, {`1`, false}, {`"a"`, false}, {`{`, false}, {`}`, false}, {`{}{}`, false}, {`{} x`, false}, {"\ufeff{}", false},
	{`{"a"}`, false}, {`{"a":}`, false}, {`{"a":1,}`, false}, {`{,"a":1}`, false}, {`{"a":1 "b":2}`, false}, {`{"a" 1}`, false}, {`{a:1}`, false}, {`{"a":1]`, false},
	{`{"a":[1,]}`, false}, {`{"a":[,1]}`, false}, {`{"a":[1 2]}`, false}, {`{"a":[1}`, false}, {`{"a":[`, false},
	{`{"a":1,"a":2}`, false}, {`{"b":1,"a":1,"b":2}`, false}, {`{"a":{"x":1,"x":1}}`, false}, {`{"a":[{"b":1,"a":1,"a":1}]}`, false},
	{`{"a":01}`, false}, {`{"a":-}`, false}, {`{"a":1.}`, false}, {`{"a":.5}`, false}, {`{"a":+1}`, false}, {`{"a":-01}`, false}, {`{"a":1x}`, false}, {`{"a":0x1}`, false},
	{`{"a":tru}`, false}, {`{"a":truer}`, false}, {`{"a":nul}`, false}, {`{"a":True}`, false}, {`{"a":NaN}`, false},
	{"{\"a\":\"\x01\"}", false}, {"{\"a\":\"\n\"}", false}, {"{\"a\":\"\xff\"}", false}, {"{\"\xff\":1}", false}, {`{"a":"`, false}, {`{"a":"x`, false}, {`{"a":'x'}`, false}, {"{\"a\":1,\v\"b\":2}", false}, {"{\u00a0}", false},
}

func TestMembers(t *testing.T) {
	t.Parallel()
	for _, c := range membersCases {
		if ok := checkMembers(t, c.text); ok != c.ok {
			t.Errorf("Members(%q): %v", c.text, ok)
		}
	}
}

// FuzzMembers checks that Members accepts no text that Decode refuses, and makes the same text of
// the others.
func FuzzMembers(f *testing.F) {
	for _, c := range membersCases {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, text string) { checkMembers(t, text) })
}
