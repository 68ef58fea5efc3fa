package docs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A new user can type the commands of README.md from beginning to end.
func TestREADME(t *testing.T) {
	r := enter(t)
	if r == nil {
		return
	}
	r.kernel()
	tpm := r.hasTPM()
	p := r.page("README.md")
	p.elsewhere("make demo", ".ci/run")
	p.elsewhere("make test", ".ci/run")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	r.types("cd " + filepath.Join(here, root))
	p.types("make build && make install")
	p.types("gangway serve")
	r.account(p.next("gangway account create"))
	r.trusts(tpm)
	p.types("gangway login")
	p.types("gangway token create")
	p.types("gangway image fetch")
	p.types("gangway image build")
	p.types("gangway-agent onboard")
	r.writes("/usr/local/lib/gangway/hook", "#!/bin/sh\n", 0o755)
	p.types("gangway-agent run")
	r.connected()
	if out := p.types("gangway device ls"); strings.Count(out, "active") != 1 {
		t.Errorf("one device should be listed:\n%s", short(out))
	}
	r.nicked()
	if out := p.types("gangway device show"); !strings.Contains(out, "brave-otter-3fa2") || !strings.Contains(out, "IDevID") {
		t.Errorf("the chain of evidence should be shown:\n%s", short(out))
	}
	p.done()
}
