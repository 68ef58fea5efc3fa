package sig

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// selection names the members of a state that a signature covers: those that match a pattern of
// Include and no pattern of Exclude. The word "**" between slashes matches any number of folders.
// Within one name, patterns are those of path.Match.
type selection struct {
	Include []string `json:"include"`
	Exclude []string `json:"exclude"`
}

// check refuses patterns that pvr could understand differently from this package, and bounds the
// work of matching.
func (s *selection) check() error {
	if len(s.Include)+len(s.Exclude) > maxPatterns {
		return fmt.Errorf("it has more than %d patterns", maxPatterns)
	}
	for _, list := range [][]string{s.Include, s.Exclude} {
		for _, p := range list {
			if len(p) > maxPattern || strings.Count(p, "/") >= maxParts {
				return fmt.Errorf("a pattern has more than %d bytes or %d parts", maxPattern, maxParts)
			}
			if strings.ContainsAny(p, `{}[]\`) {
				return fmt.Errorf("the pattern %.100q has a character other than letters, * and ?, which this device does not accept", p)
			}
			if _, err := path.Match(p, ""); errors.Is(err, path.ErrBadPattern) {
				return fmt.Errorf("the pattern %.100q is not valid", p)
			}
		}
	}
	return nil
}

// selects reports whether the signature covers the member with this name.
func (s *selection) selects(name string) bool {
	return matchesAny(s.Include, name) && !matchesAny(s.Exclude, name)
}

func matchesAny(patterns []string, name string) bool {
	parts := strings.Split(name, "/")
	for _, p := range patterns {
		if matches(strings.Split(p, "/"), parts) {
			return true
		}
	}
	return false
}

// matches compares the parts of a pattern with the parts of a name. The time grows with the product
// of their numbers, and not exponentially.
func matches(pattern, name []string) bool {
	// open[n] reports whether the pattern's parts so far match the first n parts of the name.
	open := make([]bool, len(name)+1)
	open[0] = true
	for _, p := range pattern {
		next := make([]bool, len(name)+1)
		for n := range next {
			switch {
			case p == "**":
				next[n] = open[n] || n > 0 && next[n-1]
			case n > 0 && open[n-1]:
				ok, err := path.Match(p, name[n-1])
				next[n] = err == nil && ok
			}
		}
		open = next
	}
	return open[len(name)]
}
