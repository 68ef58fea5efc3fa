package sig

import (
	"errors"
	"fmt"
	"math/bits"
	"path"
	"slices"
	"strings"
)

// selection names the members of a state that a signature covers: those that match a pattern of
// Include and no pattern of Exclude. A "**" between slashes matches any number of folders. Within
// one name, patterns have the syntax of path.Match.
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
				return fmt.Errorf("the pattern %.100q has one of the characters {}[]\\, which this device does not accept", p)
			}
			if _, err := path.Match(p, ""); errors.Is(err, path.ErrBadPattern) {
				return fmt.Errorf("the pattern %.100q is not valid", p)
			}
		}
	}
	return nil
}

// The method `selects` reports whether the signature covers the member with this name.
func (s *selection) selects(name string) bool {
	parts := strings.Split(name, "/")
	return matchesAny(s.Include, parts) && !matchesAny(s.Exclude, parts)
}

func matchesAny(patterns []string, name []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(strings.Split(p, "/"), name) })
}

// The function `matches` compares the parts of a pattern with the parts of a name. The running time
// is at most proportional to the product of the two numbers of parts. State.Files has checked that
// the name has fewer than 64 parts, so a uint64 has enough bits.
func matches(pattern, name []string) bool {
	all := uint64(1)<<(len(name)+1) - 1
	open := uint64(1) // bit n is set if the pattern's parts so far match the first n parts of the name
	for _, p := range pattern {
		next := uint64(0)
		switch p {
		case "**":
			if open != 0 {
				next = all &^ (1<<bits.TrailingZeros64(open) - 1)
			}
		case "*":
			next = open << 1 & all
		default:
			for n, part := range name {
				if open&(1<<n) != 0 {
					if ok, err := path.Match(p, part); err == nil && ok {
						next |= 1 << (n + 1)
					}
				}
			}
		}
		open = next
	}
	return open&(1<<len(name)) != 0
}
