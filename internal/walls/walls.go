// Package walls checks which folders of this module may import which other folders. The rules name
// folders and not packages, so they also apply to new packages. scripts/lint.sh runs this package's
// test.
package walls

import (
	"fmt"
	"slices"
	"strings"
)

// Module is the path of this module.
const Module = "gangway"

// Package has the properties of a package that the rules use: its import path, and the imports of
// its files. The imports of its test files are left out.
type Package struct {
	ImportPath string
	Imports    []string
}

// rule says that no package under the folder `from` may import a package under the folder `to`,
// directly or indirectly. The folders are relative to the module.
type rule struct {
	from, to string
	why      string
}

var rules = []rule{
	{"device", "hub", "a device must build without the hub's code: the two sides share only tcg, wire, internal/strictjson and internal/finding"},
	{"cmd/gangway-agent", "hub", "the agent runs on the device: it shares only tcg, wire, internal/strictjson and internal/finding with the hub"},
	{"cmd/gangway-init", "hub", "gangway-init runs on the device: it shares only tcg, wire, internal/strictjson and internal/finding with the hub"},
	{"hub", "device", "the hub must not depend on the device's code: the two sides share only tcg, wire, internal/strictjson and internal/finding"},
	{"hub", "image", "the hub would import the device's code through image, which uses the device's on-disk formats (device/install)"},
	{"hub", "internal/fleet", "emulated TPMs are for tests: no program for production contains them"},
	{"device", "internal/fleet", "emulated TPMs are for tests: no program for production contains them"},
	{"cmd/gangway", "internal/fleet", "emulated TPMs are for tests: no program for production contains them"},
	{"cmd/gangway-agent", "internal/fleet", "emulated TPMs are for tests: no program for production contains them"},
	{"cmd/gangway-init", "internal/fleet", "emulated TPMs are for tests: no program for production contains them"},
	{"tcg", "wire", "tcg has only the TCG's formats; Gangway's own formats are in wire"},
	{"tcg", "hub", "both sides share tcg"},
	{"tcg", "device", "both sides share tcg"},
	{"wire", "hub", "both sides share wire"},
	{"wire", "device", "both sides share wire"},
}

// pure lists the folders whose packages must do no I/O. So the hub's verdict on a device depends
// only on the device's evidence, and the result of a parser depends only on its input.
var pure = []string{
	"tcg", "wire", "internal/strictjson", "device/install/netfile",
	"hub/boot", "hub/chain", "hub/clone", "hub/evidence", "hub/policy", "hub/search",
}

// doesIO lists the packages of the standard library that a pure package must not import.
var doesIO = []string{"os", "os/exec", "net", "net/http", "io/fs", "syscall"}

// Check returns one sentence for each broken rule. The sentence has the chain of imports that
// breaks the rule, and the reason for the rule.
func Check(packages []Package) []string {
	byPath := map[string]Package{}
	for _, p := range packages {
		byPath[p.ImportPath] = p
	}
	var broken []string
	for _, p := range packages {
		for _, r := range rules {
			if !under(p.ImportPath, r.from) {
				continue
			}
			if path := pathTo(byPath, p.ImportPath, r.to); path != nil {
				broken = append(broken, fmt.Sprintf("%s: %s/ must not import %s/: %s", strings.Join(path, " -> "), r.from, r.to, r.why))
			}
		}
		for _, folder := range pure {
			if !under(p.ImportPath, folder) {
				continue
			}
			for _, i := range p.Imports {
				if slices.Contains(doesIO, i) {
					broken = append(broken, fmt.Sprintf("%s -> %s: packages under %s/ do no I/O, so that their results depend on their input only", p.ImportPath, i, folder))
				}
			}
		}
	}
	return broken
}

// The function `under` reports whether a package is in the folder or in a folder below it.
func under(path, folder string) bool {
	return path == Module+"/"+folder || strings.HasPrefix(path, Module+"/"+folder+"/")
}

// pathTo returns the shortest chain of imports from a package to a package under a folder,
// including both, or nil if no chain exists. It follows only packages of this module.
func pathTo(byPath map[string]Package, from, folder string) []string {
	previous := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, i := range byPath[queue[0]].Imports {
			if _, seen := previous[i]; seen || !strings.HasPrefix(i, Module+"/") {
				continue
			}
			previous[i] = queue[0]
			if under(i, folder) {
				var path []string
				for p := i; p != ""; p = previous[p] {
					path = append(path, p)
				}
				slices.Reverse(path)
				return path
			}
			queue = append(queue, i)
		}
	}
	return nil
}
