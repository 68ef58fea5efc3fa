package finding

import (
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	list := []Finding{{Code: "a", Severity: OK, Fact: "Fine."}, {Code: "b-bad", Severity: Warning, Fact: "Less.", Cause: "Rain.", Remedy: "Wait."}, {Code: "c", Severity: Note, Fact: "So."}}
	var b strings.Builder
	if err := Write(&b, list, nil); err != nil {
		t.Fatal(err)
	}
	want := "ok       Fine. (a)\nwarning  Less. (b-bad)\n           why:    Rain.\n           remedy: Wait.\nnote     So. (c)\n0 problem(s), 1 warning(s), 1 note(s), 1 check(s) passed.\n"
	if b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	if Worst(list) != Warning || Worst(nil) != OK || Worst([]Finding{{Severity: Problem}, {Severity: Note}}) != Problem {
		t.Error("Worst is wrong")
	}
}
