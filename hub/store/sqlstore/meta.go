package sqlstore

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"gangway/hub/store"
	"gangway/internal/strictjson"
)

// decodeMeta decodes metadata that store.EncodeMeta encoded, possibly in an older hub that accepted
// other metadata. It leaves out members that the hub cannot return. `unreadable` contains a JSON
// Pointer, beginning with `whole`, for each such member. If there are too many of them, or if
// `text` is not a JSON object, `unreadable` contains only `whole`.
func decodeMeta(text, whole string) (m map[string]any, unreadable []string) {
	m = map[string]any{}
	if text == "{}" {
		return m, nil
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&m); err != nil || m == nil {
		return map[string]any{}, []string{whole}
	}
	for name, value := range m {
		if strictjson.CheckStorable(map[string]any{name: value}) != nil {
			delete(m, name)
			unreadable = append(unreadable, whole+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
		}
	}
	slices.Sort(unreadable)
	if len(unreadable) > 16 || len(strings.Join(unreadable, "")) > 1024 {
		unreadable = []string{whole}
	}
	return m, unreadable
}

var (
	selectDeviceMeta = prepared(`SELECT device_meta, owner, nick, user_meta, device_meta FROM devices WHERE id = ? AND deleted = 0`)
	updateDeviceMeta = prepared(`UPDATE devices SET device_meta = ? WHERE id = ?`)
	selectUserMeta   = prepared(`SELECT user_meta, owner, nick, user_meta, device_meta FROM devices WHERE id = ? AND deleted = 0 AND owner = ?`)
	updateUserMeta   = prepared(`UPDATE devices SET user_meta = ? WHERE id = ?`)
)

// PatchDeviceMeta implements store.Metadata.
func (s *Store) PatchDeviceMeta(ctx context.Context, id string, patch map[string]any) error {
	return s.patchMeta(ctx, nil, patch, updateDeviceMeta, id, func(c Conn) (Row, bool, error) {
		return c.One(selectDeviceMeta, id)
	})
}

// PatchUserMeta implements store.Metadata.
func (s *Store) PatchUserMeta(ctx context.Context, owner, id string, patch map[string]any) error {
	return s.SwapUserMeta(ctx, owner, id, nil, patch)
}

// SwapUserMeta implements store.Metadata.
func (s *Store) SwapUserMeta(ctx context.Context, owner, id string, was, patch map[string]any) error {
	return s.patchMeta(ctx, was, patch, updateUserMeta, id, func(c Conn) (Row, bool, error) {
		return c.One(selectUserMeta, id, owner)
	})
}

func (s *Store) patchMeta(ctx context.Context, expected, patch map[string]any, update *Statement, id string,
	current func(Conn) (Row, bool, error)) error {
	text, err := store.EncodeMeta(patch)
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(c Conn) error {
		r, ok, err := current(c)
		if err != nil {
			return err
		}
		if !ok {
			return store.ErrNotFound
		}
		before := r.text()
		if err := stillHas(before, expected); err != nil {
			return err
		}
		was := indexed{words{owner: r.text(), nick: r.text()}, r.text(), r.text()}
		after, err := mergeMeta(before, text)
		if err != nil || after == before {
			return err
		}
		if len(after) > store.MaxMeta && len(after) > len(before) {
			return store.ErrTooLarge
		}
		if err = c.Do(update, after, id); err != nil || was.owner == "" {
			return err
		}
		is := was
		if update == updateUserMeta {
			is.userMeta = after
		} else {
			is.deviceMeta = after
		}
		return was.move(c, is)
	})
}

// stillHas checks that each key in `expected` has the expected value in the JSON object `text`. If
// that value is nil, `text` must not have the key. If a value differs, it returns store.ErrChanged.
func stillHas(text string, expected map[string]any) error {
	if len(expected) == 0 {
		return nil
	}
	stored, _ := decodeMeta(text, "")
	for name, value := range expected {
		had, has := stored[name]
		if value == nil && !has {
			continue
		}
		is, err := store.CompactJSON(had)
		if err != nil {
			return fmt.Errorf("store: encode the metadata: %w", err)
		}
		want, err := store.CompactJSON(value)
		if err != nil {
			return fmt.Errorf("store: encode the expected metadata: %w", err)
		}
		if !has || is != want {
			return store.ErrChanged
		}
	}
	return nil
}

// mergeMeta merges the JSON object `patch` into the JSON object `text` and returns the result. A
// member of `patch` that is null deletes the key. The values of other keys stay the same, byte for
// byte. If `text` is not a JSON object, mergeMeta merges into an empty object instead.
func mergeMeta(text, patch string) (string, error) {
	m, changes := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(text), &m); err != nil || m == nil {
		m = map[string]json.RawMessage{}
	}
	if err := json.Unmarshal([]byte(patch), &changes); err != nil {
		return "", fmt.Errorf("store: decode the change of the metadata: %w", err)
	}
	for name, value := range changes {
		if bytes.Equal(value, []byte("null")) {
			delete(m, name)
		} else {
			m[name] = value
		}
	}
	merged, err := store.CompactJSON(m)
	if err != nil {
		return "", fmt.Errorf("store: encode the merged metadata: %w", err)
	}
	return merged, nil
}
