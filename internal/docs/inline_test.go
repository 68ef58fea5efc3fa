package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// untyped has the commands of docs/operations.md that no test types, with the reasons.
var untyped = map[string]string{
	"runuser -u gangway --":   "the beginning of other commands",
	"runuser -u postgres --":  "the beginning of other commands",
	"docker compose exec hub": "the beginning of other commands",
}

// programs maps the name of each program to the number of words that the name of one of its
// commands may have. Inline code with at most this many words after the program's name, such as
// `gangway db migrate`, may be only the name of a command. With more words, or with a word that is
// not a commandName, it is a command with arguments, which a person should type.
var programs = map[string]int{
	"gangway": 3, "gangway-agent": 2, "gangway-signer": 2, "gangway-fleet": 2, "kubectl": 1, "docker": 2, "systemctl": 1, "apt-get": 1, "apt": 1,
	"dpkg": 0, "psql": 0, "pg_dump": 0, "openssl": 1, "curl": 0, "pkcs11-tool": 0, "softhsm2-util": 0, "install": 0, "cp": 0, "mv": 0, "rm": 0, "mkdir": 0,
	"chown": 0, "chmod": 0, "cmp": 0, "find": 0, "ls": 0, "cat": 0, "tar": 0, "shred": 0, "useradd": 0, "usermod": 0, "adduser": 0, "runuser": 0, "su": 0, "sudo": 0,
	"journalctl": 0, "systemd-analyze": 1, "haproxy": 0, "sqlite3": 0, "skopeo": 1, "rsync": 0, "ssh": 0, "scp": 0, "tpm2_getcap": 0, "tpm2_evictcontrol": 0, "make": 1,
	"certbot": 1, "helm": 1, "export": 0, "kill": 0, "promtool": 2, "git": 1, "go": 1, "sh": 0,
}

// commandName is a word of a command's name, such as `account` or `ca`.
var commandName = regexp.MustCompile(`^[a-z][a-z-]*$`)

// placeholder is a word that stands for a value, such as NICK or FILE. A command with a placeholder
// describes how a command is written, and nobody can type it as it stands.
var placeholder = regexp.MustCompile(`(^|[ =/])[A-Z]{2,}( |$)`)

// tellsToType reports whether inline code is a command with arguments, and not only the name of a
// command.
func tellsToType(code string) bool {
	words := strings.Fields(code)
	for len(words) > 0 && strings.Contains(words[0], "=") && !strings.HasPrefix(words[0], "-") { // a variable, as in A=b gangway serve
		words = words[1:]
	}
	if len(words) == 0 {
		return false
	}
	names, isProgram := programs[words[0]]
	for i, word := range words[1:] {
		if isProgram && (i >= names || !commandName.MatchString(word)) {
			return true
		}
	}
	return false
}

// inlineCode returns the inline code of a page, without its blocks.
func inlineCode(text string) []string {
	text = regexp.MustCompile("(?ms)^ *```.*?^ *```$").ReplaceAllString(text, "")
	var all []string
	for _, paragraph := range strings.Split(text, "\n\n") {
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(paragraph, -1) {
			all = append(all, strings.Join(strings.Fields(m[1]), " "))
		}
	}
	return all
}

// block is a block of code of a page.
type block struct {
	kind, text string
}

// blocks returns the blocks of a page with their kinds, such as "sh" or "ini".
func blocks(page string) (all []block) {
	for _, m := range regexp.MustCompile("(?ms)^```(.*?)\n(.*?)^```$").FindAllStringSubmatch(page, -1) {
		all = append(all, block{m[1], m[2]})
	}
	return all
}

// blockOf returns the only block of docs/operations.md of this kind.
func blockOf(t *testing.T, kind string) string {
	t.Helper()
	var found []string
	for _, b := range blocks(operationsPage(t)) {
		if b.kind == kind {
			found = append(found, b.text)
		}
	}
	if len(found) != 1 {
		t.Fatalf("docs/operations.md has %d blocks %q, and one was expected", len(found), kind)
	}
	return found[0]
}

func operationsPage(t *testing.T) string {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join(root, "docs/operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

// A command with arguments in a sentence of docs/operations.md is also in a block, so that a test
// types it. The exceptions are commands with placeholders, which describe a syntax, and the
// commands in the table `untyped`.
func TestInlineCommandsAreTyped(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{
		"gangway doctor": false, "gangway ca issue": false, "gangway doctor --data DIR": true, "A=b gangway ls /x": true, "kubectl exec": false, "kubectl get pods": true,
		"systemctl edit": false, "systemctl edit gangway": true, "docker compose exec": false, "docker compose logs hub": true, "GANGWAY_URL=https://hub.example": false,
		"rm -r /var": true, "--data DIR": false, "rm": false, "account enable": false,
	} {
		if tellsToType(code) != want {
			t.Errorf("tellsToType(%q) is %v", code, !want)
		}
	}
	page := operationsPage(t)
	typed := map[string]bool{}
	for _, b := range blocks(page) {
		if b.kind == "sh" || b.kind == "sh machine" {
			for line := range strings.Lines(b.text) {
				typed[strings.TrimSpace(line)] = true
			}
		}
	}
	used := map[string]bool{}
	for _, code := range inlineCode(page) {
		_, known := untyped[code]
		used[code] = true
		if tellsToType(code) && !typed[code] && !known && !placeholder.MatchString(code) {
			t.Errorf("docs/operations.md: no block has the command %q: put it into a block, or name only the command", code)
		}
	}
	for code := range untyped {
		if !used[code] {
			t.Errorf("the table has the command %q, and the page does not", code)
		}
	}
}

// Each block of commands of docs/operations.md has a test. The tests read blocks that begin with
// "```sh", at the beginning of a line; TestEveryPageIsTyped checks that tests type them.
// TestPackages types the blocks that begin with "```sh machine", in an emulated machine with
// systemd: its script types each command once or more.
func TestEveryBlockHasATest(t *testing.T) {
	t.Parallel()
	page := operationsPage(t)
	if m := regexp.MustCompile("(?m)^[ >]+```").FindString(page); m != "" {
		t.Errorf("docs/operations.md has a block that is indented, so no test finds it: %q", m)
	}
	if n := strings.Count(page, "\n```"); n != 2*len(blocks(page)) {
		t.Errorf("docs/operations.md has %d beginnings and ends of blocks, and %d blocks", n, len(blocks(page)))
	}
	script, err := os.ReadFile(filepath.Join(root, "internal/qemu/testdata/packages.sh"))
	if err != nil {
		t.Fatal(err)
	}
	var machine, begins []string
	looksLikeCommand := func(line string) bool {
		_, isProgram := programs[strings.Fields(line + " -")[0]]
		return isProgram
	}
	for _, b := range blocks(page) {
		for line := range strings.Lines(b.text) {
			line = strings.TrimSpace(line)
			switch b.kind {
			case "sh machine":
				machine = append(machine, line)
			case "sh", "ini", "yaml", "haproxy":
			case "sql", "text":
				if looksLikeCommand(line) {
					t.Errorf("a block %q has the command %q, and no test types it", b.kind, line)
				}
			default:
				t.Errorf("docs/operations.md has a block of the unknown kind %q", b.kind)
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\s*types "([^"]+)"`).FindAllStringSubmatch(string(script), -1) {
		begins = append(begins, strings.ReplaceAll(m[1], "$key", "aca"))
	}
	// `begins` has the beginnings of the commands that packages.sh types. The script types the
	// command that equals a beginning or, if there is none, the first command with this beginning.
	first := map[string]bool{}
	for _, begin := range begins {
		i := slices.Index(machine, begin)
		if i < 0 {
			i = slices.IndexFunc(machine, func(line string) bool { return strings.HasPrefix(line, begin) })
		}
		if i < 0 {
			t.Errorf("packages.sh types %q, and no command of the page begins with it", begin)
			continue
		}
		first[machine[i]] = true
	}
	for _, line := range machine {
		if !first[line] && !regexp.MustCompile(`create-key (device-ca|tls-ca) `).MatchString(line) { // typed in a loop
			t.Errorf("packages.sh does not type %q", line)
		}
	}
	// A test that types a chapter or a page calls `done`, which fails if a command was left out.
	tests := map[string]string{}
	walk(t, "_test.go", func(path string, content []byte) { tests[path] = string(content) })
	begun := regexp.MustCompile(`= (?:\(&room\{t: t\}\)|r)\.(?:page|chapter)\("|= chapter\(t, "Installing `)
	for path, content := range tests {
		if dir := filepath.Base(filepath.Dir(path)); dir != "docs" && dir != "deploy" {
			continue
		}
		starts, ends := len(begun.FindAllString(content, -1)), strings.Count(content, ".done()\n")
		if starts != ends {
			t.Errorf("%s begins to type %d chapters and pages, and ends %d", path, starts, ends)
		}
	}
	if len(machine) < 20 {
		t.Errorf("the page has only %d commands for a machine with systemd", len(machine))
	}
}
