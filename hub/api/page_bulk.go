package api

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/wire"
)

const (
	// bulkDevices bounds the devices of one action, so that their ids fit into a form.
	bulkDevices = store.MaxCount
	// Bounds of a label that a bulk action sets, in bytes.
	maxLabelKey, maxLabelValue = 64, 256
	// The hub keeps data with which a person can undo bulk actions. These bounds limit the data's
	// age, its size in bytes for each action, and the number of actions.
	undoLife  = 10 * time.Minute
	undoBytes = 1 << 20
	undoActs  = 64
)

// bulkAct is an action on several devices. No action moves devices to another owner, because the
// hub cannot change a device's owner.
type bulkAct struct {
	name, title, button string
	// The function `lost` returns a sentence about the effect of the action on `n` devices.
	lost func(n int) string
}

var bulkActs = []bulkAct{
	{"label", "Label devices", "Set the label", func(n int) string {
		return fmt.Sprintf("A label is a key and a value in the user-meta. The hub sets the label for %s. You can undo this for ten minutes, or until you set another label.", counted(n, "device"))
	}},
	{"boot", "Request boot measurements", "Request the measurements", func(n int) string {
		return fmt.Sprintf("%s: each device gets the request with its next report, and then measures its boot.", upperFirst(counted(n, "device")))
	}},
	{"delete", "Delete devices", "Delete the devices", func(n int) string {
		return fmt.Sprintf("The certificates of %s are revoked at once, and their trails, logs, metadata and boot measurements are no longer available. The audit trail keeps their events. This cannot be undone.", counted(n, "device"))
	}},
}

var errBulkAct = problem(http.StatusBadRequest, "bulk-act", "Use the buttons below the list.", "The hub does not have this action for several devices.")

func actNamed(name string) (bulkAct, error) {
	i := slices.IndexFunc(bulkActs, func(a bulkAct) bool { return a.name == name })
	if i < 0 {
		return bulkAct{}, errBulkAct
	}
	return bulkActs[i], nil
}

// confirmWords returns the words that a person must type before devices are deleted, or "" for
// other actions.
func (a bulkAct) confirmWords(n int) string {
	if a.name != "delete" {
		return ""
	}
	return fmt.Sprintf("delete %d", n)
}

// previewBulk shows the devices that an action would change. It changes nothing.
func (s *Server) previewBulk(w http.ResponseWriter, r *http.Request) error {
	params := r.URL.Query()
	act, err := actNamed(params.Get("act"))
	if err != nil {
		return err
	}
	back := readBack(params.Get("back"))
	var rows []store.DeviceRow
	more := 0
	if params.Get("all") != "" {
		rows, more, err = s.allThatFit(r, back)
	} else {
		rows, err = s.ownRows(r, params["id"])
	}
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return s.redirect(w, r, back.path(), ui.Notice{Tone: "warn", Text: "No device is selected. Select devices with their checkboxes, then choose an action."})
	}
	return s.renderBulk(w, r, http.StatusOK, act, ui.Bulk{Rows: rows, More: more, Back: back.encode()})
}

func (s *Server) renderBulk(w http.ResponseWriter, r *http.Request, status int, act bulkAct, b ui.Bulk) error {
	b.Act, b.Title, b.Button, b.Lost, b.Confirm = act.name, act.title, act.button, act.lost(len(b.Rows)), act.confirmWords(len(b.Rows))
	return s.renderPage(w, r, status, "bulk", ui.Page{Title: act.title, Section: ui.SectionDevices, Data: b})
}

// allThatFit returns at most bulkDevices devices that match a search, and the number of further
// matches.
func (s *Server) allThatFit(r *http.Request, q listQuery) (rows []store.DeviceRow, more int, err error) {
	find, err := s.deviceSearch(r.Context(), accountOf(r).ID, q.text, q.sort)
	if err != nil {
		return nil, 0, err
	}
	n, err := s.cfg.Store.CountSearch(r.Context(), find)
	if err != nil {
		return nil, 0, err
	}
	find.Limit = bulkDevices
	for pages := 0; len(rows) < bulkDevices && pages < 20; pages++ {
		page, err := s.cfg.Store.SearchDevices(r.Context(), find)
		if err != nil {
			return nil, 0, err
		}
		rows = append(rows, page.Rows...)
		if find.After = page.Next; page.Next == "" {
			break
		}
	}
	rows = rows[:min(len(rows), bulkDevices)]
	return rows, max(0, n.N-len(rows)), nil
}

// ownRows finds devices of the account by their ids. It ignores ids of other accounts' devices, and
// ids that do not exist.
func (s *Server) ownRows(r *http.Request, ids []string) (rows []store.DeviceRow, err error) {
	if len(ids) > bulkDevices {
		ids = ids[:bulkDevices]
	}
	owner, seen := accountOf(r).ID, map[string]bool{}
	for _, id := range ids {
		if !wire.IsID(id) || seen[id] {
			continue
		}
		seen[id] = true
		d, err := s.cfg.Store.Device(r.Context(), id)
		if errors.Is(err, store.ErrNotFound) || err == nil && d.Owner != owner {
			continue
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, store.DeviceRow{Device: d, Rev: -1})
	}
	return rows, nil
}

// doBulk applies an action to the devices that the preview showed.
func (s *Server) doBulk(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	form := r.PostForm
	act, err := actNamed(form.Get("act"))
	if err != nil {
		return err
	}
	rows, err := s.ownRows(r, strings.Fields(strings.Join(form["id"], " ")))
	if err != nil {
		return err
	}
	back := readBack(form.Get("back"))
	if len(rows) == 0 {
		return s.redirect(w, r, back.path(), ui.Notice{Tone: "warn", Text: "The devices do not exist any more. Nothing was changed."})
	}
	b := ui.Bulk{Rows: rows, Back: back.encode(), Key: form.Get("key"), Value: form.Get("value")}
	if act.name == "label" {
		b.KeyProblem, b.ValueProblem = labelProblems(b.Key, b.Value)
	}
	if want := act.confirmWords(len(rows)); want != "" && form.Get("confirm") != want {
		b.ConfirmProblem = fmt.Sprintf("Type exactly “%s”. Nothing was deleted.", want)
	}
	if b.KeyProblem != "" || b.ValueProblem != "" || b.ConfirmProblem != "" {
		return s.renderBulk(w, r, http.StatusBadRequest, act, b)
	}
	n, undo, err := s.actOn(r, act, rows, b.Key, b.Value)
	if err != nil && n == 0 {
		return err
	}
	return s.redirect(w, r, back.path(), s.bulkNotice(act, n, len(rows), undo, err))
}

// labelProblems returns the problems of a label's key and value, in words. A text is empty if there
// is no problem.
func labelProblems(key, value string) (ofKey, ofValue string) {
	switch {
	case key == "":
		ofKey = "Type a name, such as site."
	case len(key) > maxLabelKey:
		ofKey = fmt.Sprintf("Use a name of at most %d bytes.", maxLabelKey)
	case ui.Visible(key) != key:
		ofKey = "Use a name without control characters."
	}
	switch {
	case len(value) > maxLabelValue:
		ofValue = fmt.Sprintf("Use a value of at most %d bytes.", maxLabelValue)
	case ui.Visible(value) != value:
		ofValue = "Use a value without control characters."
	}
	return ofKey, ofValue
}

func (s *Server) bulkNotice(act bulkAct, n, of int, undo string, err error) ui.Notice {
	done := map[string]string{"label": "The label of %s is set.", "boot": "%s will measure the boot after the next report.", "delete": "%s deleted."}[act.name]
	notice := ui.Notice{Tone: "ok", Text: upperFirst(fmt.Sprintf(done, counted(n, "device")))}
	if n < of {
		notice.Tone = "warn"
		notice.Text += fmt.Sprintf(" %s could not be changed.", upperFirst(counted(of-n, "device")))
	}
	if err != nil {
		s.log.Error("an action on several devices stopped", "action", act.name, "done", n, "of", of, "err", err)
	}
	if undo != "" {
		notice.UndoPath, notice.UndoValue = "/ui/bulk/undo", undo
	}
	return notice
}

// actOn applies an action to each device in turn, and stops at the first failure of the store. `n`
// is the number of changed devices. `undo` is the name under which undos.keep
// stored the action, or "" if the action cannot be undone.
func (s *Server) actOn(r *http.Request, act bulkAct, rows []store.DeviceRow, key, value string) (n int, undo string, err error) {
	ctx, owner := r.Context(), accountOf(r).ID
	var before *labelUndo
	if act.name == "label" {
		before = &labelUndo{owner: owner, key: key, set: labelValue(value), was: map[string]any{}}
		defer func() { undo = s.undos.keep(before, s.cfg.Now()) }()
	}
	for i := range rows {
		d := rows[i].Device
		switch act.name {
		case "label":
			err = s.cfg.Store.PatchUserMeta(ctx, owner, d.ID, map[string]any{key: labelValue(value)})
		case "boot":
			err = s.askForBoot(r, d)
		case "delete":
			now := s.cfg.Now()
			if err = s.cfg.Store.DeleteDevice(ctx, owner, d.ID, now); err == nil {
				s.record(ctx, deviceDeleted(d, now))
			}
		}
		var meta *store.MetaError
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrTooLarge) || errors.As(err, &meta) {
			continue // this device cannot be changed; the others can
		}
		if err != nil {
			return n, undo, err
		}
		if before != nil {
			before.was[d.ID] = d.UserMeta[key]
			s.countUserMetaChange(r, d)
		}
		n++
	}
	return n, undo, nil
}

// labelValue returns the JSON value of a label's text. For an empty text it returns nil, which
// removes the key.
func labelValue(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// labelUndo has the values that a bulk action replaced when it set a label of devices.
type labelUndo struct {
	owner, key string
	set        any            // the value that the label set
	was        map[string]any // the replaced values by device id; nil: the key did not exist
	until      time.Time
}

// undos keeps in memory the values that the last bulk actions replaced when they set labels.
// Another hub with the same database does not have these values, and a restart of the hub removes
// them. undoBulk then says that the label cannot be undone.
type undos struct {
	mu   sync.Mutex
	acts map[string]*labelUndo
}

// The method `keep` stores an action and returns a random name, by which the method `take` finds
// the action. If the replaced values are too large, the method stores nothing and returns "".
func (u *undos) keep(act *labelUndo, now time.Time) string {
	text, err := json.Marshal(act.was)
	if err != nil || len(text) > undoBytes || len(act.was) == 0 {
		return ""
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.acts == nil {
		u.acts = map[string]*labelUndo{}
	}
	oldest := ""
	for name, one := range u.acts {
		if one.owner == act.owner || now.After(one.until) {
			delete(u.acts, name) // an account can undo only its last action
		} else if oldest == "" || one.until.Before(u.acts[oldest].until) {
			oldest = name
		}
	}
	if len(u.acts) >= undoActs {
		delete(u.acts, oldest)
	}
	act.until = now.Add(undoLife)
	name := rand.Text()
	u.acts[name] = act
	return name
}

// The method `take` returns and removes an account's action. It returns nil if the action is
// unknown or too old.
func (u *undos) take(owner, name string, now time.Time) *labelUndo {
	u.mu.Lock()
	defer u.mu.Unlock()
	act := u.acts[name]
	if act == nil || act.owner != owner || now.After(act.until) {
		return nil
	}
	delete(u.acts, name)
	return act
}

// undoBulk undoes the account's last setting of a label. It does not change a device on which the
// label has got another value since.
func (s *Server) undoBulk(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	act := s.undos.take(accountOf(r).ID, r.PostForm.Get("undo"), s.cfg.Now())
	if act == nil {
		return s.redirect(w, r, "/ui/devices", ui.Notice{Tone: "warn", Text: "The label cannot be undone, because ten minutes have passed or because you set another label after it."})
	}
	n := 0
	for id, was := range act.was {
		d, err := s.cfg.Store.Device(r.Context(), id)
		if errors.Is(err, store.ErrNotFound) || err == nil && (d.Owner != act.owner || !reflect.DeepEqual(d.UserMeta[act.key], act.set)) {
			continue
		}
		if err == nil {
			err = s.cfg.Store.PatchUserMeta(r.Context(), act.owner, id, map[string]any{act.key: was})
		}
		if err != nil {
			return err
		}
		s.countUserMetaChange(r, d)
		n++
	}
	text := fmt.Sprintf("The label of %s has its earlier value again.", counted(n, "device"))
	if rest := len(act.was) - n; rest > 0 {
		keeps := "keep"
		if rest == 1 {
			keeps = "keeps"
		}
		text += fmt.Sprintf(" %s changed in the meantime and %s the new value.", upperFirst(counted(rest, "device")), keeps)
	}
	return s.redirect(w, r, "/ui/devices", ui.Notice{Tone: "ok", Text: text})
}
