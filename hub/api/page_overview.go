package api

import (
	"net/http"
	"time"

	"gangway/hub/search"
	"gangway/hub/store"
	"gangway/hub/ui"
)

const (
	// facetsOnPage is how many values the page shows for each field: of the field model, for
	// example, the most frequent models.
	facetsOnPage = 6
	// arrivalDays is the number of days in the chart of new devices.
	arrivalDays = 30
	// A join token needs attention if it expires within expiresSoon. The overview counts at most
	// tokensSoon such tokens.
	expiresSoon, tokensSoon = 7 * 24 * time.Hour, 100
)

// showOverview answers with the page that a person sees after signing in.
func (s *Server) showOverview(w http.ResponseWriter, r *http.Request) error {
	o, err := s.numbers(r)
	if err != nil {
		return err
	}
	if o.Events, err = s.cfg.Store.Events(r.Context(), store.EventFilter{Owner: accountOf(r).ID, NoRoutine: true, Limit: 12}); err != nil {
		return err
	}
	return s.renderPage(w, r, http.StatusOK, "overview", ui.Page{Title: "Overview", Section: ui.SectionOverview, Data: o})
}

// showNumbers answers with the part of the overview that the browser updates.
func (s *Server) showNumbers(w http.ResponseWriter, r *http.Request) error {
	o, err := s.numbers(r)
	if err != nil {
		return err
	}
	return s.renderPart(w, r, "overview", "numbers", ui.Page{Data: o})
}

// numbers counts the account's devices, for example by state. Each count has the address of a page
// that lists these devices.
func (s *Server) numbers(r *http.Request) (*ui.Overview, error) {
	account, now := accountOf(r), s.cfg.Now()
	f, err := s.fleetSummary(r.Context(), account.ID, facetsOnPage, arrivalDays)
	if err != nil {
		return nil, err
	}
	tokens, err := s.cfg.Store.JoinTokensExpiring(r.Context(), account.ID, now, now.Add(expiresSoon), tokensSoon)
	if err != nil {
		return nil, err
	}
	o := &ui.Overview{Total: f.Total, Needs: needs(f, len(tokens))}
	if f.Total == 0 {
		o.Commands = s.firstCommands(account)
		return o, nil
	}
	for _, state := range store.States {
		if n := f.States[state]; n > 0 {
			o.States = append(o.States, ui.Share{Badge: ui.StateBadge(state), N: n, Percent: n * 100 / f.Total, Path: listOf(store.FieldState, state)})
		}
	}
	for _, one := range []struct {
		name  string
		field store.SearchField
		facet Facet
	}{{"Model", store.FieldModel, f.Models}, {"TPM maker", store.FieldMaker, f.Makers}, {"TPM firmware", store.FieldFirmware, f.Firmware}} {
		o.Facets = append(o.Facets, facetOf(one.name, one.field, one.facet, f.Total))
	}
	numbers := make([]int, len(f.Arrivals))
	for i, a := range f.Arrivals {
		numbers[i] = a.N
	}
	o.Arrivals = ui.NewChart(numbers, func(i int) string {
		day, err := time.Parse(time.DateOnly, f.Arrivals[i].Day)
		if err != nil {
			return f.Arrivals[i].Day
		}
		return day.Format("2 Jan")
	})
	return o, nil
}

// listOf returns the address of the list of the devices whose field `field` has the value `value`.
func listOf(field store.SearchField, value string) string {
	return listQuery{text: search.Format(store.DeviceSearch{Terms: []store.SearchTerm{{Field: field, Value: value}}})}.path()
}

func facetOf(name string, field store.SearchField, f Facet, total int) ui.Facet {
	facet := ui.Facet{Name: name, Others: f.Others}
	for _, v := range f.Top {
		share := ui.Share{Value: v.Value, N: v.N, Percent: v.N * 100 / total}
		if v.Value != "" {
			share.Path = listOf(field, v.Value)
		}
		facet.Shares = append(facet.Shares, share)
	}
	return facet
}

// The function `needs` returns the problems that a person should look at, the most urgent first.
func needs(f FleetSummary, tokens int) (list []ui.Todo) {
	add := func(state string, n int, one, several, path string) {
		if n == 0 {
			return
		}
		what := several
		if n == 1 {
			what = one
		}
		list = append(list, ui.Todo{Badge: ui.StateBadge(state), N: n, What: what, Path: path})
	}
	add("waiting", f.Waiting, "machine waits for your decision", "machines wait for your decision", waitingPath)
	add(store.StateCloned, f.States[store.StateCloned], "device may be several machines", "devices may be several machines", waitingPath+"#cloned-h")
	add(store.StateBootChanged, f.States[store.StateBootChanged], "device has a changed boot", "devices have a changed boot", listOf(store.FieldState, store.StateBootChanged))
	add(store.StateFailed, f.States[store.StateFailed], "device failed to update", "devices failed to update", revisionsPath+"?show="+showFailed)
	add(store.StateQuiet, f.States[store.StateQuiet], "device has gone quiet", "devices have gone quiet", listOf(store.FieldState, store.StateQuiet))
	add("expires soon", tokens, "join token expires within a week", "join tokens expire within a week", tokensSoonPath)
	return list
}

// firstCommands returns the commands that onboard the first device.
func (s *Server) firstCommands(account store.Account) []string {
	return []string{
		"gangway login " + s.cfg.PublicURL + " --hub-name " + s.cfg.CA.HubName() + " --nick " + account.Nick + "\n" +
			"gangway token create > device_autojointoken.json",
		"gangway-agent onboard --token-file device_autojointoken.json",
	}
}
