package trail

import (
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
)

// ChangeKind says how a file differs between two states.
type ChangeKind string

// The kinds of changes.
const (
	Added   ChangeKind = "added"
	Removed ChangeKind = "removed"
	Changed ChangeKind = "changed"
)

// Change is one difference between two states.
type Change struct {
	Name string // name of the file, or "#spec"
	Kind ChangeKind
	// Before and After are the values in the two states: an object's SHA-256, or the compact JSON
	// of a document. Before is empty if the file was added, and After if it was removed.
	Before, After string
	// Object reports whether the values are SHA-256s of objects.
	Object bool
}

// Diff returns the differences between two states, sorted by name. Documents whose canonical JSON
// is equal do not differ.
func Diff(before, after *State) []Change {
	var list []Change
	for name, old := range before.members {
		now, stays := after.members[name]
		switch {
		case !stays:
			list = append(list, change(name, Removed, old, nil))
		case !sameValue(old, now):
			list = append(list, change(name, Changed, old, now))
		}
	}
	for name, now := range after.members {
		if _, was := before.members[name]; !was {
			list = append(list, change(name, Added, nil, now))
		}
	}
	slices.SortFunc(list, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func sameValue(a, b any) bool {
	return string(canonical(nil, a)) == string(canonical(nil, b))
}

func change(name string, kind ChangeKind, old, now any) Change {
	c := Change{Name: name, Kind: kind}
	wasObject, isObject := true, true
	if kind != Added {
		c.Before, wasObject = valueText(old)
	}
	if kind != Removed {
		c.After, isObject = valueText(now)
	}
	c.Object = wasObject && isObject
	return c
}

// valueText returns a value of a state as text, and reports whether the value is an object's
// SHA-256.
func valueText(v any) (text string, object bool) {
	if sum, ok := sumOf(v); ok {
		return hex.EncodeToString(sum[:]), true
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "", false // cannot happen: the value was decoded from JSON
	}
	return string(b), false
}

// Len returns the number of the state's files.
func (s *State) Len() int { return len(s.members) - 1 }
