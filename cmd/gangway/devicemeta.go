package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"gangway/hub/api"
	"gangway/internal/strictjson"

	"github.com/spf13/cobra"
)

// metaRow is a row of 'gangway device meta': a key of the metadata, with its value.
type metaRow struct {
	from, key string
	value     any
}

// metaColumns are the columns of 'gangway device meta'.
var metaColumns = []column[metaRow]{
	{name: "set-by", cell: func(r metaRow) string { return r.from }, whole: true},
	{name: "key", cell: func(r metaRow) string { return r.key }},
	{name: "value", cell: func(r metaRow) string { return valueWords(r.value) }},
}

// deviceMeta is the JSON output of 'gangway device meta'.
type deviceMeta struct {
	Device   string         `json:"device"`
	Nick     string         `json:"nick"`
	User     map[string]any `json:"user-meta"`
	Reported map[string]any `json:"device-meta"`
}

// valueWords returns a metadata value as text: a string without quotes, other values as JSON.
func valueWords(v any) string {
	if text, ok := v.(string); ok {
		return text
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

func (a *app) deviceMeta() *cobra.Command {
	c := &cobra.Command{
		Use: "meta ID|NICK", Short: "Show a device's metadata", Args: args("the device's id or nick"),
		Long: `Meta shows a device's metadata: the keys that its owner set (user-meta) and those that
the device reports (device-meta). 'gangway device set' changes the owner's keys.
Passwords in network settings are masked.`,
		Example: "  gangway device meta oslo-gate-1\n  gangway device meta oslo-gate-1 --output json",
		RunE: func(c *cobra.Command, arg []string) error {
			d, err := findDevice(c.Context(), arg[0])
			if err != nil {
				return err
			}
			maskNetworks(d)
			if done, err := a.json(deviceMeta{d.ID, d.Nick, d.UserMeta, d.DeviceMeta}); done {
				return err
			}
			var rows []metaRow
			for _, key := range slices.Sorted(maps.Keys(d.UserMeta)) {
				rows = append(rows, metaRow{"owner", key, d.UserMeta[key]})
			}
			for _, key := range slices.Sorted(maps.Keys(d.DeviceMeta)) {
				rows = append(rows, metaRow{"device", key, d.DeviceMeta[key]})
			}
			return printList(a, rows, metaColumns, d.Nick+" has no metadata. Set a key:\n  gangway device set "+d.Nick+" site=oslo")
		},
	}
	return a.table(c, columnNames(metaColumns)...)
}

// metaChange is one changed key of the metadata, in the output of 'gangway device set'.
type metaChange struct {
	Key string `json:"key"`
	Was any    `json:"was"` // nil: the key did not exist
	Now any    `json:"now"` // nil: the key is removed
}

func (a *app) deviceSet() *cobra.Command {
	var asJSON bool
	var expected []string
	c := &cobra.Command{
		Use: "set ID|NICK KEY=VALUE|KEY-...", Short: "Set or remove keys of a device's metadata",
		Long: `Set changes keys of a device's user-meta: KEY=VALUE sets a key, and KEY- removes it.
Only the named keys change. Keys that another person sets at the same time stay. The
hub applies all changes or none, and set prints each key's value before and after.

A value is text. With --json, each value is JSON instead, such as 5, true or
["a", "b"]. Search for devices by a key with 'gangway device ls meta.KEY=VALUE'.

With --if KEY=VALUE, the hub makes the change only if the key still has this value, and
with --if KEY-, only if the key does not exist. Otherwise nothing changes, and the exit
code is not 0.`,
		Example: `  gangway device set oslo-gate-1 site=oslo rack=7
  gangway device set oslo-gate-1 rack-
  gangway device set oslo-gate-1 owner=ada --if owner-
  gangway device set oslo-gate-1 --json ports='[80, 443]'`,
		Args: func(_ *cobra.Command, got []string) error {
			switch len(got) {
			case 0:
				return usagef("the device's id or nick is missing")
			case 1:
				return usagef("the change is missing: KEY=VALUE sets a key, KEY- removes it")
			}
			return nil
		},
		RunE: func(c *cobra.Command, arg []string) error {
			patch, err := readChanges(arg[1:], asJSON)
			if err != nil {
				return err
			}
			was, err := readChanges(expected, asJSON)
			if err != nil {
				return err
			}
			d, err := findDevice(c.Context(), arg[0])
			if err != nil {
				return err
			}
			return a.setMeta(c.Context(), d, was, patch)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "read each value as JSON (default: as text)")
	c.Flags().StringArrayVar(&expected, "if", nil, "make the change only if KEY still has the value VALUE (KEY=VALUE), or only if KEY does not exist (KEY-); repeatable")
	return c
}

// readChanges parses arguments of the forms KEY=VALUE and KEY-. A removed key has the value nil.
func readChanges(words []string, asJSON bool) (map[string]any, error) {
	patch := map[string]any{}
	for _, word := range words {
		key, text, sets := strings.Cut(word, "=")
		if !sets {
			if !strings.HasSuffix(word, "-") {
				return nil, usagef("%q is neither KEY=VALUE, which sets a key, nor KEY-, which removes it", word)
			}
			key = strings.TrimSuffix(word, "-")
		}
		var value any
		switch {
		case key == "":
			return nil, usagef("%q has no key: write KEY=VALUE or KEY-", word)
		case key == networkMeta:
			return nil, usagef("the key %s contains the network settings, and a mistake could disconnect the device: change the settings with 'gangway device network'", networkMeta)
		case sets && asJSON:
			var err error
			if value, err = jsonValue(text); err != nil {
				return nil, usagef("the value of %q is not JSON: write 5, true, \"text\" or [\"a\", \"b\"]; without --json, each value is taken as text", key)
			}
			if value == nil {
				return nil, usagef("the value null would remove the key; to remove it, write %s-", key)
			}
		case sets:
			value = text
		}
		if _, twice := patch[key]; twice {
			return nil, usagef("the arguments have the key %q twice: remove one of them", key)
		}
		patch[key] = value
	}
	return patch, nil
}

func jsonValue(text string) (any, error) {
	var m map[string]any
	if err := strictjson.Decode([]byte(`{"value":`+text+`}`), &m); err != nil {
		return nil, err
	}
	if len(m) != 1 {
		return nil, errors.New("more than one value")
	}
	return m["value"], nil
}

func (a *app) setMeta(ctx context.Context, d api.DeviceView, was, patch map[string]any) error {
	path := "/devices/" + d.ID + "/user-meta"
	if len(was) > 0 {
		text, err := json.Marshal(was)
		if err != nil {
			return err
		}
		path += "?was=" + url.QueryEscape(string(text))
	}
	if _, err := call[map[string]any](ctx, http.MethodPatch, path, patch); err != nil {
		return err
	}
	changes := []metaChange{}
	for _, key := range slices.Sorted(maps.Keys(patch)) {
		changes = append(changes, metaChange{key, d.UserMeta[key], patch[key]})
	}
	if done, err := a.json(changes); done {
		return err
	}
	for _, ch := range changes {
		switch {
		case ch.Now == nil && ch.Was == nil:
			a.printf("%s: was not set\n", ch.Key)
		case ch.Now == nil:
			a.printf("%s: removed (was %s)\n", ch.Key, valueWords(ch.Was))
		case ch.Was == nil:
			a.printf("%s: %s (new)\n", ch.Key, valueWords(ch.Now))
		case valueWords(ch.Was) == valueWords(ch.Now):
			a.printf("%s: %s (unchanged)\n", ch.Key, valueWords(ch.Now))
		default:
			a.printf("%s: %s (was %s)\n", ch.Key, valueWords(ch.Now), valueWords(ch.Was))
		}
	}
	return nil
}
