package sqlstore

import (
	"fmt"
	"strings"
	"testing"

	"gangway/hub/store"
	"gangway/internal/strictjson"
)

func TestNumbersInAMetaStayAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	before := `{"big":9007199254740993,"gone":1,"price":0.10}`
	after, err := merge(t, before, `{"gone":null,"new":"<&>","small":-1E-7}`)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"big":9007199254740993,"new":"<&>","price":0.10,"small":-1E-7}`; after != want {
		t.Errorf("got %s, want %s", after, want)
	}
	meta, unreadable := decodeMeta(after, "/user-meta")
	if again, err := store.EncodeMeta(meta); err != nil || again != after || unreadable != nil {
		t.Errorf("read and written, %s is %s (%v, %v)", after, again, unreadable, err)
	}
}

// An older hub may have stored metadata with members that this version cannot return. It must still
// return the other members, and the owner must be able to remove those that cannot be returned.
func TestStoredMetaThatCannotBeShownIsNamed(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 9998) + strings.Repeat("]", 9998)
	for _, c := range []struct{ text, want, unreadable, patch, after string }{
		{`{"a/b~":` + deep + `,"good":7}`, `{"good":7}`, `[/m/a~1b~0]`, `{"a/b~":null}`, `{"good":7}`},
		{`{"a":1e400,"good":0.10}`, `{"good":0.10}`, `[/m/a]`, `{"a":1}`, `{"a":1,"good":0.10}`},
		{`{"a":[` + deep + `,` + deep + `]}`, `{}`, `[/m/a]`, `{"b":1,"a":null}`, `{"b":1}`},
		{`{"a":[[` + deep + `]]}`, `{}`, `[/m]`, `{"b":1}`, `{"b":1}`}, // nested deeper than encoding/json can read
		{`[1]`, `{}`, `[/m]`, `{"b":1}`, `{"b":1}`},
		{`null`, `{}`, `[/m]`, `{"b":1}`, `{"b":1}`},
		{`{"a":`, `{}`, `[/m]`, `{"b":1}`, `{"b":1}`},
		{``, `{}`, `[/m]`, `{"b":1}`, `{"b":1}`},
	} {
		m, unreadable := decodeMeta(c.text, "/m")
		if got, err := store.EncodeMeta(m); err != nil || got != c.want || fmt.Sprint(unreadable) != c.unreadable {
			t.Errorf("%.40s is read as %s without %v (%v)", c.text, got, unreadable, err)
		}
		if after, err := merge(t, c.text, c.patch); err != nil || after != c.after {
			t.Errorf("%.40s with %s is %.60s (%v)", c.text, c.patch, after, err)
		}
	}
}

// merge merges a patch into metadata, and checks that the patch has the same effect if the hub need
// not decode it.
func merge(t *testing.T, text, patch string) (string, error) {
	t.Helper()
	var m map[string]any
	if err := strictjson.Decode([]byte(patch), &m); err != nil {
		t.Fatal(err)
	}
	decoded, err := store.NewMetaPatch(m)
	if err != nil {
		t.Fatal(err)
	}
	after, err := decoded.Merge(text)
	if read, ok := store.ReadMetaPatch([]byte(patch)); ok {
		if same, err2 := read.Merge(text); same != after || (err == nil) != (err2 == nil) {
			t.Errorf("%.40s with %s is %.60s (%v), and without decoding %.60s (%v)", text, patch, after, err, same, err2)
		}
	}
	return after, err
}
