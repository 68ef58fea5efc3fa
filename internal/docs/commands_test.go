package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// page contains the commands of a page in order: the lines of its ```sh blocks. A line that ends
// with a backslash is joined with the next line.
type page struct {
	r     *room
	name  string
	lines []string
}

// commandsOf reads the commands of the page with this name.
func commandsOf(t *testing.T, name string) []string {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, block := range strings.Split("\n"+string(doc), "\n```sh\n")[1:] {
		commands, _, closed := strings.Cut(block, "\n```")
		if !closed {
			t.Fatalf("%s: a block of commands has no end", name)
		}
		for line := range strings.SplitSeq(strings.ReplaceAll(commands, "\\\n", ""), "\n") {
			if line = strings.TrimSpace(line); line != "" {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

func (r *room) page(name string) *page {
	r.t.Helper()
	return &page{r, name, commandsOf(r.t, name)}
}

// types runs the page's next command in the room. The command must begin with the text `begins`.
func (p *page) types(begins string) string {
	p.r.t.Helper()
	return p.r.types(p.next(begins))
}

// elsewhere skips the page's next command, because another test or a script runs it. `by` is the
// name of that test or the path of that script. That test or script must exist.
func (p *page) elsewhere(begins, by string) {
	p.r.t.Helper()
	p.next(begins)
	if _, err := os.Stat(filepath.Join(root, by)); err != nil && !testsThere(p.r.t)[by] {
		p.r.t.Errorf("%s: %q is neither a test nor a script", p.name, by)
	}
}

func (p *page) next(begins string) string {
	p.r.t.Helper()
	if len(p.lines) == 0 {
		p.r.t.Fatalf("%s has no more commands, and %q was expected", p.name, begins)
	}
	line := p.lines[0]
	p.lines = p.lines[1:]
	if !strings.HasPrefix(line, begins) {
		p.r.t.Fatalf("%s: the next command is %q, and one that begins with %q was expected", p.name, line, begins)
	}
	return line
}

// done fails the test if it did not run or skip all commands of the page.
func (p *page) done() {
	p.r.t.Helper()
	for _, line := range p.lines {
		p.r.t.Errorf("%s: no test runs %q", p.name, line)
	}
}

// Each page with commands has a test that runs them.
func TestEveryPageIsTyped(t *testing.T) {
	typed := map[string]bool{"CONTRIBUTING.md": true} // its commands run the tests, so no test runs them
	sources, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range sources {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\.page\("([^"]+)"\)`).FindAllSubmatch(b, -1) {
			typed[string(m[1])] = true
		}
	}
	walk(t, ".md", func(path string, _ []byte) {
		name, err := filepath.Rel(root, path)
		if err != nil {
			t.Fatal(err)
		}
		if len(commandsOf(t, name)) > 0 && !typed[name] {
			t.Errorf("no test types the commands of %s", name)
		}
	})
}
