package install

import (
	"fmt"
	"path"
	"strings"
)

// Rule selects the disk of an automatic installation:
//
//	largest          the largest disk
//	/dev/NAME        the disk with this name
//	serial:S         the disk with this serial number
//	model:PATTERN    the largest disk whose model matches the pattern, as in path.Match
//
// A rule selects a disk that may be external (Disk.External) only if it names that disk: by name,
// by serial number, or by model without wildcards.
type Rule string

// Largest is the default rule.
const Largest Rule = "largest"

// ParseRule parses a rule. An empty string is the rule Largest.
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
	return fmt.Errorf("%q is not a disk rule; use largest, /dev/NAME, serial:NUMBER or model:PATTERN", r)
}

// diskName reports whether `s` can be the name of a disk in /dev.
func diskName(s string) bool {
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// The method `specific` reports whether the rule names one disk or one model, rather than any disk.
func (r Rule) specific() bool {
	model, ok := strings.CutPrefix(string(r), "model:")
	return r != Largest && !(ok && strings.ContainsAny(model, `*?[\`))
}

func (r Rule) matches(d Disk) bool {
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
