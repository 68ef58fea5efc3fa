package revision

import (
	"strings"
	"unicode/utf8"

	"gangway/wire/trail"
)

// maxTotal limits the size of all objects of a state together, in bytes.
const maxTotal = 1 << 42

// state is the state of a revision, checked so that its files can be written to a folder.
type state struct {
	*trail.State              // with pinned keys, only the members that the owner has signed
	posted       *trail.State // the state as the hub or the image has it
	sum          string       // SHA-256 of the state's JSON, hexadecimal; the journal identifies the state by this hash
	files        []trail.File
}

// parseState parses a state and checks that the state's files can be written to a folder.
func parseState(text []byte) (*state, error) {
	s, err := trail.ParseState(text)
	if err != nil {
		return nil, err
	}
	return newState(s)
}

func newState(s *trail.State) (*state, error) {
	files, err := s.Files()
	if err != nil {
		return nil, err
	}
	return &state{s, s, textName(s), files}, nil
}

// clip shortens `s` to at most `n` bytes, between two characters, and appends "…". It does not
// change a shorter `s`.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
