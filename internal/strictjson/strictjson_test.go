package strictjson

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

// An attacker cannot send text that the hub and the device understand differently: Object refuses
// it.
func TestObjectRefusesWhatReadersDifferIn(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, `[]`, `null`, `1`, `{} {}`, `{}x`, `{"a":1,"a":2}`, `{"a":{"b":1,"b":1}}`, `{"a":[{"b":1,"\u0062":1}]}`, "{\"\xff\":1}", `{"a":1e999}`, `{"a":01}`, `{"a":}`, `{`,
		`{"a":` + strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1) + `}`,
	} {
		if compact, _, err := Object([]byte(text)); err == nil {
			t.Errorf("%.60s was accepted as %.60s", text, compact)
		}
	}
	compact, object, err := Object([]byte(" { \"b\" : [ 1 , {\"a\":\"x y\"} ] , \"a\":null }\n"))
	if err != nil || string(compact) != `{"b":[1,{"a":"x y"}],"a":null}` || len(object) != 2 {
		t.Errorf("%s %v %v", compact, object, err)
	}
}

type inner struct {
	Value string `json:"value"`
}

type shared struct {
	Keys string `json:"keys"`
}

type message struct {
	shared
	Name    string           `json:"name"`
	Inner   *inner           `json:"inner"`
	List    []inner          `json:"list"`
	Map     map[string]inner `json:"map"`
	Free    map[string]any   `json:"free"`
	Raw     json.RawMessage  `json:"raw"`
	When    time.Time        `json:"when"`
	Skipped string           `json:"-"`
	Plain   string
}

// Decode refuses a name that encoding/json accepts for a field but another parser does not. It
// ignores an unknown name.
func TestDecodeTakesNamesAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, `null`, ` null `, `{} {}`, `{}]`, "{\"\xff\":1}", `{"name":"a","name":"a"}`, `{"name":"a","\u006eame":"b"}`,
		`{"Name":"a"}`, `{"name":"a","NAME":"b"}`, `{"KEYS":"a"}`, `{"plain":"a"}`, `{"inner":{"Value":"a"}}`, `{"list":[{"value":"a"},{"VALUE":"b"}]}`,
		`{"map":{"a":{"Value":"b"}}}`, `{"map":{"a":{},"a":{}}}`, `{"free":{"a":1,"a":2}}`, `{"raw":{"a":1,"a":2}}`, `{"unknown":{"a":1,"a":2}}`, `{"name":1}`,
		`{"\u212aeys":"a"}`, // begins with the Kelvin sign, which encoding/json treats as the letter k
		`{"unknown":` + strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1) + `}`,
	} {
		if err := Decode([]byte(text), new(message)); err == nil {
			t.Errorf("%.60s was accepted", text)
		}
	}
	var m message
	text := `{"keys":"k","name":"n","inner":{"value":"v","Other":1},"list":[{"value":"w"}],"map":{"a":{"value":"x"},"A":{}},"free":{"a":1,"A":2},"raw":{"Value":1},"when":"2026-01-02T03:04:05Z","Plain":"p","unknown":{"Name":1},"-":"s"}` + "\n"
	if err := Decode([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	if m.Keys != "k" || m.Name != "n" || m.Inner.Value != "v" || m.List[0].Value != "w" || m.Map["a"].Value != "x" || len(m.Free) != 2 || string(m.Raw) != `{"Value":1}` || m.When.Year() != 2026 || m.Plain != "p" || m.Skipped != "" {
		t.Errorf("%+v", m)
	}
	if err := DecodeKnown([]byte(text), new(message)); err == nil {
		t.Error("unknown names were accepted")
	}
	if err := DecodeKnown([]byte(`{"name":"n"}`), new(message)); err != nil {
		t.Error(err)
	}
	var list []message
	if err := Decode([]byte(`[{"name":"n"},{"Name":"n"}]`), &list); err == nil {
		t.Error("a name in another case, in a list, was accepted")
	}
	var text1 string
	if err := Decode([]byte(`"x"`), &text1); err != nil || text1 != "x" {
		t.Errorf("%q %v", text1, err)
	}
}

// nested returns an object with nested arrays. `levels` is the depth of the whole object.
func nested(levels int) string {
	return `{"a":` + strings.Repeat("[", levels-1) + strings.Repeat("]", levels-1) + `}`
}

// A storable value still fits into the bounds of Object after the hub has put it into a list and
// other objects.
func TestKeptLeavesRoomForWhatWrapsIt(t *testing.T) {
	t.Parallel()
	compact, _, err := Storable([]byte(nested(MaxStorableDepth)))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Object([]byte(`{"list":[{"kept":` + string(compact) + `}]}`)); err != nil {
		t.Error(err)
	}
	for _, text := range []string{nested(MaxStorableDepth + 1), `{"a":1e400}`} {
		if _, _, err := Storable([]byte(text)); err == nil {
			t.Errorf("%.60s was accepted", text)
		}
	}
}

// If Decode decodes a number into a value of type `any`, the number keeps its text, such as 0.10.
// CheckStorable refuses a number that does not fit into a float64.
func TestNumbersInAnAnyStayAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	text := `{"a":[9007199254740993,0.10,-0,1E5,1e-400]}`
	var v map[string]any
	if err := Decode([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	if err := CheckStorable(v); err != nil {
		t.Error(err)
	}
	if b, err := json.Marshal(v); err != nil || string(b) != text {
		t.Errorf("%s %v", b, err)
	}
	if err := Decode([]byte(`{"a":[1,{"b":1e400}]}`), &v); err != nil || CheckStorable(v) == nil {
		t.Errorf("a number that is too large was accepted (%v)", err)
	}
}

// If Decode accepts a text, the result equals the result of encoding/json.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"name":"n","inner":{"value":"v"},"list":[{}],"x":null}`))
	f.Add([]byte(`{"Name":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var got, want message
		if Decode(text, &got) == nil && (decoder(text).Decode(&want) != nil || !reflect.DeepEqual(got, want)) {
			t.Errorf("%q: %+v, and encoding/json reads %+v", text, got, want)
		}
	})
}
