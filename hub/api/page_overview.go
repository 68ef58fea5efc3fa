package api

import (
	"net/http"

	"gangway/hub/store"
	"gangway/hub/ui"
)

// devicesOnPage is how many devices the page shows at most.
const devicesOnPage = 200

// waitingOnPage is how many waiting devices the page shows at most. The same number limits the
// cloned devices.
const waitingOnPage = 50

// showOverview is the page of a signed-in account.
func (s *Server) showOverview(w http.ResponseWriter, r *http.Request) error {
	account, now := accountOf(r), s.cfg.Now()
	var err error
	h := ui.Overview{Commands: s.firstCommands(account)}
	if h.Devices, err = s.cfg.Store.Devices(r.Context(), account.ID, "", devicesOnPage); err != nil {
		return err
	}
	if h.Total, err = s.cfg.Store.CountDevices(r.Context(), account.ID); err != nil {
		return err
	}
	if h.Boots, err = s.cfg.Store.BootStates(r.Context(), account.ID); err != nil {
		return err
	}
	waiting, err := s.cfg.Store.WaitingDevices(r.Context(), account.ID, now, waitingOnPage)
	if err != nil {
		return err
	}
	for _, one := range waiting {
		shown := ui.Waiting{WaitingDevice: one}
		for _, q := range viewWaiting(one).Verdict.Questions {
			shown.Reasons = append(shown.Reasons, q.Reason)
		}
		h.Waiting = append(h.Waiting, shown)
	}
	for _, d := range h.Devices {
		if d.Clone == "" || len(h.Cloned) == waitingOnPage {
			continue
		}
		view, err := s.clonedView(r.Context(), d.ID)
		if err != nil {
			return err
		}
		shown := ui.Cloned{Device: d, Codes: view.Open()}
		for _, f := range view.Findings {
			shown.Reasons = append(shown.Reasons, f.Words)
		}
		h.Cloned = append(h.Cloned, shown)
	}
	if h.Events, err = s.cfg.Store.Events(r.Context(), store.EventFilter{Owner: account.ID, NoRoutine: true, Limit: 12}); err != nil {
		return err
	}
	return s.renderPage(w, r, http.StatusOK, "overview", ui.Page{Title: "Overview", Section: ui.SectionOverview, Data: h})
}

// firstCommands are the commands of a first onboarding.
func (s *Server) firstCommands(account store.Account) []string {
	return []string{
		"gangway login " + s.cfg.PublicURL + " --hub-name " + s.cfg.CA.HubName() + " --nick " + account.Nick + "\n" +
			"gangway token create > device_autojointoken.json",
		"gangway-agent onboard --token-file device_autojointoken.json",
	}
}
