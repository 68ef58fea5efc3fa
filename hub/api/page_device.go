package api

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/wire/trail"
)

// devicePath returns the address of a device's page.
func devicePath(id string) string { return "/ui/devices/" + id }

// tabPath returns the address of a tab. `pairs` are names and values for the query; empty values
// are omitted.
func tabPath(id, tab string, pairs ...string) string {
	q := url.Values{}
	if tab != tabSummary {
		q.Set("tab", tab)
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	if len(q) == 0 {
		return devicePath(id)
	}
	return devicePath(id) + "?" + q.Encode()
}

// The tabs of a device's page, by their names in the query.
const (
	tabSummary   = "summary"
	tabTrust     = "trust"
	tabBoots     = "boots"
	tabRevisions = "revisions"
	tabMeta      = "metadata"
	tabLogs      = "logs"
	tabEvents    = "events"
	tabSettings  = "settings"
)

// deviceTabs are the tabs in their order. The function `fill` reads the data of a tab. It reads a
// bounded number of rows, even if the hub has much data about the device.
var deviceTabs []deviceTab

type deviceTab struct {
	name, title string
	fill        func(*Server, *http.Request, *deviceView) error
}

func init() {
	deviceTabs = []deviceTab{
		{tabSummary, "Summary", (*Server).fillSummary},
		{tabTrust, "Trust", (*Server).fillTrust},
		{tabBoots, "Boots", (*Server).fillBoots},
		{tabRevisions, "Revisions", (*Server).fillRevisions},
		{tabMeta, "Metadata", (*Server).fillMeta},
		{tabLogs, "Logs", (*Server).fillLogs},
		{tabEvents, "Events", (*Server).fillEvents},
		{tabSettings, "Settings", (*Server).fillSettings},
	}
}

// deviceView is the data of a device's page, and further data that several tabs need.
type deviceView struct {
	*ui.DevicePage
	boot   string          // store.BootState
	newest *store.Revision // the newest revision without its state and meta; nil: the device has no trail
}

// showDevicePage serves the page of a device.
func (s *Server) showDevicePage(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	tab := r.URL.Query().Get("tab")
	if tab == "" {
		tab = tabSummary
	}
	return s.renderDevice(w, r, http.StatusOK, d, tab, nil)
}

// renderDevice answers with a tab of a device's page. If `change` is not nil, it changes the filled
// tab: it adds the text that a person typed, and an error message beside it.
func (s *Server) renderDevice(w http.ResponseWriter, r *http.Request, status int, d store.Device, tab string, change func(*ui.DevicePage)) error {
	for _, one := range deviceTabs {
		if one.name != tab {
			continue
		}
		v, err := s.deviceHead(r, d, tab)
		if err != nil {
			return err
		}
		if err := one.fill(s, r, v); err != nil {
			return err
		}
		if change != nil {
			change(v.DevicePage)
		}
		if part := r.URL.Query().Get("part"); part == "lines" && tab == tabLogs {
			return s.renderPart(w, r, "device", "log-lines", ui.Page{Data: v.DevicePage})
		}
		return s.renderPage(w, r, status, "device", ui.Page{Title: ui.Visible(d.Nick), Section: ui.SectionDevices, Data: v.DevicePage})
	}
	return store.ErrNotFound
}

// deviceHead reads the part of the page that every tab shows: the device's states, and the problems
// that its owner should look at.
func (s *Server) deviceHead(r *http.Request, d store.Device, tab string) (*deviceView, error) {
	ctx := r.Context()
	v := &deviceView{DevicePage: &ui.DevicePage{Device: d, Path: devicePath(d.ID)}}
	for _, one := range deviceTabs {
		v.Tabs = append(v.Tabs, ui.Tab{Name: one.title, Path: tabPath(d.ID, one.name), Current: one.name == tab})
	}
	var err error
	if v.boot, err = s.cfg.Store.BootState(ctx, d.ID); err != nil {
		return nil, err
	}
	heads, err := s.cfg.Store.RevisionHeads(ctx, d.ID, -1, 1)
	if err != nil {
		return nil, err
	}
	if len(heads) > 0 {
		v.newest = &heads[0]
	}
	v.Badges, v.Needs = s.deviceStates(d, v.boot, v.newest)
	for i := range v.Needs {
		v.Needs[i].Here = strings.Contains(v.Needs[i].Path, "tab="+tab)
	}
	return v, nil
}

// deviceStates returns a device's states, and the problems that its owner should look at, the most
// urgent first.
func (s *Server) deviceStates(d store.Device, boot string, newest *store.Revision) (badges []ui.Badge, needs []ui.Need) {
	switch quiet := s.cfg.Now().Sub(d.LastSeen); {
	case d.Clone == store.CloneRefused:
		badges = append(badges, ui.StateBadge("refused"))
	case quiet > store.QuietAfter:
		badges = append(badges, ui.Badge{Tone: "off", Text: "quiet, since " + ui.Ago(s.cfg.Now(), d.LastSeen)})
	default:
		badges = append(badges, ui.StateBadge(store.StateActive))
	}
	switch d.Clone {
	case "":
	case store.CloneRefused:
		needs = append(needs, ui.Need{Tone: "bad", Text: "The hub refuses this device, because several machines run with its TPM's state.", Path: tabPath(d.ID, tabTrust) + "#cloned", Act: "See the decision"})
	default:
		badges = append(badges, ui.StateBadge(store.StateCloned))
		needs = append(needs, ui.Need{Tone: "ask", Text: "Several machines may run with this TPM's state.", Path: tabPath(d.ID, tabTrust) + "#cloned", Act: "Decide"})
	}
	switch boot {
	case store.BootChanged:
		badges = append(badges, ui.StateBadge(store.StateBootChanged))
		needs = append(needs, ui.Need{Tone: "bad", Text: "At least one part of the device's newest boot has changed.", Path: tabPath(d.ID, tabBoots), Act: "See what changed"})
	case store.BootRefused:
		badges = append(badges, ui.Badge{Tone: "bad", Text: "measurement refused"})
		needs = append(needs, ui.Need{Tone: "bad", Text: "The hub refused the device's newest boot measurement.", Path: tabPath(d.ID, tabBoots), Act: "See why"})
	}
	if newest == nil {
		return badges, needs
	}
	rev := strconv.Itoa(newest.Rev)
	switch newest.Status {
	case trail.StatusError, trail.StatusWontGo:
		badges = append(badges, ui.StateBadge(store.StateFailed))
		needs = append(needs, ui.Need{Tone: "bad", Text: "Revision " + rev + " failed: " + ui.Visible(orNothing(trail.ReadReport(newest.Progress).Message)), Path: tabPath(d.ID, tabRevisions, "rev", rev), Act: "See the revision"})
	case trail.StatusDone, trail.StatusUpdated, trail.StatusCancelled:
	default:
		badges = append(badges, ui.StateBadge(store.StateUpdating))
	}
	return badges, needs
}

func orNothing(message string) string {
	if message == "" {
		return "the device did not report a reason."
	}
	return message
}

// deviceOfForm reads the form of a device's page, and finds the device.
func (s *Server) deviceOfForm(r *http.Request) (store.Device, error) {
	if _, err := formField(r, formToken); err != nil {
		return store.Device{}, err
	}
	return s.ownDevice(r)
}

// undoField is the field of the undo form in a notice.
const undoField = "undo"

// typedOrUndone returns the new value of a field. If the form is an undo, this is the value that
// the undo restores. If not, it is the text that the person typed.
func typedOrUndone(r *http.Request, field string) string {
	if undo := r.PostFormValue(undoField); undo != "" {
		return undo
	}
	return r.PostFormValue(field)
}

// orMissing handles the result of a look-up in the store. If err is store.ErrNotFound, it returns
// the zero value, false, and no error. Otherwise it returns v and err, and true if err is nil.
func orMissing[T any](v T, err error) (T, bool, error) {
	if errors.Is(err, store.ErrNotFound) {
		var none T
		return none, false, nil
	}
	return v, err == nil, err
}

// formProblem reports whether the person can correct an error in the form. If so, it returns the
// text that the form shows beside a field, and the status of the answer.
func (s *Server) formProblem(r *http.Request, err error) (text string, status int, ok bool) {
	p := s.knownProblem(r, err)
	if p == nil || p.Status < 400 || p.Status >= 500 || p.Status == http.StatusNotFound {
		return "", 0, false
	}
	return p.Message + " " + p.Hint, p.Status, true
}
