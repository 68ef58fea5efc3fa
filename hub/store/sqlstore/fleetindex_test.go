package sqlstore

import (
	"encoding/json"
	"maps"
	"testing"

	"pgregory.net/rapid"
)

func TestEqualButNumbers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{`{"up":1,"on":true}`, `{"up":-2.5e+10,"on":true}`, true},
		{`{"a":[1,22]}`, `{"a":[333,4]}`, true},
		{`{"a":[1]}`, `{"a":[1,2]}`, false},
		{`{"a":1}`, `{"a":null}`, false},
		{`{"a":1}`, `{"a":"1"}`, false},
		{`{"a":"1"}`, `{"a":"2"}`, false},
		{`{"1":0}`, `{"2":0}`, false},
		{`{"a":"\"1"}`, `{"a":"\"2"}`, false},
		{`{"a":"\\","b":1}`, `{"a":"\\","b":2}`, true},
		{`{"a":1}`, `{"a":1,"b":2}`, false},
		{`{"a":1,"b":2}`, `{"b":2,"a":1}`, false},
	} {
		if got := equalButNumbers(c.a, c.b); got != c.want {
			t.Errorf("equalButNumbers(%s, %s) = %t", c.a, c.b, got)
		}
	}
}

// Metadata that differs only in its numbers has the same terms.
func TestNumbersDoNotChangeTheIndex(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		leaf := rapid.OneOf(rapid.Just(any(nil)), rapid.Map(rapid.Bool(), func(b bool) any { return b }),
			rapid.Map(rapid.Float64Range(-1e6, 1e6), func(f float64) any { return f }), rapid.Map(rapid.StringMatching(`[01"\\-]{0,3}`), func(s string) any { return s }))
		value := rapid.OneOf(leaf, rapid.Map(rapid.SliceOfN(leaf, 0, 2), func(l []any) any { return l }),
			rapid.Map(rapid.MapOfN(rapid.StringMatching(`[1a"]{1,2}`), leaf, 0, 2), func(m map[string]any) any { return m }))
		object := rapid.MapOfN(rapid.StringMatching(`[1a"]{1,2}`), value, 0, 3)
		encode := func(m map[string]any) string {
			b, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		before := object.Draw(t, "before")
		after := maps.Clone(before)
		for name := range after {
			if rapid.Bool().Draw(t, "change") {
				after[name] = value.Draw(t, "value")
			}
		}
		a := indexed{words{owner: "o", nick: "n"}, "{}", encode(before)}
		b := indexed{words{owner: "o", nick: "n"}, "{}", encode(after)}
		if a.hasTermsOf(b) && !maps.Equal(a.terms(), b.terms()) {
			t.Fatalf("%s and %s have different terms", a.deviceMeta, b.deviceMeta)
		}
	})
}
