package sqlite

import (
	"context"
	"encoding/json"
	"fmt"

	"gangway/store"
)

// encodeMeta writes a meta as its column has it: a JSON object, "{}" for none.
func encodeMeta(m map[string]any) (string, error) {
	if len(m) == 0 {
		return "{}", nil
	}
	b, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("sqlite: meta: %w", err)
	}
	return string(b), nil
}

// decodeMeta never returns a nil map without an error.
func decodeMeta(text string) (map[string]any, error) {
	m := map[string]any{}
	if text == "{}" {
		return m, nil
	}
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return nil, fmt.Errorf("sqlite: stored meta: %w", err)
	}
	return m, nil
}

var (
	selectDeviceMeta = prepared(`SELECT device_meta FROM devices WHERE id = ? AND deleted = 0`)
	updateDeviceMeta = prepared(`UPDATE devices SET device_meta = ? WHERE id = ?`)
	selectUserMeta   = prepared(`SELECT user_meta FROM devices WHERE id = ? AND deleted = 0 AND owner = ?`)
	updateUserMeta   = prepared(`UPDATE devices SET user_meta = ? WHERE id = ?`)
)

// PatchDeviceMeta implements store.Store.
func (s *Store) PatchDeviceMeta(ctx context.Context, id string, patch map[string]any) error {
	return s.patchMeta(ctx, patch, updateDeviceMeta, id, func(c *conn) (row, bool, error) {
		return c.one(selectDeviceMeta, id)
	})
}

// PatchUserMeta implements store.Store.
func (s *Store) PatchUserMeta(ctx context.Context, owner, id string, patch map[string]any) error {
	return s.patchMeta(ctx, patch, updateUserMeta, id, func(c *conn) (row, bool, error) {
		return c.one(selectUserMeta, id, owner)
	})
}

func (s *Store) patchMeta(ctx context.Context, patch map[string]any, update *statement, id string,
	current func(*conn) (row, bool, error)) error {
	encoded := make(map[string]json.RawMessage, len(patch))
	for key, value := range patch {
		if value == nil {
			encoded[key] = nil
			continue
		}
		b, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("sqlite: meta %q: %w", key, err)
		}
		encoded[key] = b
	}
	return s.writer.do(ctx, func(c *conn) error {
		r, ok, err := current(c)
		if err != nil {
			return err
		}
		if !ok {
			return store.ErrNotFound
		}
		before := r.text()
		after, err := mergeMeta(before, encoded)
		if err != nil || after == before {
			return err
		}
		_, err = c.exec(update, after, id)
		return err
	})
}

// mergeMeta leaves the values of other keys as they are, byte for byte: a
// number too large for a float64 stays whole.
func mergeMeta(text string, patch map[string]json.RawMessage) (string, error) {
	m := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return "", fmt.Errorf("sqlite: stored meta: %w", err)
	}
	for key, value := range patch {
		if value == nil {
			delete(m, key)
		} else {
			m[key] = value
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("sqlite: meta: %w", err)
	}
	return string(b), nil
}
