package trail_test

import (
	"fmt"
	"strings"
	"testing"

	"gangway/wire/trail"
)

func TestDiffNamesEachDifference(t *testing.T) {
	t.Parallel()
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	parse := func(members string) *trail.State {
		t.Helper()
		s, err := trail.ParseState([]byte(`{"#spec":"pantavisor-service-system@1"` + members + `}`))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []struct{ before, after, want string }{
		{``, ``, `[]`},
		{`,"k":"` + a + `"`, `,"k":"` + a + `"`, `[]`},
		{`,"k":"` + a + `"`, `,"k":"` + b + `"`, `[{k changed ` + a + ` ` + b + ` true}]`},
		{``, `,"k":"` + a + `"`, `[{k added  ` + a + ` true}]`},
		{`,"k":"` + a + `"`, ``, `[{k removed ` + a + `  true}]`},
		{`,"c.json":{"x":1,"y":2}`, `,"c.json":{ "y": 2.0, "x": 1 }`, `[]`},
		{`,"c.json":{"x":1}`, `,"c.json":{"x":2}`, `[{c.json changed {"x":1} {"x":2} false}]`},
		{`,"c.json":"` + a + `"`, `,"c.json":null`, `[{c.json changed ` + a + ` null false}]`},
		{`,"z":"` + a + `","b":"` + a + `"`, `,"y":"` + a + `"`, `[{b removed ` + a + `  true} {y added  ` + a + ` true} {z removed ` + a + `  true}]`},
	} {
		if got := fmt.Sprint(trail.Diff(parse(c.before), parse(c.after))); got != c.want {
			t.Errorf("%s to %s:\n%s, want\n%s", c.before, c.after, got, c.want)
		}
	}
	if n := parse(`,"a":"` + a + `","b.json":1`).Len(); n != 2 {
		t.Errorf("%d files, want 2", n)
	}
}
