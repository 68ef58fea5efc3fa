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
	// bulkDevices bounds the devices of one act. Their ids fit into a form.
	bulkDevices = store.MaxCount
	// Bounds of a label that a bulk act sets.
	maxLabelKey, maxLabelValue = 64, 256
	// What the hub remembers to take acts back: for how long, how much of each, and how many.
	undoLife  = 10 * time.Minute
	undoBytes = 1 << 20
	undoActs  = 64
)

// bulkAct is an act on several devices. Moving devices to another owner is not offered: the hub has
// no act that changes a device's owner.
type bulkAct struct {
	name, title, button string
	// lost says what the act does to n devices.
	lost func(n int) string
}

var bulkActs = []bulkAct{
	{"label", "Label devices", "Set the label", func(n int) string {
		return fmt.Sprintf("A member of the user-meta of %s is set. The last act of this kind can be taken back.", counted(n, "device"))
	}},
	{"boot", "Request boot measurements", "Request the measurements", func(n int) string {
		return fmt.Sprintf("%s: each gets the request with its next report and measures its boot.", upperFirst(counted(n, "device")))
	}},
	{"delete", "Delete devices", "Delete the devices", func(n int) string {
		return fmt.Sprintf("The certificates of %s are revoked at once, and their trails, logs, metadata and boot measurements are no longer available. The audit trail keeps their events. This cannot be taken back.", counted(n, "device"))
	}},
}

var errBulkAct = problem(http.StatusBadRequest, "bulk-act", "Use the buttons of the list.", "There is no such act on several devices.")

func actNamed(name string) (bulkAct, error) {
	i := slices.IndexFunc(bulkActs, func(a bulkAct) bool { return a.name == name })
	if i < 0 {
		return bulkAct{}, errBulkAct
	}
	return bulkActs[i], nil
}

// confirmWords are what a person types before devices are deleted.
func (a bulkAct) confirmWords(n int) string {
	if a.name != "delete" {
		return ""
	}
	return fmt.Sprintf("delete %d", n)
}

// previewBulk shows which devices an act reaches. It changes nothing.
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
		return s.redirect(w, r, back.path(), ui.Notice{Tone: "warn", Text: "No device is selected. Select some with their boxes, then choose an act."})
	}
	return s.renderBulk(w, r, http.StatusOK, act, ui.Bulk{Rows: rows, More: more, Back: back.encode()})
}

func (s *Server) renderBulk(w http.ResponseWriter, r *http.Request, status int, act bulkAct, b ui.Bulk) error {
	b.Act, b.Title, b.Button, b.Lost, b.Confirm = act.name, act.title, act.button, act.lost(len(b.Rows)), act.confirmWords(len(b.Rows))
	return s.renderPage(w, r, status, "bulk", ui.Page{Title: act.title, Section: ui.SectionDevices, Data: b})
}

// allThatFit finds the devices of a search, at most bulkDevices, and how many more fit.
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

// ownRows finds devices of the account by their ids. Ids of other devices are left out, as if they
// did not exist.
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

// doBulk does an act on the devices that the preview showed.
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
		return s.redirect(w, r, back.path(), ui.Notice{Tone: "warn", Text: "The devices no longer exist. Nothing was changed."})
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

// labelProblems says what is wrong with a label.
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
	done := map[string]string{"label": "The label of %s is set.", "boot": "%s will measure the boot with the next report.", "delete": "%s deleted."}[act.name]
	notice := ui.Notice{Tone: "ok", Text: upperFirst(fmt.Sprintf(done, counted(n, "device")))}
	if n < of {
		notice.Tone = "warn"
		notice.Text += fmt.Sprintf(" %s could not be changed, and stayed as before.", upperFirst(counted(of-n, "device")))
	}
	if err != nil {
		s.log.Error("an act on several devices stopped", "act", act.name, "done", n, "of", of, "err", err)
	}
	if undo != "" {
		notice.UndoPath, notice.UndoValue = "/ui/bulk/undo", undo
	}
	return notice
}

// actOn does an act on each device in turn, and stops at the first failure of the store. n is the
// number of changed devices.
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

// labelValue is the value of a member that a label sets; nil removes the member.
func labelValue(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// labelUndo is what a label replaced.
type labelUndo struct {
	owner, key string
	set        any            // what the label set
	was        map[string]any // by device id; nil: the member did not exist
	until      time.Time
}

// undos keeps, in memory, what the last acts replaced. Another hub of the same database, or a new
// start, does not know them: then the undo says so.
type undos struct {
	mu   sync.Mutex
	acts map[string]*labelUndo
}

// keep remembers an act and returns a name for it, or "" if it replaced too much.
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
			delete(u.acts, name) // an account can take back its last act only
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

// take returns an account's act, and forgets it.
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

// undoBulk takes an account's last label back. A device whose member was changed since keeps it.
func (s *Server) undoBulk(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	act := s.undos.take(accountOf(r).ID, r.PostForm.Get("undo"), s.cfg.Now())
	if act == nil {
		return s.redirect(w, r, "/ui/devices", ui.Notice{Tone: "warn", Text: "This act can no longer be taken back: ten minutes have passed, or there was a later one."})
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
	text := fmt.Sprintf("The label of %s is as it was before.", counted(n, "device"))
	if rest := len(act.was) - n; rest > 0 {
		text += fmt.Sprintf(" %s changed since, and stayed so.", upperFirst(counted(rest, "device")))
	}
	return s.redirect(w, r, "/ui/devices", ui.Notice{Tone: "ok", Text: text})
}
