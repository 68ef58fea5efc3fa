package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/wire"
	"gangway/wire/trail"
)

const (
	revisionsPath = "/ui/revisions"
	// revisionRows is the number of revisions on a page of the list.
	revisionRows = 40
)

// The values of ?show=. "underway" and "failed" list the devices whose newest revision is underway
// or has failed; ?q= limits this list to the devices that match a search. "recent" lists all posted
// revisions, newest first.
const (
	showUnderway, showFailed, showRecent = "underway", "failed", "recent"
)

var revisionStates = map[string]string{showUnderway: store.StateUpdating, showFailed: store.StateFailed}

// showRevisions lists the revisions of all devices of an account.
func (s *Server) showRevisions(w http.ResponseWriter, r *http.Request) error {
	p, err := s.revisionsPage(r)
	if text, ok := searchProblem(err); ok {
		p.Problem = text
	} else {
		return err
	}
	status := http.StatusOK
	if p.Problem != "" {
		status = http.StatusBadRequest
	}
	return s.renderPage(w, r, status, "revisions", ui.Page{Title: "Revisions", Section: ui.SectionRevisions, Data: p, Wide: true})
}

// revisionsPage reads a page of the list. If the search has an error, it returns that error and the
// page without rows.
func (s *Server) revisionsPage(r *http.Request) (*ui.RevisionsPage, error) {
	query, owner := r.URL.Query(), accountOf(r).ID
	p := &ui.RevisionsPage{Show: query.Get("show"), Query: readListQuery(query).text}
	counts, err := s.cfg.Store.FleetCounts(r.Context(), owner)
	if err != nil {
		return p, err
	}
	newest, err := s.cfg.Store.PostedRevisions(r.Context(), owner, "", 1)
	if err != nil {
		return p, err
	}
	p.AnyTrail = len(newest.Rows) > 0
	if p.Show != showRecent && revisionStates[p.Show] == "" {
		p.Show = showUnderway
	}
	for _, tab := range []struct {
		show, name string
		n          int
	}{{showUnderway, "Under way", counts.ByState[store.StateUpdating]}, {showFailed, "Failed", counts.ByState[store.StateFailed]}, {showRecent, "Recent", 0}} {
		p.Shows = append(p.Shows, ui.Tab{Name: tab.name, Count: tab.n, Current: tab.show == p.Show, Path: revisionsPath + "?show=" + tab.show})
	}
	here := url.Values{"show": {p.Show}}
	if p.Show == showRecent {
		p.Query = ""
	} else if p.Query != "" {
		here.Set("q", p.Query)
	}
	p.Here = here.Encode()
	after := query.Get("after")
	if after != "" {
		p.First = revisionsPath + "?" + p.Here
	}
	next, err := s.fillFleetRevisions(r.Context(), p, owner, after)
	if next != "" {
		here.Set("after", next)
		p.Next = revisionsPath + "?" + here.Encode()
	}
	return p, err
}

// fillFleetRevisions reads the rows of a page, and returns the value of ?after= for the next page.
func (s *Server) fillFleetRevisions(ctx context.Context, p *ui.RevisionsPage, owner, after string) (next string, err error) {
	if p.Show == showRecent {
		page, err := s.cfg.Store.PostedRevisions(ctx, owner, after, revisionRows)
		for _, row := range page.Rows {
			one := fleetRevision(row.Revision, row.Nick)
			one.ID = fmt.Sprintf("%s.%d", row.Device, row.Rev)
			p.Rows = append(p.Rows, one)
		}
		return page.Next, err
	}
	find, err := s.deviceSearch(ctx, owner, p.Query, "")
	if err != nil {
		return "", err
	}
	find.Terms = append(find.Terms, store.SearchTerm{Field: store.FieldState, Value: revisionStates[p.Show]})
	find.After, find.Limit = after, revisionRows
	page, err := s.cfg.Store.SearchDevices(ctx, find)
	if err != nil {
		return "", err
	}
	p.Rows, err = s.newestRevisions(ctx, page.Rows)
	p.Partial = page.Next != "" && len(page.Rows) < revisionRows
	return page.Next, err
}

// newestRevisions returns the newest revision of each device that has a trail.
func (s *Server) newestRevisions(ctx context.Context, devices []store.DeviceRow) (list []ui.FleetRevision, err error) {
	for _, d := range devices {
		heads, err := s.cfg.Store.RevisionHeads(ctx, d.ID, -1, 1)
		if err != nil {
			return nil, err
		}
		if len(heads) > 0 {
			list = append(list, fleetRevision(heads[0], d.Nick))
		}
	}
	return list, nil
}

func fleetRevision(r store.Revision, nick string) ui.FleetRevision {
	return ui.FleetRevision{ID: r.Device, Device: r.Device, Nick: nick, Rev: r.Rev, Status: r.Status, Badge: revisionBadge(r.Status),
		Report: trail.ReadReport(r.Progress), Commit: r.CommitMsg, Posted: r.Posted, Reported: r.ProgressTime}
}

// showRevisionRow answers with one row of the list, so that the browser can update that row.
// ?id=DEVICE means the newest revision of the device with this id, and ?id=DEVICE.REV means its
// revision with this number.
func (s *Server) showRevisionRow(w http.ResponseWriter, r *http.Request) error {
	id, number, isOne := strings.Cut(r.URL.Query().Get("id"), ".")
	if !wire.IsID(id) {
		return store.ErrNotFound
	}
	d, err := s.ownDeviceNamed(r, id)
	if err != nil {
		return err
	}
	p := &ui.RevisionsPage{}
	if !isOne {
		p.Rows, err = s.newestRevisions(r.Context(), []store.DeviceRow{{Device: d}})
	} else if rev, ok := revNumber(number); ok {
		var heads []store.Revision
		heads, err = s.cfg.Store.RevisionHeads(r.Context(), id, rev+1, 1)
		if len(heads) > 0 && heads[0].Rev == rev {
			p.Rows = []ui.FleetRevision{fleetRevision(heads[0], d.Nick)}
			p.Rows[0].ID = id + "." + number
		}
	}
	if err != nil {
		return err
	}
	if len(p.Rows) == 0 {
		return store.ErrNotFound
	}
	return s.renderPart(w, r, "revisions", "one-row", ui.Page{Data: p})
}
