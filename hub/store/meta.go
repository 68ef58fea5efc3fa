package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"gangway/internal/strictjson"
)

// MaxMeta is the maximum size, in bytes of compact JSON, of a device's user-meta, of a device's
// device-meta, and of a join token's default user-meta.
//
// Metadata is a JSON object, as a Go map. Its values have the types that strictjson.Decode returns:
// a number is a json.Number with the text that the sender wrote. Each write checks two rules in its
// transaction:
//
//   - If strictjson.CheckStorable refuses a member, the write returns *MetaError, because clients
//     could not read an answer that contains the member.
//   - If the metadata would be larger than MaxMeta, the write returns ErrTooLarge, unless the
//     stored metadata was already too large and the write makes it smaller.
//
// The database of an older hub may have members that a write now refuses. A read leaves these
// members out and lists them in Unreadable. A write that sets such a member again, or that replaces
// the whole metadata, removes the old member.
const MaxMeta = 256 << 10

// ErrTooLarge means that the value would be larger than allowed.
var ErrTooLarge = errors.New("store: the value is larger than allowed")

// MetaError says why the metadata member Name cannot be stored.
type MetaError struct {
	Name string
	Err  error
}

func (e *MetaError) Error() string {
	return fmt.Sprintf("store: the metadata member %.64q: %v", e.Name, e.Err)
}
func (e *MetaError) Unwrap() error { return e.Err }

// Metadata stores the user-meta and the device-meta of devices. Every method may return
// ErrNotFound, *MetaError and ErrTooLarge: see MaxMeta.
type Metadata interface {
	// PatchDeviceMeta merges `patch` into the device-meta: it sets each top-level key of `patch`,
	// or deletes the key if its value is nil.
	PatchDeviceMeta(ctx context.Context, id string, patch MetaPatch) error
	// PatchUserMeta merges `patch` into the user-meta of an owner's device, as PatchDeviceMeta
	// does.
	PatchUserMeta(ctx context.Context, owner, id string, patch map[string]any) error
	// SwapUserMeta changes the metadata as PatchUserMeta does, but only if each key in `was` still
	// has the value there, which the caller has read before. A nil value in `was` means that the
	// metadata must not have the key. If any key has another value, SwapUserMeta changes nothing
	// and returns ErrChanged.
	SwapUserMeta(ctx context.Context, owner, id string, was, patch map[string]any) error
	ReplaceDeviceMeta(ctx context.Context, id string, meta map[string]any) error
	ReplaceUserMeta(ctx context.Context, owner, id string, meta map[string]any) error
}

// MetaPatch is a change of metadata: a value for some top-level keys, or null for a key to delete.
// The zero value changes nothing.
type MetaPatch struct {
	text    string // as EncodeMeta returns it; empty: no change
	members []strictjson.Member
	plain   bool // `members` has the members of the text
}

// NewMetaPatch returns the change with these values; nil deletes a key. Errors: see EncodeMeta.
func NewMetaPatch(m map[string]any) (MetaPatch, error) {
	text, err := EncodeMeta(m)
	if err != nil || len(m) == 0 {
		return MetaPatch{}, err
	}
	p := MetaPatch{text: text}
	p.members, _, p.plain = strictjson.Members([]byte(text))
	return p, nil
}

// ReadMetaPatch returns the change with the values in a JSON object. It is much faster than
// strictjson.Decode and NewMetaPatch, which accept the same texts and more: if `ok` is false, the
// caller must use them.
func ReadMetaPatch(text []byte) (p MetaPatch, ok bool) {
	if p.members, p.text, p.plain = strictjson.Members(text); !p.plain || len(p.text) > MaxMeta {
		return MetaPatch{}, false
	}
	if len(p.members) == 0 {
		p.text = ""
	}
	return p, true
}

// Empty reports whether the patch changes nothing.
func (p MetaPatch) Empty() bool { return p.text == "" }

// Merge merges the patch into the JSON object `text` and returns the result, with sorted names. The
// numbers and strings of other keys stay the same, byte for byte. If `text` is not a JSON object,
// Merge merges into an empty object instead.
func (p MetaPatch) Merge(text string) (string, error) {
	if p.plain {
		if merged, ok := strictjson.Merge(text, p.members); ok {
			return merged, nil
		}
	}
	m, changes := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(text), &m); err != nil || m == nil {
		m = map[string]json.RawMessage{}
	}
	if p.text != "" {
		if err := json.Unmarshal([]byte(p.text), &changes); err != nil {
			return "", fmt.Errorf("store: decode the change of the metadata: %w", err)
		}
	}
	for name, value := range changes {
		if string(value) == "null" {
			delete(m, name)
		} else {
			m[name] = value
		}
	}
	merged, err := CompactJSON(m)
	if err != nil {
		return "", fmt.Errorf("store: encode the merged metadata: %w", err)
	}
	return merged, nil
}

// EncodeMeta encodes metadata as compact JSON; empty metadata becomes "{}". Errors: *MetaError,
// ErrTooLarge.
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
		return "", fmt.Errorf("store: encode the metadata: %w", err)
	}
	if len(text) > MaxMeta {
		return "", ErrTooLarge
	}
	return text, nil
}

// CompactJSON encodes `v` as JSON, without escaping more characters than JSON requires, so that the
// stored text is as long as the text in the hub's answers.
func CompactJSON(v any) (string, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}
