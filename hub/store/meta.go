package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"gangway/internal/strictjson"
)

// MaxMeta bounds a device's user-meta, its device-meta, and the user-meta that
// a join token begins with, each in bytes of compact JSON.
//
// A meta is a JSON object as a map, its values as strictjson.Decode makes them:
// a number is a json.Number, as it was written. An engine refuses with a
// *MetaError what strictjson.CheckStorable refuses, for it could not be read in the
// answers that contain it, and with ErrTooLarge what would be more than MaxMeta
// bytes afterwards; a meta that was larger before may be made smaller. Both
// bounds hold in the step that writes. A database of an older hub may have
// members that are refused now: they are left out of the meta that is read, and
// named in Unreadable; they go when they are set, or the meta is replaced.
const MaxMeta = 256 << 10

// ErrTooLarge says that what would be kept is larger than its bound.
var ErrTooLarge = errors.New("store: larger than the bound")

// MetaError says why a member of a meta cannot be kept.
type MetaError struct {
	Name string
	Err  error
}

func (e *MetaError) Error() string {
	return fmt.Sprintf("store: the metadata's %.64q: %v", e.Name, e.Err)
}
func (e *MetaError) Unwrap() error { return e.Err }

// EncodeMeta writes a meta as compact JSON, "{}" for none, if it may be kept:
// *MetaError, ErrTooLarge.
func EncodeMeta(m map[string]any) (string, error) {
	if len(m) == 0 {
		return "{}", nil
	}
	for name, value := range m {
		if err := strictjson.CheckStorable(map[string]any{name: value}); err != nil {
			return "", &MetaError{Name: name, Err: err}
		}
	}
	text, err := CompactJSON(m)
	if err != nil {
		return "", fmt.Errorf("store: meta: %w", err)
	}
	if len(text) > MaxMeta {
		return "", ErrTooLarge
	}
	return text, nil
}

// CompactJSON escapes no more than JSON demands, so that a text is as long as in
// the answers that contain it.
func CompactJSON(v any) (string, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}
