package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/store"
	"gangway/hub/ui"
)

// The wall is a page for a screen on a wall, which nobody operates and which can stay open for
// weeks. So the page has a bounded number of rows, and when something changes, the browser fetches
// all of them again.
const (
	wallPath = "/ui/wall"
	// wallRows is the number of rows that fit on the screen. At most wallUnderway of them show
	// machines that are onboarding; the others show the devices that onboarded last.
	wallRows, wallUnderway = 10, 3
	// newFor is how long the wall highlights a new device.
	newFor = 2 * time.Minute
	// wallRefresh is the number of seconds after which a browser without JavaScript reloads the
	// page.
	wallRefresh = 20
)

func (s *Server) showWall(w http.ResponseWriter, r *http.Request) error {
	wall, err := s.wall(r.Context(), accountOf(r).ID)
	if err != nil {
		return err
	}
	// The page is dark by default. With ?scheme=system, it follows the browser's color scheme.
	look := "wall dark"
	if r.URL.Query().Get("scheme") == "system" {
		look = "wall"
	}
	return s.renderPage(w, r, http.StatusOK, "wall", ui.Page{Title: "Arrivals", Section: ui.SectionOnboard, Data: wall, Bare: look, NoScriptRefresh: wallRefresh})
}

// showWallPart answers with the part of the wall that the browser updates: all rows.
func (s *Server) showWallPart(w http.ResponseWriter, r *http.Request) error {
	wall, err := s.wall(r.Context(), accountOf(r).ID)
	if err != nil {
		return err
	}
	return s.renderPart(w, r, "wall", "board", ui.Page{Data: wall})
}

func (s *Server) wall(ctx context.Context, owner string) (*ui.Wall, error) {
	n, err := s.cfg.Store.FleetCounts(ctx, owner)
	if err != nil {
		return nil, err
	}
	wall := &ui.Wall{Version: s.cfg.Version}
	for _, c := range []struct {
		tone, text string
		n          int
	}{
		{"ok", "devices", n.Total}, {"ask", "waiting for you", n.Waiting}, {"busy", "updating", n.ByState[store.StateUpdating]},
		{"bad", "failed", n.ByState[store.StateFailed]}, {"off", "quiet", n.ByState[store.StateQuiet]},
	} {
		wall.Counts = append(wall.Counts, ui.WallCount{Badge: ui.Badge{Tone: c.tone, Text: c.text}, N: c.n})
	}
	if wall.Underway, err = s.underway(ctx, owner, wallUnderway); err != nil {
		return nil, err
	}
	wall.MoreWaiting = n.Waiting
	for _, m := range wall.Underway {
		if m.State == ui.StateBadge("waiting") {
			wall.MoreWaiting--
		}
	}
	wall.MoreWaiting = max(wall.MoreWaiting, 0) // a machine may arrive between the two queries
	page, err := s.cfg.Store.SearchDevices(ctx, store.DeviceSearch{Owner: owner, Sort: store.SortCreated, Descending: true, Limit: wallRows - len(wall.Underway)})
	if err != nil {
		return nil, err
	}
	for _, row := range page.Rows {
		m, err := s.arrived(ctx, row.Device)
		if err != nil {
			return nil, err
		}
		wall.Arrived = append(wall.Arrived, m)
	}
	return wall, nil
}

// underway lists the newest machines whose onboarding has not finished: those that have not
// activated their certificates yet, and those that wait for their owner's decision.
func (s *Server) underway(ctx context.Context, owner string, most int) (list []ui.WallMachine, err error) {
	now := s.cfg.Now()
	pending, err := s.cfg.Store.PendingEnrolments(ctx, owner, now, most)
	if err != nil {
		return nil, err
	}
	for _, e := range pending {
		list = append(list, ui.WallMachine{Name: machineName(e.ProdSerial), Model: ui.Visible(e.ProdModel), Time: e.Created,
			State: ui.Badge{Tone: "busy", Text: "evidence accepted, certificates sent"}})
	}
	waiting, err := s.cfg.Store.WaitingPage(ctx, store.WaitingFilter{Owner: owner, State: store.Undecided, Now: now, Limit: most})
	if err != nil {
		return nil, err
	}
	for _, w := range waiting.Rows {
		list = append(list, ui.WallMachine{Name: machineName(w.ProdSerial), Model: ui.Visible(w.ProdModel), Time: w.Since, State: ui.StateBadge("waiting")})
	}
	return list[:min(len(list), most)], nil
}

func machineName(serial string) string {
	if serial == "" {
		return "A machine"
	}
	return ui.Visible(serial)
}

// arrived describes how a device onboarded: how long it took, and on which evidence the hub
// accepted the device.
func (s *Server) arrived(ctx context.Context, d store.Device) (ui.WallMachine, error) {
	m := ui.WallMachine{ID: d.ID, Name: ui.Visible(d.Nick), Model: ui.Visible(d.ProdModel), Time: d.Created, New: s.cfg.Now().Sub(d.Created) < newFor, State: ui.Badge{Tone: "off", Text: "no TPM"}}
	e, has, err := orMissing(s.cfg.Store.Enrolment(ctx, d.Enrolment))
	if err != nil || !has {
		return m, err
	}
	var v evidence.Verdict
	if err := json.Unmarshal(e.Verdict, &v); err != nil {
		return m, err
	}
	m.State = arrivalBadge(e, &v)
	if !d.Created.Equal(d.Activated) {
		return m, nil // the device has onboarded again, so the hub has removed the first enrolment
	}
	m.Took = ui.Exactly(d.Activated.Sub(e.Created))
	waited, has, err := orMissing(s.cfg.Store.WaitingByEK(ctx, d.Owner, d.EK, s.cfg.Now()))
	if err != nil {
		return m, err
	}
	if has && waited.State == store.Approved && !waited.Decided.After(e.Created) {
		m.Took = ui.Roughly(d.Activated.Sub(waited.Since))
	}
	return m, nil
}

// arrivalBadge says in a few words on which evidence the hub accepted a device.
func arrivalBadge(e store.Enrolment, v *evidence.Verdict) ui.Badge {
	switch {
	case v.Passed("approval"):
		return ui.Badge{Tone: "ok", Text: "approved by a person"}
	case e.EKKnown:
		return ui.Badge{Tone: "ok", Text: "TPM verified"}
	}
	return ui.Badge{Tone: "off", Text: "TPM accepted by policy"}
}
