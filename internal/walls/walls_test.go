package walls

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// No package of this module imports a package that the rules forbid.
func TestWallsStand(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", Module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var packages []Package
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p Package
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	// Each folder in the rules has packages. Otherwise, after a folder is renamed, a rule with the
	// old name would check nothing.
	folders := pure
	for _, r := range rules {
		folders = append(folders, r.from, r.to)
	}
	for _, f := range folders {
		found := false
		for _, p := range packages {
			found = found || under(p.ImportPath, f)
		}
		if !found {
			t.Errorf("no package is under %s/", f)
		}
	}
	for _, sentence := range Check(packages) {
		t.Error(sentence)
	}
}

// For each kind of forbidden import, Check returns a sentence with the chain of imports and the
// reason.
func TestWallsSayWhatBreaksThem(t *testing.T) {
	packages := func(imports ...string) []Package {
		list := []Package{{ImportPath: "gangway/hub/store"}, {ImportPath: "gangway/device/agent"}, {ImportPath: "gangway/internal/between"}}
		for _, i := range imports {
			from, to, _ := strings.Cut(i, " ")
			list = append(list, Package{from, []string{to}})
		}
		return list
	}
	for name, c := range map[string]struct {
		packages []Package
		want     string // part of the sentence; empty if no rule is broken
	}{
		"allowed":                   {packages("gangway/device/new gangway/wire", "gangway/wire gangway/tcg"), ""},
		"a new package":             {packages("gangway/device/new gangway/hub/store"), "gangway/device/new -> gangway/hub/store: device/ must not import hub/: a device must build"},
		"the reverse":               {packages("gangway/hub/new gangway/device/agent"), "hub/ must not import device/"},
		"by way of another":         {packages("gangway/device/new gangway/internal/shared", "gangway/internal/shared gangway/hub/store"), "gangway/device/new -> gangway/internal/shared -> gangway/hub/store"},
		"a folder of a like name":   {packages("gangway/devices gangway/hub/store", "gangway/device/x gangway/hubtest"), ""},
		"the hub and the image":     {packages("gangway/hub/build gangway/image/stick"), "image, which uses the device's on-disk formats"},
		"I/O in the shared formats": {packages("gangway/wire/new os"), "do no I/O"},
		"I/O of the agent":          {packages("gangway/device/agent os"), ""},
	} {
		broken := strings.Join(Check(c.packages), "\n")
		if c.want == "" && broken != "" || !strings.Contains(broken, c.want) {
			t.Errorf("%s: %q, want %q", name, broken, c.want)
		}
	}
}
