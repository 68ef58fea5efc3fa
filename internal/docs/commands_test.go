package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// page contains the commands of a documentation page in order: the lines of its ```sh blocks. A
// line that ends with a backslash is joined with the next line.
type page struct {
	r     *room
	name  string
	lines []string
}

// chapters are the headings of the parts of docs/operations.md that have tests of their own,
// because each part is a complete script. The function commandsOf leaves out the commands of these
// parts.
var chapters = []string{
	"Installing with a Debian package", "Installing with containers", "Installing on Kubernetes",
	"After a lost disk", "To another engine", "Upgrading with a second replica", "Replacing a leaked key", "Taking a hub down for good",
}

// commandsOf reads the commands of the documentation page with this name.
func commandsOf(t *testing.T, name string) []string {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	text := string(doc)
	if name == "docs/operations.md" {
		for _, heading := range chapters {
			text = strings.Replace(text, chapterText(t, text, heading), "", 1)
		}
	}
	return commandsIn(t, name, text)
}

// chapterText returns the part of a page from a heading to the next heading. A heading of a part
// has at least two number signs. A line with one number sign is a comment in a block of commands.
func chapterText(t *testing.T, page, heading string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^##+ ` + regexp.QuoteMeta(heading) + `\n`).FindStringIndex(page)
	if m == nil {
		t.Fatalf("docs/operations.md has no chapter %q", heading)
	}
	text := page[m[0]:]
	if next := strings.Index(text, "\n##"); next >= 0 {
		text = text[:next+1]
	}
	return text
}

// chapter returns the commands of the part of docs/operations.md with this heading.
func (r *room) chapter(heading string) *page {
	r.t.Helper()
	return &page{r, heading, commandsIn(r.t, heading, chapterText(r.t, operationsPage(r.t), heading))}
}

func commandsIn(t *testing.T, name, text string) []string {
	t.Helper()
	var lines []string
	for _, block := range strings.Split("\n"+text, "\n```sh\n")[1:] {
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

// The method `types` runs the page's next command in the page's sandbox (type room: a container
// with Linux namespaces). The command must begin with the text `begins`.
func (p *page) types(begins string) string {
	p.r.t.Helper()
	return p.r.types(p.next(begins))
}

// The method `elsewhere` skips the page's next command, because another test or a script runs it.
// `by` is the name of that test or the path of that script. That test or script must exist.
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

// The method `done` fails the test if it did not run or skip all commands of the page.
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
	called := map[string]bool{}
	walk(t, "_test.go", func(_ string, content []byte) {
		for _, m := range regexp.MustCompile(`\bchapter\((?:t, )?"([^"]+)"\)`).FindAllSubmatch(content, -1) {
			called[string(m[1])] = true
		}
	})
	for _, heading := range chapters {
		if !called[heading] {
			t.Errorf("no test types the commands of the chapter %q", heading)
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
