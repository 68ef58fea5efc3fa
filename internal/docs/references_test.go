package docs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A reference to a section of a documentation page contains the section's heading, as in
// docs/protocol.md#7-certificates. A reference with only a number would silently refer to another
// section after sections move. Each reference in documentation pages, comments, refusals,
// openapi.json and help texts names a heading that exists.
func TestReferencesLeadToSections(t *testing.T) {
	anchors := map[string]map[string]bool{} // anchors by the name of their page
	walk(t, ".md", func(path string, content []byte) {
		name := filepath.Base(path)
		if anchors[name] == nil {
			anchors[name] = map[string]bool{}
		}
		for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllSubmatch(content, -1) {
			anchors[name][anchor(string(m[1]))] = true
		}
	})
	reference := regexp.MustCompile(`([A-Za-z][\w-]*\.md)#([a-z0-9-]+)`)
	within := regexp.MustCompile(`\]\(#([a-z0-9-]+)\)`)
	number := regexp.MustCompile(`[A-Za-z][\w-]*\.md\)?,? (?:section )?[0-9]`)
	seen := 0
	for _, suffix := range []string{".md", ".go", ".json", ".sh", ".py", ".txt"} {
		walk(t, suffix, func(path string, content []byte) {
			if strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/testdata/") && suffix != ".txt" {
				return
			}
			for line := range bytes.Lines(content) {
				if !bytes.Contains(line, []byte(".md")) && !bytes.Contains(line, []byte("](#")) {
					continue // the regular expressions would need seconds for all lines
				}
				for _, m := range reference.FindAllSubmatch(line, -1) {
					seen++
					if a := anchors[string(m[1])]; a == nil || !a[string(m[2])] {
						t.Errorf("%s refers to %s, where no such heading is", path, m[0])
					}
				}
				if suffix == ".md" {
					for _, m := range within.FindAllSubmatch(line, -1) {
						if !anchors[filepath.Base(path)][string(m[1])] {
							t.Errorf("%s refers to its own #%s, but has no such heading", path, m[1])
						}
					}
				}
				for _, m := range number.FindAll(line, -1) {
					t.Errorf("%s refers to %q by a number: write the heading's anchor", path, m)
				}
			}
		})
	}
	if seen < 8 {
		t.Errorf("only %d references were seen", seen)
	}
}

// anchor returns the fragment of a heading's URL, as GitHub makes it.
func anchor(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(heading) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_':
			b.WriteRune(r)
		case r == ' ':
			b.WriteByte('-')
		}
	}
	return b.String()
}

// protocol.md has a section for each section number that protocol.md and the examples refer to.
func TestProtocolSectionsExist(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^## ([0-9]+)\. `).FindAllSubmatch(page, -1) {
		have[string(m[1])] = true
	}
	for file, pattern := range map[string]string{
		"docs/protocol.md":    `(?:[Ss]ections? (?:[0-9]+(?:, | and | to ))*)([0-9]+)`,
		"examples/onboard.sh": `§([0-9]+)`,
		"examples/device.py":  `§([0-9]+)`,
	} {
		content, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(pattern).FindAllSubmatch(content, -1)
		if len(found) < 5 {
			t.Errorf("%s: only %d references were found", file, len(found))
		}
		for _, m := range found {
			if !have[string(m[1])] {
				t.Errorf("%s refers to section %s of docs/protocol.md, which it has not", file, m[1])
			}
		}
	}
}
