// Package docs_test checks that the documentation tells the truth about the
// code, as far as a program can.
package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// Every test that a page names exists; security.md names one for each threat,
// and pantahub-compat.md for each rule and weakness.
func TestThreatsNameTestsThatExist(t *testing.T) {
	have := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	walk(t, "_test.go", func(_ string, content []byte) {
		for _, m := range declared.FindAllSubmatch(content, -1) {
			have[string(m[1])] = true
		}
	})
	for page, least := range map[string]int{"security.md": 40, "pantahub-compat.md": 60} {
		doc, err := os.ReadFile(filepath.Join(root, "docs", page))
		if err != nil {
			t.Fatal(err)
		}
		named := regexp.MustCompile("`(Test\\w+)[`/]").FindAllSubmatch(doc, -1)
		if len(named) < least {
			t.Fatalf("docs/%s: only %d tests are named", page, len(named))
		}
		for _, m := range named {
			if !have[string(m[1])] {
				t.Errorf("docs/%s names %s, which does not exist", page, m[1])
			}
		}
	}
}

// The ten rules and the eighteen weaknesses are all there, each with a test.
func TestEveryRuleAndWeaknessHasATest(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(root, "docs", "pantahub-compat.md"))
	if err != nil {
		t.Fatal(err)
	}
	rules, weak, _ := strings.Cut(string(doc), "## What was weak")
	for part, count := range map[string]int{rules: 10, weak: 18} {
		rows := regexp.MustCompile(`(?m)^\| (\d+) \|.*$`).FindAllStringSubmatch(part, -1)
		if len(rows) != count {
			t.Errorf("%d rows, and %d were expected", len(rows), count)
		}
		for i, row := range rows {
			if row[1] != strconv.Itoa(i+1) || !strings.Contains(row[0], "`Test") {
				t.Errorf("row %d: %s", i+1, row[0])
			}
		}
	}
}

// Links between pages lead somewhere.
func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)\)`)
	walk(t, ".md", func(path string, content []byte) {
		for _, m := range link.FindAllSubmatch(content, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), string(m[1]))); err != nil {
				t.Errorf("%s links to %s, which is not there", path, m[1])
			}
		}
	})
}

func walk(t *testing.T, suffix string, f func(path string, content []byte)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "build") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, suffix) {
			return nil
		}
		b, err := os.ReadFile(path)
		if err == nil {
			f(path, b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
