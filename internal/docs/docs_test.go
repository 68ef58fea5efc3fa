// Package docs_test checks that the documentation agrees with the code, as far
// as a program can check it.
package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// testsThere returns the names of all tests in the repository.
func testsThere(t *testing.T) map[string]bool {
	t.Helper()
	have := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	walk(t, "_test.go", func(_ string, content []byte) {
		for _, m := range declared.FindAllSubmatch(content, -1) {
			have[string(m[1])] = true
		}
	})
	return have
}

// Every test that a documentation page names exists. security.md names a test for each threat.
// pantahub-compat.md names a test for each rule of Pantahub's API that the hub keeps, and for each
// weakness of Pantahub that the hub avoids.
func TestThreatsNameTestsThatExist(t *testing.T) {
	have := testsThere(t)
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

// Each of the ten rules and eighteen weaknesses in pantahub-compat.md has a test.
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

// arriving lists branches that are not yet merged. hardware.md may name tests of these branches, as
// "(branch TestName)". After a branch is merged, remove the branch from this list.
var arriving = []string{}

// Each hardware peculiarity in hardware.md has a public source and names a test that exists.
func TestOddHardwareHasASourceAndATest(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(root, "docs", "hardware.md"))
	if err != nil {
		t.Fatal(err)
	}
	have, rows := testsThere(t), 0
	reported := regexp.MustCompile(`^[A-Za-z0-9-]+/[A-Za-z0-9._-]+#[1-9]\d*$`)
	specified := regexp.MustCompile(`^(Part [1-4], (\d+(\.\d+)+|TPM2_\w+)|(EK profile|PC Client PFP) \d+(\.\d+)+|RFC \d+, \d+(\.\d+)*)$`)
	between := regexp.MustCompile(`, ([a-zA-Z0-9-]+/|Part |EK |PC |RFC )`)
	tested, comes := regexp.MustCompile("^`(Test\\w+)`$"), regexp.MustCompile(`^\((x-\w+) (Test\w+)\)$`)
	for line := range strings.Lines(string(doc)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| symptom |") {
			continue
		}
		rows++
		if len(cells) != 4 {
			t.Errorf("%d cells in: %s", len(cells), line)
			continue
		}
		for i := range cells {
			if cells[i] = strings.TrimSpace(cells[i]); cells[i] == "" {
				t.Errorf("an empty cell in: %s", line)
			}
		}
		// Split at commas, but not at the comma inside a source such as "Part 2, 6.3".
		for _, source := range strings.Split(between.ReplaceAllString(cells[2], "\n$1"), "\n") {
			if !reported.MatchString(source) && !specified.MatchString(source) {
				t.Errorf("%q is neither owner/repository#number nor a section: %s", source, line)
			}
		}
		for _, test := range strings.Split(cells[3], ", ") {
			if m := tested.FindStringSubmatch(test); m != nil {
				if !have[m[1]] {
					t.Errorf("%s does not exist", m[1])
				}
			} else if m := comes.FindStringSubmatch(test); m == nil || !slices.Contains(arriving, m[1]) {
				t.Errorf("%q is not a test: %s", test, line)
			} else if have[m[2]] {
				t.Errorf("%s exists by now: write it in backquotes, without its branch", m[2])
			}
		}
	}
	if rows < 50 {
		t.Errorf("only %d rows", rows)
	}
}

// Each link from a documentation page to a file names a file that exists.
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

// Every file and folder that the documentation for contributors names exists.
func TestNamedPathsExist(t *testing.T) {
	path := regexp.MustCompile("`((?:cmd|contrib|device|docs|examples|hub|image|internal|scripts|tcg|wire)/[A-Za-z0-9_./-]*)`")
	for _, page := range []string{"CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md"} {
		doc, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		named := path.FindAllSubmatch(doc, -1)
		if len(named) == 0 {
			t.Errorf("%s names no path", page)
		}
		for _, m := range named {
			if _, err := os.Stat(filepath.Join(root, string(m[1]))); err != nil {
				t.Errorf("%s names %s, which is not there", page, m[1])
			}
		}
	}
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

// The table in docs/architecture.md has a row for each package of the module.
func TestArchitectureHasEveryPackage(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]bool{}
	walk(t, ".go", func(path string, _ []byte) {
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		packages[filepath.ToSlash(dir)] = true
	})
	rows := map[string]int{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9/-]+)` \\|").FindAllSubmatch(doc, -1) {
		rows[string(m[1])]++
	}
	for p := range packages {
		// A command that only makes the data or pictures of the package in its parent folder needs
		// no row: the parent's row describes both.
		if rows[p] == 0 && rows[filepath.ToSlash(filepath.Dir(p))] == 0 {
			t.Errorf("docs/architecture.md has no row for %s", p)
		}
	}
	for p, n := range rows {
		if !packages[p] || n > 1 {
			t.Errorf("docs/architecture.md has %d rows for %s; it is a package: %v", n, p, packages[p])
		}
	}
}

// Each link to a part of a documentation page ends with the anchor that GitHub makes for a heading
// of this page.
func TestAnchorsAreHeadings(t *testing.T) {
	heading := regexp.MustCompile(`(?m)^#+ (.+)$`)
	dropped := regexp.MustCompile(`[^\p{L}\p{N}_\- ]`)
	anchors := map[string][]string{} // anchors by the path of their page
	walk(t, ".md", func(path string, content []byte) {
		for _, m := range heading.FindAllSubmatch(content, -1) {
			anchors[path] = append(anchors[path], strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(string(m[1])), ""), " ", "-"))
		}
	})
	link := regexp.MustCompile(`\]\(([^)#: ]*)#([^)]+)\)`)
	walk(t, ".md", func(path string, content []byte) {
		for _, m := range link.FindAllSubmatch(content, -1) {
			page := path
			if len(m[1]) > 0 {
				page = filepath.Join(filepath.Dir(path), string(m[1]))
			}
			if !slices.Contains(anchors[page], string(m[2])) {
				t.Errorf("%s links to #%s, which is not a heading of %s", path, m[2], page)
			}
		}
	})
}
