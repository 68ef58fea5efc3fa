package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"gangway/internal/strictjson"
)

// MaxMeta bounds a device's user-meta, its device-meta, and the default user-meta of a join token,
// each in bytes of compact JSON.
//
// A meta is a JSON object as a map. Its values are as strictjson.Decode makes them: a number is a
// json.Number, as it was written. An engine checks two bounds in the step that writes:
//
//   - It refuses with *MetaError a member that strictjson.CheckStorable refuses, because answers
//     that contain the member could not be read.
//   - It refuses with ErrTooLarge a write that leaves more than MaxMeta bytes. A meta that was
//     larger before may be made smaller.
//
// The database of an older hub may have members that are now refused. A read leaves these members
// out and names them in Unreadable. Such a member is removed when it is set again, or when the meta
// is replaced.
const MaxMeta = 256 << 10

// ErrTooLarge means that the value would be larger than its bound.
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

// Metadata keeps the two metas of a device. Every method may return ErrNotFound, *MetaError and
// ErrTooLarge: see MaxMeta.
type Metadata interface {
	// PatchDeviceMeta merges top-level keys; a nil value deletes the key.
	PatchDeviceMeta(ctx context.Context, id string, patch map[string]any) error
	// PatchUserMeta does the same to the user-meta, for the owner.
	PatchUserMeta(ctx context.Context, owner, id string, patch map[string]any) error
	ReplaceDeviceMeta(ctx context.Context, id string, meta map[string]any) error
	ReplaceUserMeta(ctx context.Context, owner, id string, meta map[string]any) error
}

// EncodeMeta encodes a meta as compact JSON, "{}" for an empty one. If it may not be kept, it returns
// *MetaError or ErrTooLarge.
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

// CompactJSON encodes v and escapes no more than JSON demands, so that the text is as long as in the
// answers that contain it.
func CompactJSON(v any) (string, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}
