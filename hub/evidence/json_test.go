package evidence

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
)

func TestVerdictIsTheJSONOfTheStandardLibrary(t *testing.T) {
	t.Parallel()
	text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]{0,40}`), rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 12), func(b []byte) string { return string(b) }))
	rapid.Check(t, func(r *rapid.T) {
		v := new(Verdict)
		for range rapid.IntRange(0, 4).Draw(r, "steps") {
			v.Checks = append(v.Checks, Check{Check: text.Draw(r, "check"), OK: rapid.Bool().Draw(r, "ok"), Ask: rapid.IntRange(0, 9).Draw(r, "ask") == 0, Skipped: rapid.IntRange(0, 4).Draw(r, "skipped") == 0, Detail: text.Draw(r, "detail")})
		}
		v.Notes = rapid.SliceOfN(text, 0, 3).Draw(r, "notes")
		if rapid.Bool().Draw(r, "refused") {
			v.Refusal = &Refusal{Code: text.Draw(r, "code"), Reason: text.Draw(r, "reason"), Hint: text.Draw(r, "hint")}
		}
		if rapid.IntRange(0, 4).Draw(r, "questions") == 0 {
			v.Questions = []*Refusal{{Code: text.Draw(r, "code"), Reason: text.Draw(r, "reason"), Hint: text.Draw(r, "hint"), Ask: true}}
		}
		want, err := json.Marshal(v)
		if err != nil {
			r.Fatal(err)
		}
		if got, err := v.JSON(); err != nil || string(got) != string(want) {
			r.Fatalf("%s, %v\nwant %s", got, err, want)
		}
	})
}
