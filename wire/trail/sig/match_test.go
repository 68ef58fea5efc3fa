package sig

import (
	"path"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// matches gives the same result as a simple recursive implementation.
func TestMatchesAsDefined(t *testing.T) {
	t.Parallel()
	parts := func(words ...string) *rapid.Generator[[]string] {
		return rapid.SliceOfN(rapid.SampledFrom(words), 1, 5)
	}
	rapid.Check(t, func(t *rapid.T) {
		pattern := parts("**", "*", "a", "b", "?", "a*", "*b*").Draw(t, "pattern")
		name := parts("a", "b", "ab", "ba").Draw(t, "name")
		if got, want := matches(pattern, name), defined(pattern, name); got != want {
			t.Errorf("%s matches %s: %v, want %v", strings.Join(pattern, "/"), strings.Join(name, "/"), got, want)
		}
	})
}

func defined(pattern, name []string) bool {
	switch {
	case len(pattern) == 0:
		return len(name) == 0
	case pattern[0] == "**":
		return defined(pattern[1:], name) || len(name) > 0 && defined(pattern, name[1:])
	case len(name) == 0:
		return false
	}
	ok, err := path.Match(pattern[0], name[0])
	return err == nil && ok && defined(pattern[1:], name[1:])
}
