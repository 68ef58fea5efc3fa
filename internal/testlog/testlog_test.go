package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// events is the output of "go test -json" for a package with one test of each result.
const events = `{"Action":"start","Package":"gangway/tcg"}
{"Action":"output","Package":"gangway/tcg","Test":"TestGood","Output":"said by a good test\n"}
{"Action":"pass","Package":"gangway/tcg","Test":"TestGood","Elapsed":12.5}
{"Action":"output","Package":"gangway/tcg","Test":"TestBad","Output":"    x_test.go:7: said by a bad test\n"}
{"Action":"fail","Package":"gangway/tcg","Test":"TestBad/part","Elapsed":11}
{"Action":"fail","Package":"gangway/tcg","Test":"TestBad","Elapsed":11}
{"Action":"skip","Package":"gangway/tcg","Test":"TestElsewhere","Elapsed":0}
{"Action":"output","Package":"gangway/tcg","Output":"FAIL\n"}
{"Action":"output","Package":"gangway/tcg","Output":"FAIL\tgangway/tcg\t24s\n"}
{"Action":"fail","Package":"gangway/tcg","Elapsed":24}
{"Action":"output","Package":"gangway/wire","Output":"PASS\n"}
{"Action":"output","Package":"gangway/wire","Output":"ok  \tgangway/wire\t2s\n"}
{"Action":"pass","Package":"gangway/wire","Elapsed":2}
{"Action":"output","Package":"gangway/hub/ui","Output":"?   \tgangway/hub/ui\t[no test files]\n"}
{"Action":"skip","Package":"gangway/hub/ui","Elapsed":0}
`

func TestOutputIsShortAndTimesAreKept(t *testing.T) {
	dir := t.TempDir()
	in, log := filepath.Join(dir, "events"), filepath.Join(dir, "log")
	if err := os.WriteFile(in, []byte("a line of no test\n"+events), 0o644); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	times := filepath.Join(dir, "times")
	code, err := run(&out, times, "race", log, []string{"sh", "-c", `cat "$0"; exit 3`, in})
	if err != nil || code != 3 {
		t.Fatalf("exit code %d, %v; want the command's, 3", code, err)
	}
	want := "a line of no test\ngangway/tcg TestBad/part\ngangway/tcg TestBad\n    x_test.go:7: said by a bad test\nFAIL\nFAIL\tgangway/tcg\t24s\nok  \tgangway/wire\t2s\n"
	if out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
	if whole, err := os.ReadFile(log); err != nil || !strings.Contains(string(whole), "said by a good test") {
		t.Errorf("the log has %q, %v; want the output of good tests too", whole, err)
	}

	out.Reset()
	if err := summarize(&out, times); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"  race\n", "   24.0  tcg (race)\n    2.0  wire (race)\n", "   12.5  tcg TestGood: NO REASON", "   11.0  tcg TestBad: NO REASON", "\n1 passed, 1 failed, 1 skipped\n"} {
		if strings.Count(out.String(), part) != 1 {
			t.Errorf("%q does not stand once in the summary:\n%s", part, out.String())
		}
	}
}

func TestStageThatCannotStartFails(t *testing.T) {
	var out strings.Builder
	if _, err := run(&out, t.TempDir(), "x", "", []string{"/does/not/exist"}); err == nil {
		t.Error("no error")
	}
	if err := summarize(&out, t.TempDir()); err == nil {
		t.Error("a summary of nothing")
	}
}

// Each test in slow.txt exists and has a reason.
func TestSlowTestsExist(t *testing.T) {
	for line := range strings.Lines(slowText) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		m := regexp.MustCompile(`^(\S+) (Test\w+): (\S.{10,})$`).FindStringSubmatch(line)
		if m == nil {
			t.Errorf("not PACKAGE TEST: REASON: %s", line)
			continue
		}
		files, err := filepath.Glob(filepath.Join("..", "..", m[1], "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			found = found || strings.Contains(string(b), "func "+m[2]+"(")
		}
		if !found {
			t.Errorf("%s has no %s", m[1], m[2])
		}
	}
}
