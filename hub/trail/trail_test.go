package trail_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"gangway/hub/store"
	"gangway/hub/trail"
)

const spec = `"#spec":"pantavisor-service-system@1"`

var a, b = strings.Repeat("0a", 32), strings.Repeat("0b", 32)

func TestReadsAState(t *testing.T) {
	s, err := trail.ParseState([]byte(`{ ` + spec + `, "bsp/kernel":"` + b + `", "copy":"` + b + `",
		"app/root.squashfs":"` + a + `","device.json":{"name":"x<&>"},"list.json":[1.5,"` + strings.Repeat("0c", 32) + `"],"linked.json":"` + a + `","text.json":"words"}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Objects) != 2 || hex.EncodeToString(s.Objects[0][:]) != a || hex.EncodeToString(s.Objects[1][:]) != b {
		t.Errorf("objects: %x", s.Objects)
	}
	if !bytes.HasPrefix(s.JSON, []byte(`{"#spec":"pantavisor-service-system@1","bsp/kernel":"0b`)) || !bytes.Contains(s.JSON, []byte(`"x<&>"`)) {
		t.Errorf("%s", s.JSON)
	}
}

// The sums are those that Pantacor's own library gives.
func TestStateSumIsOfTheCanonicalJSON(t *testing.T) {
	for _, c := range []struct{ state, sum string }{
		{`{` + spec + `}`, "fd138f7751b12a533d8b0e60c32bfae17be25a4206166973135cd7fa1d8b3760"},
		{`{"z.json":{"b":1,"a":[1e3,1.5,-0.0,1e21,5e-7,123456789012345678]},` + spec + `,"é.json":"\u0001\t\"\\/<&\u2028é😀"}`, "95255ed42e398f88ceb11347f9e135bc54522533d70279cbecd1179f65c04654"},
	} {
		s, err := trail.ParseState([]byte(c.state))
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(s.Sum[:]); got != c.sum {
			t.Errorf("%s: %s", c.state, got)
		}
	}
	one, err := trail.ParseState([]byte(`{"a.json":{"x":1,"y":2},` + spec + `}`))
	if err != nil {
		t.Fatal(err)
	}
	two, err := trail.ParseState([]byte(` {` + spec + `, "a.json" : {"y":2e0,"x":1.0}} `))
	if err != nil {
		t.Fatal(err)
	}
	if one.Sum != two.Sum {
		t.Error("the sum depends on how it is written")
	}
}

func TestRefusesStates(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                 ``,
		"a list":                  `[]`,
		"null":                    `null`,
		"no spec":                 `{}`,
		"another spec":            `{"#spec":"pantavisor-service-system@2"}`,
		"a spec that is no text":  `{"#spec":["pantavisor-service-system@1"]}`,
		"no hash":                 `{` + spec + `,"kernel":"x"}`,
		"no text":                 `{` + spec + `,"kernel":{}}`,
		"an upper-case hash":      `{` + spec + `,"kernel":"` + strings.ToUpper(a) + `"}`,
		"a path for a hash":       `{` + spec + `,"kernel":"../../` + a[6:] + `"}`,
		"the same name twice":     `{` + spec + `,"kernel":"` + a + `","kernel":"` + b + `"}`,
		"escaped, the same name":  `{` + spec + `,"kernel":"` + a + `","\u006bernel":"` + b + `"}`,
		"twice, deep inside":      `{` + spec + `,"a.json":[{"x":{"y":1,"y":2}}]}`,
		"two values":              `{` + spec + `}{}`,
		"no UTF-8":                `{` + spec + `,"a.json":"` + "\xff" + `"}`,
		"a number that is no one": `{` + spec + `,"a.json":1e999}`,
		"too deep":                `{` + spec + `,"a.json":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}`,
		"much too deep":           `{` + spec + `,"a.json":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`,
		"too large":               `{` + spec + `,"a.json":"` + strings.Repeat("x", trail.MaxState) + `"}`,
		"cut off":                 `{` + spec + `,"a.json":`,
	} {
		if s, err := trail.ParseState([]byte(text)); err == nil {
			t.Errorf("%s was read: %s", name, s.JSON)
		}
	}
}

func TestProgressIsKeptAsItCame(t *testing.T) {
	text := `{"status":"DOWNLOADING","status-msg":"<50%>","progress":25,"retries":3,"logs":"x","downloads":{"total":{"object_name":"total","total_size":12345678901234567890}},"new":null}`
	status, kept, err := trail.ParseProgress([]byte(text))
	if err != nil || status != store.RevisionDownloading || string(kept) != text {
		t.Errorf("%s %s %v", status, kept, err)
	}
	if r := trail.ReadReport(kept); r.Message != "<50%>" || r.Percent != 25 {
		t.Errorf("%+v", r)
	}
	if r := trail.ReadReport([]byte(`{"status-msg":7,"progress":1e300}`)); r.Message != "" || r.Percent != 100 {
		t.Errorf("%+v", r)
	}
	for _, bad := range []string{``, `[]`, `{}`, `{"status":"NEW"}`, `{"status":"CANCEL"}`, `{"status":"done"}`, `{"status":7}`, `{"status":"DONE","status":"ERROR"}`,
		`{"status":"` + strings.Repeat("x", 1000) + `"}`, `{"status":"DONE","x":"` + strings.Repeat("x", trail.MaxProgress) + `"}`} {
		if _, _, err := trail.ParseProgress([]byte(bad)); err == nil || len(err.Error()) > 300 {
			t.Errorf("%.50s: %v", bad, err)
		}
	}
	if _, _, err := trail.ParseProgress(trail.NewProgress(store.RevisionDone, 100, `a "message"`)); err != nil {
		t.Error(err)
	}
}

func TestReadsFiltersByStatus(t *testing.T) {
	for text, want := range map[string]string{
		"NEW":        "[NEW]",
		"CANCEL":     "[CANCEL]",
		"CANCELLED":  "[]",
		`{"$in":[]}`: "[]",
		`{"$in":["TESTING","NEW","NEW","CANCELED"]}`:                    "[NEW TESTING]",
		`{"$in":["NEW","DOWNLOADING","INPROGRESS","TESTING","QUEUED"]}`: "[NEW QUEUED DOWNLOADING INPROGRESS TESTING]",
		`{"$ne":"DONE"}`: "[NEW QUEUED DOWNLOADING SYNCING INPROGRESS TESTING UPDATED ERROR WONTGO CANCEL]",
		`{"$nin":["NEW","QUEUED","DOWNLOADING","SYNCING","INPROGRESS","TESTING"]}`: "[DONE UPDATED ERROR WONTGO CANCEL]",
		`{"$eq":"ERROR"}`: "[ERROR]",
	} {
		got, err := trail.ParseStatuses(text)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	all, err := trail.ParseStatuses(`{"$ne":""}`)
	if err != nil || !slices.Equal(all, store.RevisionStatuses) {
		t.Errorf("%v, %v", all, err)
	}
	for _, bad := range []string{"done", "NEW' OR 1=1", `{}`, `{"$where":"sleep(1000)"}`, `{"$regex":"^a"}`, `{"$in":"NEW"}`, `{"$in":[{"$ne":"NEW"}]}`, `{"$in":[1]}`,
		`{"$in":["NEW"],"$ne":"NEW"}`, `{"$in":["NEW"],"$in":["DONE"]}`, `{"$ne":null}`, `{"$ne":["NEW"]}`, `{"$in":["new"]}`, `{"$gt":""}`, `["NEW"]`, `{"$in":["NEW"]} ` + strings.Repeat(" ", 2000)} {
		if got, err := trail.ParseStatuses(bad); err == nil {
			t.Errorf("%.50s was read as %v", bad, got)
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{` + spec + `,"kernel":"` + a + `","a.json":{"b":[1,2.5,"x\u0000",null,true]}}`))
	f.Add([]byte(`{` + spec + `,"a.json":[-1e-300,1e300,0.1,"\ud800"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := trail.ParseState(text)
		if err != nil {
			return
		}
		again, err := trail.ParseState(s.JSON)
		if err != nil || again.Sum != s.Sum || !slices.Equal(again.Objects, s.Objects) || !bytes.Equal(again.JSON, s.JSON) {
			t.Fatalf("%q is not read again as it was: %v", s.JSON, err)
		}
		if !json.Valid(s.JSON) {
			t.Fatalf("%q", s.JSON)
		}
	})
}
