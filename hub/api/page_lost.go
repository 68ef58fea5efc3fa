package api

import (
	"net/http"
	"net/url"

	"gangway/hub/ui"
)

const (
	lostPath = "/ui/devices/lost"
	// lostRows is the number of lost devices on a page.
	lostRows = 50
)

// showLost answers with the page that lists an owner's lost devices, whose records were lost when
// the hub's database was restored from a backup.
func (s *Server) showLost(w http.ResponseWriter, r *http.Request) error {
	p := &ui.LostPage{}
	after := r.URL.Query().Get("after")
	list, err := s.cfg.Store.LostDevicesOf(r.Context(), accountOf(r).ID, after, lostRows+1)
	if err != nil {
		return err
	}
	if after != "" {
		p.First = lostPath
	}
	if len(list) > lostRows {
		list = list[:lostRows]
		p.Next = lostPath + "?after=" + url.QueryEscape(list[lostRows-1].ID)
	}
	p.Rows = list
	if restore := s.cfg.Restore; restore != nil {
		p.Restored, p.Backup = restore.Time, restore.Backup
	}
	return s.renderPage(w, r, http.StatusOK, "lost", ui.Page{Title: "Lost devices", Section: ui.SectionDevices, Data: p, Wide: true})
}

// hasLost reports whether a restore lost records of the account's devices. If the hub was never
// restored, hasLost does not read the database.
func (s *Server) hasLost(r *http.Request) (bool, error) {
	if s.cfg.Restore == nil {
		return false, nil
	}
	list, err := s.cfg.Store.LostDevicesOf(r.Context(), accountOf(r).ID, "", 1)
	return len(list) > 0, err
}
