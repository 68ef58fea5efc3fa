package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gangway/internal/swtpm"
)

func TestTutorialPage(t *testing.T) {
	t.Parallel()
	r := enter(t)
	if r == nil {
		return
	}
	if m := swtpm.Missing(); m != "" {
		t.Skip(m)
	}
	r.env = append(r.env, "NO_COLOR=1") // the checks below read the output
	p := r.page("docs/tutorial.md")
	r.types("cd " + r.repository("."))
	p.types("make -s build")
	r.types("cd ~/work")
	p.types("gangway demo")
	r.says("gangway demo", "Ctrl-C ends the demo")
	for _, name := range []string{"demo-1", "demo-2", "demo-3"} {
		r.await("gangway demo", name+" has a trail", func() bool {
			return regexp.MustCompile(name + ` +revision +Created the trail`).MatchString(r.printed("gangway demo"))
		})
	}
	p.types("export GANGWAY_CONTEXT=demo")
	list := p.types("gangway device ls")
	if strings.Count(list, " active ") != 3 {
		t.Errorf("three devices should be onboarded:\n%s", short(list))
	}
	nick := regexp.MustCompile(`(?m)^(\S+) +[0-9a-f]{24} `).FindStringSubmatch(list)
	if nick == nil {
		t.Fatalf("no device is listed:\n%s", short(list))
	}
	r.types("gangway device rename " + nick[1] + " brave-otter-3fa2")
	p.types("gangway device rename")
	if out := p.types("gangway device show"); !strings.Contains(out, "✓ ek-chain") {
		t.Errorf("the chain of evidence should be shown:\n%s", short(out))
	}
	p.types("gangway device state")
	p.types("echo")
	if out := p.types("gangway device post"); !strings.Contains(out, "done") {
		t.Errorf("revision 1 should be done:\n%s", short(out))
	}
	r.await("gangway demo", "the hook's lines are in the log", func() bool { // the page says that the log has these lines some seconds later
		out, err := r.run("gangway device logs oslo-gate-1")
		return err == nil && strings.Contains(out, "commit of revision 1")
	})
	if out := p.types("gangway device logs"); !strings.Contains(out, "test of revision 1") {
		t.Errorf("the hook should have tested revision 1:\n%s", short(out))
	}
	if out := p.types("gangway device rollback"); !strings.Contains(out, "- gate/run.json") || !strings.Contains(out, "done") {
		t.Errorf("revision 2 should be done:\n%s", short(out))
	}
	p.types("gangway device revisions")
	p.types("echo")
	if out := p.types("gangway device post"); !regexp.MustCompile(`(?m)^3 +failed.*does not start`).MatchString(out) {
		t.Errorf("revision 3 should have failed, with its reason:\n%s", short(out))
	}
	p.done()
}

// The method `printed` returns the output of a background program so far.
func (r *room) printed(name string) string {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.running[name]; p != nil {
		return p.String()
	}
	return ""
}

// Each picture that a page displays in a light and a dark version exists in both versions, and is
// small. The folder docs/tutorial has no other pictures.
func TestPicturesAreThereAndSmall(t *testing.T) {
	shown := map[string]bool{}
	source := regexp.MustCompile(`(?:srcset|src)="([^"]+)"|!\[[^\]]*\]\(([^)]+)\)`)
	walk(t, ".md", func(path string, content []byte) {
		for _, m := range source.FindAllSubmatch(content, -1) {
			file := filepath.Join(filepath.Dir(path), string(m[1])+string(m[2]))
			shown[file] = true
			info, err := os.Stat(file)
			if err != nil {
				t.Errorf("%s shows %s, which is not there", path, file)
			} else if info.Size() > 150_000 {
				t.Errorf("%s has %d bytes; want at most 150000", file, info.Size())
			}
		}
	})
	all, err := filepath.Glob(filepath.Join(root, "docs", "tutorial", "*"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no pictures: %v", err)
	}
	for _, file := range all {
		if filepath.Ext(file) == ".webm" { // a page links to a film, see TestLinksLeadSomewhere
			if info, err := os.Stat(file); err != nil || info.Size() > 5<<20 {
				t.Errorf("%s is larger than 5 MiB (%v)", file, err)
			}
		} else if !shown[file] {
			t.Errorf("no page shows %s", file)
		}
	}
}
