package sqlstore

import (
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
	selectDeviceMeta = prepared(`SELECT owner, nick, user_meta, device_meta FROM devices WHERE id = ? AND deleted = 0`)
	updateDeviceMeta = prepared(`UPDATE devices SET device_meta = ? WHERE id = ?`)
	selectUserMeta   = prepared(`SELECT owner, nick, user_meta, device_meta FROM devices WHERE id = ? AND deleted = 0 AND owner = ?`)
	updateUserMeta   = prepared(`UPDATE devices SET user_meta = ? WHERE id = ?`)
)

// PatchDeviceMeta implements store.Metadata.
func (s *Store) PatchDeviceMeta(ctx context.Context, id string, patch store.MetaPatch) error {
	return s.db.Write(ctx, func(c Conn) error {
		r, err := one(c, selectDeviceMeta, id)
		if err != nil {
			return err
		}
		return patchMeta(c, readIndexed(&r), deviceMetaOf, patch, updateDeviceMeta, id)
	})
}

// PatchUserMeta implements store.Metadata.
func (s *Store) PatchUserMeta(ctx context.Context, owner, id string, patch map[string]any) error {
	return s.SwapUserMeta(ctx, owner, id, nil, patch)
}

// SwapUserMeta implements store.Metadata.
func (s *Store) SwapUserMeta(ctx context.Context, owner, id string, was, patch map[string]any) error {
	change, err := store.NewMetaPatch(patch)
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(c Conn) error {
		r, err := one(c, selectUserMeta, id, owner)
		if err != nil {
			return err
		}
		now := readIndexed(&r)
		if err := stillHas(now.userMeta, was); err != nil {
			return err
		}
		return patchMeta(c, now, userMetaOf, change, updateUserMeta, id)
	})
}

func readIndexed(r *Row) indexed {
	return indexed{words{owner: r.text(), nick: r.text()}, r.text(), r.text()}
}

func userMetaOf(i *indexed) *string   { return &i.userMeta }
func deviceMetaOf(i *indexed) *string { return &i.deviceMeta }

// patchMeta merges a patch into the half of a device's metadata that the function `half` returns,
// and writes the result with the statement `update`.
func patchMeta(c Conn, was indexed, half func(*indexed) *string, patch store.MetaPatch, update *Statement, id string) error {
	before := *half(&was)
	after, err := patch.Merge(before)
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
	*half(&is) = after
	return was.move(c, is)
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
