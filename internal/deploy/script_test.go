package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// script has the commands of a chapter of docs/operations.md. The test runs them in order, and
// takes the place of the programs docker and kubectl.
type script struct {
	t     *testing.T
	lines []string
	dir   string // the folder in which the next command runs
	home  string
	vars  map[string]string // variables of the operator's shell
}

// chapter returns the commands in the ```sh blocks of a chapter. They run in a new home folder,
// which has a copy of the repository's folder contrib.
func chapter(t *testing.T, heading string) *script {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join(repository, "docs/operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(doc), "\n### "+heading+"\n")
	if !found {
		t.Fatalf("docs/operations.md has no chapter %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n##")
	s := &script{t: t, home: t.TempDir(), vars: map[string]string{}}
	s.dir = s.home
	for _, block := range strings.Split(text, "\n```sh\n")[1:] {
		block, _, _ = strings.Cut(block, "\n```")
		s.lines = append(s.lines, strings.Split(block, "\n")...)
	}
	if err := os.CopyFS(filepath.Join(s.home, "contrib"), os.DirFS(filepath.Join(repository, "contrib"))); err != nil {
		t.Fatal(err)
	}
	return s
}

// next returns the next command without running it.
func (s *script) next(begins string) string {
	s.t.Helper()
	if len(s.lines) == 0 || !strings.HasPrefix(s.lines[0], begins) {
		s.t.Fatalf("a command that begins with %q was expected, and the chapter has %q", begins, s.lines)
	}
	line := s.lines[0]
	s.lines = s.lines[1:]
	return line
}

// expand replaces the variables in a command by their values.
func (s *script) expand(line string) string {
	s.t.Helper()
	return os.Expand(line, func(name string) string {
		if s.vars[name] == "" {
			s.t.Fatalf("%s: the variable %s is not set", line, name)
		}
		return s.vars[name]
	})
}

// save does the rest of a command after its `>`: it writes the command's output to the file that
// `to` names, in the current folder, and then runs the commands after `&&`.
func (s *script) save(to, output string) {
	s.t.Helper()
	file, more, _ := strings.Cut(to, " && ")
	if err := os.WriteFile(filepath.Join(s.dir, file), []byte(output), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.run(more)
}

// The method `until` runs the commands up to the first one that begins with `program`. It does not
// run that command.
func (s *script) until(program string) {
	s.t.Helper()
	for len(s.lines) > 0 && !strings.HasPrefix(s.lines[0], program+" ") {
		s.run(s.next(""))
	}
}

// run runs a command in a shell. If a command changes the folder with cd, the next command runs in
// the new folder.
func (s *script) run(line string) {
	s.t.Helper()
	c := exec.Command("sh", "-euc", line+"\npwd >\"$HOME/.pwd\"")
	c.Dir, c.Env = s.dir, append(os.Environ(), "HOME="+s.home)
	if out, err := c.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v: %s", line, err, out)
	}
	dir, err := os.ReadFile(filepath.Join(s.home, ".pwd"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.dir = strings.TrimSpace(string(dir))
}

func (s *script) done() {
	s.t.Helper()
	if len(s.lines) > 0 {
		s.t.Errorf("no test runs %q", s.lines)
	}
}
