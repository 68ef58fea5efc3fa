package trail

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Names returns the names of the state's files and "#spec", sorted.
func (s *State) Names() []string { return slices.Sorted(maps.Keys(s.members)) }

// Value returns a file's value in the state, as encoding/json decodes it, or nil if the state has
// no such file.
func (s *State) Value(name string) any { return s.members[name] }

// Payload returns, as one canonical JSON object, the members of the state whose names `selected`
// accepts. Signatures of Pantacor's format pvs@2 cover such a payload. Numbers in the payload keep
// all their digits, so different members give different payloads. The state's Sum does not have
// this property: it ignores digits that a float64 cannot hold.
func (s *State) Payload(selected func(name string) bool) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(s.JSON))
	d.UseNumber()
	var members map[string]any
	if err := d.Decode(&members); err != nil {
		return nil, fmt.Errorf("the state: %w", err)
	}
	maps.DeleteFunc(members, func(name string, _ any) bool { return !selected(name) })
	return canonical(nil, members), nil
}
