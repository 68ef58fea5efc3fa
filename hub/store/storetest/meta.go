package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"gangway/hub/store"
	"gangway/internal/strictjson"
)

// metaWrites returns all methods that write metadata, by name.
func (f *fixture) metaWrites(device string) map[string]func(map[string]any) error {
	made := 0
	return map[string]func(map[string]any) error{
		"PatchDeviceMeta":   func(m map[string]any) error { return f.patchDeviceMeta(device, m) },
		"PatchUserMeta":     func(m map[string]any) error { return f.PatchUserMeta(f.ctx, f.owner.ID, device, m) },
		"ReplaceDeviceMeta": func(m map[string]any) error { return f.ReplaceDeviceMeta(f.ctx, device, m) },
		"ReplaceUserMeta":   func(m map[string]any) error { return f.ReplaceUserMeta(f.ctx, f.owner.ID, device, m) },
		"CreateDevice": func(m map[string]any) error {
			made++
			d := plain(fmt.Sprint("made ", made), f.owner.ID, fmt.Sprint("made-", made))
			d.UserMeta = m
			_, err := f.CreateDevice(f.ctx, d, store.Hash{1})
			return err
		},
		"CreateJoinToken": func(m map[string]any) error {
			made++
			t := JoinToken(f.owner.ID, fmt.Sprint("made ", made), 0)
			t.DefaultUserMeta = m
			return f.CreateJoinToken(f.ctx, t)
		},
	}
}

func (f *fixture) patchDeviceMeta(device string, m map[string]any) error {
	patch, err := store.NewMetaPatch(m)
	if err != nil {
		return err
	}
	return f.PatchDeviceMeta(f.ctx, device, patch)
}

// nested returns arrays that are nested `levels` deep.
func nested(levels int) any {
	var v any = []any{}
	for range levels - 1 {
		v = []any{v}
	}
	return v
}

func metaThatCannotBeShown(f *fixture) {
	d := f.onboard(Machine{Name: "one"}, f.token)
	for name, write := range f.metaWrites(d.ID) {
		f.must(write(map[string]any{"deepest": nested(strictjson.MaxStorableDepth - 1)}))
		for _, value := range []any{nested(strictjson.MaxStorableDepth), nested(9998), json.Number("1e400"), []any{json.Number("-1e400")}} {
			var refused *store.MetaError
			if err := write(map[string]any{"good": "x", "bad": value}); !errors.As(err, &refused) || refused.Name != "bad" {
				f.Errorf("%s of %.40v: %v", name, value, err)
			}
		}
		f.refused(write(map[string]any{"large": strings.Repeat("x", store.MaxMeta)}), store.ErrTooLarge)
	}
	d, err := f.Device(f.ctx, d.ID)
	f.must(err)
	want := map[string]any{"deepest": nested(strictjson.MaxStorableDepth - 1)}
	equal(f, "user-meta", d.UserMeta, want)
	equal(f, "device-meta", d.DeviceMeta, want)
}

func numbersStayAsWritten(f *fixture) {
	d := f.onboard(Machine{Name: "one"}, f.token)
	numbers := map[string]any{"n": []any{json.Number("9007199254740993"), json.Number("0.10"), json.Number("-0"), json.Number("1E5"), json.Number("1e-400"), json.Number("18446744073709551616")}}
	for _, write := range f.metaWrites(d.ID) {
		f.must(write(numbers))
	}
	d, err := f.Device(f.ctx, d.ID)
	f.must(err)
	equal(f, "user-meta", d.UserMeta, numbers)
	equal(f, "device-meta", d.DeviceMeta, numbers)
	tokens, err := f.JoinTokens(f.ctx, f.owner.ID)
	f.must(err)
	found := 0
	for _, t := range tokens {
		if t.DefaultUserMeta["n"] != nil {
			equal(f, "default-user-meta", t.DefaultUserMeta, numbers)
			found++
		}
	}
	equal(f, "tokens", found, 1)
}

// half is a text of MaxMeta/2 bytes. Metadata with two such values exceeds MaxMeta, because keys
// and quotes also count.
var half = strings.Repeat("<", store.MaxMeta/2) // JSON does not escape "<" here, so the text keeps its length

func metaBound(f *fixture) {
	d := f.onboard(Machine{Name: "one"}, f.token)
	f.must(f.PatchUserMeta(f.ctx, f.owner.ID, d.ID, map[string]any{"a": half}))
	f.refused(f.PatchUserMeta(f.ctx, f.owner.ID, d.ID, map[string]any{"b": half}), store.ErrTooLarge)
	// If one patch removes a large member and adds another large member, the result fits.
	f.must(f.PatchUserMeta(f.ctx, f.owner.ID, d.ID, map[string]any{"a": nil, "b": half}))
	f.must(f.PatchUserMeta(f.ctx, f.owner.ID, d.ID, map[string]any{"b": half}))
	d, err := f.Device(f.ctx, d.ID)
	f.must(err)
	equal(f, "user-meta", d.UserMeta, map[string]any{"b": half})
}

// Each write checks the bound in its own transaction, so concurrent writes cannot exceed the bound
// together.
func writesOfMetas(f *fixture) {
	d := f.onboard(Machine{Name: "one"}, f.token)
	var mu sync.Mutex
	outcomes := map[string]map[error]int{"device": {}, "user": {}}
	var run []func()
	for i := range 24 {
		patch := map[string]any{fmt.Sprint("key ", i): half}
		for half, write := range map[string]func() error{
			"device": func() error { return f.patchDeviceMeta(d.ID, patch) },
			"user": func() error {
				if i%3 == 0 { // a replacement always fits, because it removes the old metadata
					return f.ReplaceUserMeta(f.ctx, f.owner.ID, d.ID, patch)
				}
				return f.PatchUserMeta(f.ctx, f.owner.ID, d.ID, patch)
			},
		} {
			run = append(run, func() {
				err := write()
				mu.Lock()
				defer mu.Unlock()
				outcomes[half][err]++
			})
		}
	}
	together(run...)
	equal(f, "patches of device-meta", fmt.Sprint(outcomes["device"]), fmt.Sprint(map[error]int{nil: 1, store.ErrTooLarge: 23}))
	d, err := f.Device(f.ctx, d.ID)
	f.must(err)
	for name, m := range map[string]map[string]any{"device-meta": d.DeviceMeta, "user-meta": d.UserMeta} {
		if text, err := store.EncodeMeta(m); err != nil || len(m) != 1 {
			f.Errorf("%s: %d members, %d bytes, %v", name, len(m), len(text), err)
		}
	}
	if n := outcomes["user"]; n[nil] < 8 || n[nil]+n[store.ErrTooLarge] != 24 {
		f.Errorf("user-meta: %v", n)
	}
}
