package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/internal/strictjson"
)

// Bounds of the tables in the tab "Metadata".
const (
	metaRows  = 300
	metaValue = 400 // characters
	metaName  = 200 // characters
	// metaBytes bounds the size of each table on the page, in bytes. metaText bounds the size of
	// the text in the editor, in bytes on the page.
	metaBytes = 15 << 10
	metaText  = 15 << 10
)

// fillMeta fills the tab "Metadata".
func (s *Server) fillMeta(_ *http.Request, v *deviceView) error {
	d := v.Device
	m := &ui.DeviceMeta{Max: store.MaxMeta, Was: metaHash(d.UserMeta), Unreadable: d.Unreadable}
	m.User, m.MoreUser, m.UserSize = tableOf(d.UserMeta, 600) // each row has a form
	m.Reported, m.MoreReported, m.ReportedSize = tableOf(d.DeviceMeta, 150)
	m.SetText(indented(d.UserMeta), metaText)
	v.Meta = m
	return nil
}

// tableOf returns the first keys of user-meta or device-meta with their values, the number of
// further keys, and the size of all keys and values in bytes. `around` is the number of bytes that
// a row needs on the page besides its texts.
func tableOf(m map[string]any, around int) (rows []ui.MetaRow, more, size int) {
	if text, err := store.CompactJSON(orEmpty(m)); err == nil {
		size = len(text)
	}
	names, weight := slices.Sorted(maps.Keys(m)), 0
	for _, name := range names[:min(len(names), metaRows)] {
		text, isText := m[name].(string)
		if !isText {
			if b, err := store.CompactJSON(m[name]); err == nil {
				text = b
			}
		}
		row := ui.MetaRow{Name: name, Value: ui.VisibleLines(clipRunes(text, metaValue))}
		row.Cut, row.LongName = len([]rune(text)) > metaValue, ui.Weight(name) > metaName
		if weight += around + 2*ui.Weight(clipRunes(name, metaName)) + ui.Weight(row.Value); weight > metaBytes {
			break
		}
		rows = append(rows, row)
	}
	return rows, len(names) - len(rows), size
}

// indented returns metadata as JSON with a line for each key. It escapes characters that are
// invisible or that reorder text, so that the form sends exactly the text that the person sees.
func indented(m map[string]any) string {
	text, err := store.CompactJSON(orEmpty(m))
	if err != nil {
		return ""
	}
	var b bytes.Buffer
	if json.Indent(&b, []byte(text), "", "  ") != nil {
		return ""
	}
	return escapeHidden(b.String())
}

// escapeHidden writes the hidden characters of a JSON text as JSON escapes, such as \u202e. These
// are the characters that ui.Visible would replace. The meaning of the JSON text stays the same.
func escapeHidden(text string) string {
	var b bytes.Buffer
	for _, r := range text {
		if r == '\n' || ui.Visible(string(r)) == string(r) {
			b.WriteRune(r)
			continue
		}
		if r > 0xffff {
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
			continue
		}
		fmt.Fprintf(&b, `\u%04x`, r)
	}
	return b.String()
}

// metaHash returns a hash of metadata. An edit compares two hashes to find out whether the metadata
// has changed since the page was shown.
func metaHash(m map[string]any) string {
	text, err := store.CompactJSON(orEmpty(m))
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
}

var errMetaChanged = problem(http.StatusConflict, "meta-changed", "Compare your text with the stored metadata, which is in the table, and save it again.", "Somebody changed the metadata while you edited it.")

// editMetaOnPage changes the user-meta: it sets or removes one key, merges a JSON object, or
// replaces all keys. After an error the page shows the typed text again.
func (s *Server) editMetaOnPage(w http.ResponseWriter, r *http.Request) error {
	d, err := s.deviceOfForm(r)
	if err != nil {
		return err
	}
	act := r.PostFormValue("act")
	if r.PostFormValue(undoField) != "" {
		act = "undo"
	}
	said, err := s.editMeta(r, d, act)
	if err == nil {
		s.countUserMetaChange(r, d)
		return s.redirect(w, r, tabPath(d.ID, tabMeta), undoOfKey(d, act, r.PostFormValue("key"), ui.Notice{Tone: "ok", Text: said}))
	}
	text, status, ok := s.formProblem(r, err)
	if !ok {
		return err
	}
	return s.renderDevice(w, r, status, d, tabMeta, func(p *ui.DevicePage) {
		m := p.Meta
		if act == "merge" || act == "replace" {
			m.SetText(r.PostFormValue("text"), metaText)
			m.Problem, m.Replace = text, act == "replace"
			return
		}
		m.Key, m.Value, m.KeyProblem = r.PostFormValue("key"), r.PostFormValue("value"), text
	})
}

// editMeta makes one change of the user-meta, and returns a sentence about the change for the
// notice.
func (s *Server) editMeta(r *http.Request, d store.Device, act string) (said string, err error) {
	key := r.PostFormValue("key")
	switch act {
	case "set", "remove":
		if key == "" {
			return "", problem(http.StatusBadRequest, "meta-key", "Type a key, such as site.", "The key is empty.")
		}
		patch := map[string]any{key: nil}
		said = fmt.Sprintf("The key %q is removed.", ui.Visible(key))
		if act == "set" {
			said = fmt.Sprintf("The key %q is set.", ui.Visible(key))
			if patch[key], err = typedValue(r); err != nil {
				return "", err
			}
		}
		return said, s.cfg.Store.PatchUserMeta(r.Context(), d.Owner, d.ID, patch)
	case "merge", "replace", "undo":
		var m map[string]any
		if err := strictjson.Decode([]byte(typedOrUndone(r, "text")), &m); err != nil {
			return "", problem(http.StatusBadRequest, "meta-malformed", `Write a JSON object, such as {"site": "oslo"}.`, "The text cannot be read: %v.", err)
		}
		if m == nil {
			m = map[string]any{}
		}
		switch act {
		case "undo":
			return "The key has its earlier value again.", s.cfg.Store.PatchUserMeta(r.Context(), d.Owner, d.ID, m)
		case "merge":
			return "The metadata is merged.", s.cfg.Store.PatchUserMeta(r.Context(), d.Owner, d.ID, m)
		}
		if r.PostFormValue("was") != metaHash(d.UserMeta) {
			return "", errMetaChanged
		}
		return "The metadata is replaced.", s.cfg.Store.ReplaceUserMeta(r.Context(), d.Owner, d.ID, dropNulls(m))
	}
	return "", problem(http.StatusBadRequest, "meta-act", "Reload the page.", "The form does not say what to do.")
}

// maxUndo bounds the undo value of a notice, in bytes, because the notice is in a cookie.
const maxUndo = 1024

// undoOfKey adds an undo to a notice. The undo restores the earlier value of a key. If the earlier
// value is longer than maxUndo, the notice has no undo.
func undoOfKey(d store.Device, act, key string, n ui.Notice) ui.Notice {
	if act != "set" && act != "remove" {
		return n
	}
	was, err := store.CompactJSON(map[string]any{key: d.UserMeta[key]})
	if err == nil && len(was) <= maxUndo {
		n.UndoPath, n.UndoValue = devicePath(d.ID)+"/metadata", was
	}
	return n
}

// typedValue reads the value of one key. If the form's checkbox "json" is set, the value is JSON.
// If not, the value is a text.
func typedValue(r *http.Request) (any, error) {
	text := r.PostFormValue("value")
	if r.PostFormValue("json") == "" {
		return text, nil
	}
	var m map[string]any
	if err := strictjson.Decode([]byte(`{"value":`+text+`}`), &m); err != nil || len(m) != 1 {
		return nil, problem(http.StatusBadRequest, "meta-malformed", "Write JSON, such as 5 or [\"a\", \"b\"], or store it as a text.", "The value is not JSON.")
	}
	return m["value"], nil
}
