package install

import (
	"fmt"
	"path"
	"strings"
)

// Rule says which disk an automatic installation takes:
//
//	largest          the largest
//	/dev/NAME        that one
//	serial:S         the one with this serial number
//	model:PATTERN    those whose model fits, as in path.Match; the largest of them
//
// A disk that may not be built in (Disk.External) is taken only by a rule that
// names it: by its name, its serial number, or its model without * and the like.
type Rule string

// Largest is the default.
const Largest Rule = "largest"

// ParseRule checks a rule. Empty is Largest.
func ParseRule(s string) (Rule, error) {
	if s == "" {
		return Largest, nil
	}
	return Rule(s), Rule(s).check()
}

func (r Rule) check() error {
	kind, arg, _ := strings.Cut(string(r), ":")
	switch {
	case len(r) > 200 || strings.ContainsAny(string(r), "\x00\n"):
	case r == Largest:
		return nil
	case strings.HasPrefix(string(r), "/dev/") && diskName(string(r[len("/dev/"):])):
		return nil
	case kind == "serial" && arg != "":
		return nil
	case kind == "model" && arg != "":
		if _, err := path.Match(arg, ""); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%q names no disk: largest, /dev/NAME, serial:NUMBER or model:PATTERN", r)
}

// diskName reports whether s can be a name in /dev.
func diskName(s string) bool {
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// names reports whether the rule is for one disk or model, which its author knew,
// and not for whatever is there.
func (r Rule) names() bool {
	model, ok := strings.CutPrefix(string(r), "model:")
	return r != Largest && !(ok && strings.ContainsAny(model, `*?[\`))
}

func (r Rule) fits(d Disk) bool {
	kind, arg, _ := strings.Cut(string(r), ":")
	switch {
	case r == Largest:
		return true
	case kind == "serial":
		return d.Serial == arg
	case kind == "model":
		ok, err := path.Match(arg, d.Model)
		return ok && err == nil
	}
	return string(r) == d.Path()
}
