package trail_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gangway/wire/trail"
)

const spec = `"#spec":"pantavisor-service-system@1"`

var a, b = strings.Repeat("0a", 32), strings.Repeat("0b", 32)

func TestReadsAState(t *testing.T) {
	t.Parallel()
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

// State.Sum equals the sum that Pantacor's own library computes for the same state.
func TestStateSumIsOfTheCanonicalJSON(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ state, sum string }{
		{`{` + spec + `}`, "fd138f7751b12a533d8b0e60c32bfae17be25a4206166973135cd7fa1d8b3760"},
		{`{"z.json":{"b":1,"a":[1e3,1.5,-0.0,1e21,5e-7,123456789012345678]},` + spec + `,"é.json":"\u0001\t\"\\/<&\u2028é😀"}`, "95255ed42e398f88ceb11347f9e135bc54522533d70279cbecd1179f65c04654"},
	} {
		s, err := trail.ParseState([]byte(c.state))
		if err != nil {
			t.Fatal(err)
		}
		sum := s.Sum()
		if got := hex.EncodeToString(sum[:]); got != c.sum {
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
	if one.Sum() != two.Sum() {
		t.Error("the sum depends on how it is written")
	}
}

func TestRefusesStates(t *testing.T) {
	t.Parallel()
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
		"too deep to be kept":     `{` + spec + `,"a.json":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`,
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

// stateWith returns a state with files. `names` alternates between the name of a file and the value
// of this file.
func stateWith(names ...string) string {
	s := "{" + spec
	for i := 0; i < len(names); i += 2 {
		s += fmt.Sprintf(",%q:%q", names[i], names[i+1])
	}
	return s + "}"
}

// The function `files` parses a state and returns its files, as a device does.
func files(text string) ([]trail.File, error) {
	s, err := trail.ParseState([]byte(text))
	if err != nil {
		return nil, err
	}
	return s.Files()
}

// A state cannot make a device write outside the revision's folder: the device refuses file names
// that point outside this folder. The hub does not check the names. It stores the state, and the
// device reports that it refuses the state.
func TestNamesInAStateStayInTheRevisionsFolder(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"../x", "a/../../x", "/etc/passwd", "a/../b", "a//b", "a/", "/", ".", "..", "./a", "", "a\x00b", "a\nb",
		strings.Repeat("x", 256), strings.Repeat("x/", 40) + "x", strings.Repeat("y/", 600) + "y.json"} {
		if list, err := files(stateWith(name, a)); err == nil {
			t.Errorf("%q is accepted: %v", name, list)
		}
	}
	for _, name := range []string{"a", "bsp/kernel", "..a/b..", "a b&<>", "-rf", "#x", "ü/é", "a\\b"} {
		if _, err := files(stateWith(name, a)); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := trail.ParseState([]byte(stateWith("../x", a))); err != nil {
		t.Errorf("the hub refuses a name that only devices refuse: %v", err)
	}
}

// A device refuses a state that two programs could understand differently.
func TestDeviceRefusesStatesThatMeanTwoThings(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{` + spec + `,"a":"` + a + `","a":"` + b + `"}`,
		`{` + spec + `}{}`, `[]`, `null`, `{}`, `{"#spec":"other@1"}`, `{"#spec":1}`,
		stateWith("a", strings.ToUpper(a)), stateWith("a", "x"), `{` + spec + `,"a":{}}`,
		stateWith("a", a, "a/b", a), stateWith("a.json", "{}", "a.json/b/c", a),
		"{" + spec + ",\"\xff\":1}",
		`{` + spec + `,"a.json":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
		`{` + spec + `,"a.json":"` + strings.Repeat("x", trail.MaxState) + `"}`,
	} {
		if _, err := files(text); err == nil {
			t.Errorf("accepted: %.100s", text)
		}
	}
}

func TestFilesOfAState(t *testing.T) {
	t.Parallel()
	list, err := files(`{"b/c.json": [ 1, "x" ],` + spec + `,"b/a":"` + b + `","a.json":"` + a + `","d.json":null}`)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, f := range list {
		got += fmt.Sprintf("%s %s %s\n", f.Path, f.Object, f.Document)
	}
	if want := "a.json " + a + " \nb/a " + b + " \nb/c.json  [1,\"x\"]\nd.json  null\n"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// If ParseState accepts a text, parsing the state's JSON again gives the same state. Every file of
// an accepted state is inside the folder, and no file is also a folder of another file.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{` + spec + `,"kernel":"` + a + `","a.json":{"b":[1,2.5,"x\u0000",null,true]}}`))
	f.Add([]byte(`{` + spec + `,"a.json":[-1e-300,1e300,0.1,"\ud800"]}`))
	f.Add([]byte(stateWith("a/b", a, "c.json", "x")))
	f.Add([]byte(stateWith("../a", a)))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := trail.ParseState(text)
		if err != nil {
			return
		}
		again, err := trail.ParseState(s.JSON)
		if err != nil || again.Sum() != s.Sum() || !slices.Equal(again.Objects, s.Objects) || !bytes.Equal(again.JSON, s.JSON) {
			t.Fatalf("%.200q does not read again as itself: %v", s.JSON, err)
		}
		if !json.Valid(s.JSON) {
			t.Fatalf("%.200q", s.JSON)
		}
		list, err := s.Files()
		if err != nil {
			return
		}
		names := map[string]bool{}
		for _, file := range list {
			names[file.Path] = true
		}
		for _, file := range list {
			if !filepath.IsLocal(file.Path) || filepath.Clean(file.Path) != file.Path {
				t.Errorf("%q", file.Path)
			}
			for dir := filepath.Dir(file.Path); dir != "."; dir = filepath.Dir(dir) {
				if names[dir] {
					t.Errorf("%q is a file and a folder", dir)
				}
			}
			if (file.Object == "") != (file.Document != nil) {
				t.Errorf("%q is an object and a document, or neither", file.Path)
			}
		}
	})
}
