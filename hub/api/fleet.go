package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"gangway/hub/search"
	"gangway/hub/store"
	"gangway/wire"
)

// FleetDevice is a device in the result of a search. It does not contain the metadata, which GET
// /devices/{id} returns.
type FleetDevice struct {
	ID       string      `json:"id"`
	PRN      string      `json:"prn"`
	Nick     string      `json:"nick"`
	States   []string    `json:"states"` // see docs/search.md
	Boot     string      `json:"boot"`
	Revision int         `json:"revision"` // number of the newest revision; -1: the device has no trail
	Status   string      `json:"revision-status"`
	Progress int         `json:"progress"` // percent
	Cloned   string      `json:"cloned"`
	Machine  MachineView `json:"machine"`
	TPM      TPMView     `json:"tpm"`
	Key      string      `json:"key"`
	TokenID  string      `json:"token-id"`
	Public   bool        `json:"public"`
	Created  time.Time   `json:"time-created"`
	Onboard  time.Time   `json:"time-modified"`
	LastSeen time.Time   `json:"last-seen"`
	RealIP   string      `json:"real-ip"`
}

// FleetPage is one page of the result of a search.
type FleetPage struct {
	Devices []any  `json:"devices"`        // FleetDevice, or an object with only the fields in ?fields=
	Next    string `json:"next,omitempty"` // for ?after=
}

// FleetCount is the number of devices that match a search.
type FleetCount struct {
	N    int  `json:"n"`
	More bool `json:"more"` // at least n
}

// FleetSummary counts the devices in a fleet: all devices, devices by state, and devices by some
// fields, such as the model.
type FleetSummary struct {
	Total    int            `json:"total"`
	Waiting  int            `json:"waiting"`
	States   map[string]int `json:"states"`
	Quietest *time.Time     `json:"quietest,omitempty"` // last contact of the device that is quiet for the longest time
	Models   Facet          `json:"models"`
	Makers   Facet          `json:"makers"`
	Firmware Facet          `json:"firmware"`
	Tokens   Facet          `json:"tokens"`
	Arrivals []Arrival      `json:"arrivals"` // by day, in UTC; today is last
}

// Facet has the most frequent values of a field, such as the model, and how many devices have other
// values.
type Facet struct {
	Top    []FacetValue `json:"top"`
	Others int          `json:"others"`
}

// FacetValue is the number of devices with one value of the field.
type FacetValue struct {
	Value string `json:"value"`
	N     int    `json:"n"`
}

// Arrival is the number of devices that onboarded to a fleet on one day.
type Arrival struct {
	Day string `json:"day"` // like 2026-11-29
	N   int    `json:"n"`
}

// deviceSearch reads an account's search: the search's text, and its order, like "nick" or "-seen".
// If deviceSearch returns an error, the caller passes the error to the method `fail`.
func (s *Server) deviceSearch(ctx context.Context, owner, text, sort string) (store.DeviceSearch, error) {
	q, err := search.Parse(text)
	if err != nil {
		return q, err
	}
	q.Owner = owner
	key, down := strings.CutPrefix(sort, "-")
	q.Sort, q.Descending = store.SortKey(key), down
	for i, t := range q.Terms {
		if t.Field != store.FieldToken {
			continue
		}
		if q.Terms[i].Value, err = s.tokenNamed(ctx, owner, t.Value); err != nil {
			return q, err
		}
	}
	return q, nil
}

// tokenNamed returns the id of a join token, from the token's id or nick. If no token has the name,
// tokenNamed returns the name itself, because the name may be the id of a deleted token. A search
// still finds the devices of a deleted token by the token's id.
func (s *Server) tokenNamed(ctx context.Context, owner, name string) (string, error) {
	if id := strings.ToLower(name); wire.IsID(id) {
		t, err := s.cfg.Store.JoinToken(ctx, id)
		if err == nil && t.Owner == owner {
			return id, nil
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return "", err
		}
	}
	list, err := s.cfg.Store.JoinTokensByNick(ctx, owner, name, 4)
	switch {
	case err != nil || len(list) == 0:
		return name, err
	case len(list) == 1:
		return list[0].ID, nil
	}
	var ids []string
	for _, t := range list {
		ids = append(ids, t.ID)
	}
	return "", problem(http.StatusBadRequest, "search-ambiguous", "Write the token's id: "+strings.Join(ids, ", ")+".", "Several join tokens have the nick %.64q.", name)
}

// searchDevices lists the devices that match ?q=, in the order ?sort=. ?limit= and ?after= choose a
// page of the result. ?fields= chooses fields of FleetDevice by name.
func (s *Server) searchDevices(w http.ResponseWriter, r *http.Request) error {
	params := r.URL.Query()
	q, err := s.deviceSearch(r.Context(), accountOf(r).ID, params.Get("q"), params.Get("sort"))
	if err != nil {
		return err
	}
	q.After = params.Get("after")
	if q.Limit, err = pageSize(r, 0); err != nil {
		return err
	}
	fields, err := readFleetFields(params.Get("fields"))
	if err != nil {
		return err
	}
	page, err := s.cfg.Store.SearchDevices(r.Context(), q)
	if err != nil {
		return err
	}
	answer := FleetPage{Devices: make([]any, len(page.Rows)), Next: page.Next}
	for i := range page.Rows {
		if answer.Devices[i], err = chosen(viewRow(&page.Rows[i]), fields); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

func viewRow(d *store.DeviceRow) FleetDevice {
	return FleetDevice{
		ID: d.ID, PRN: wire.DevicePRN + d.ID, Nick: d.Nick, States: d.States(), Boot: d.Boot,
		Revision: d.Rev, Status: string(d.Status), Progress: d.Progress, Cloned: d.Clone,
		Machine: MachineView{d.ProdModel, d.ProdSerial}, TPM: TPMView{d.TPMMaker, d.TPMModel, d.TPMFirmware},
		Key: d.KeyAlgorithm, TokenID: d.TokenID, Public: d.Public,
		Created: d.Created.UTC(), Onboard: d.Activated.UTC(), LastSeen: d.LastSeen.UTC(), RealIP: d.LastSeenAddr,
	}
}

var fleetFields = []string{"id", "prn", "nick", "states", "boot", "revision", "revision-status", "progress", "cloned", "machine", "tpm",
	"key", "token-id", "public", "time-created", "time-modified", "last-seen", "real-ip"}

// readFleetFields reads ?fields=, a list of names separated by commas. The result nil means all
// fields.
func readFleetFields(list string) ([]string, error) {
	if list == "" {
		return nil, nil
	}
	names := strings.Split(list, ",")
	for _, name := range names {
		if !slices.Contains(fleetFields, name) {
			return nil, problem(http.StatusBadRequest, "fields", "Use some of "+strings.Join(fleetFields, ", ")+".", "%.64q is not a field of a device.", name)
		}
	}
	return names, nil
}

// The function `chosen` returns the device with the given fields only. If `fields` is nil, it
// returns the whole device.
func chosen(d FleetDevice, fields []string) (any, error) {
	if fields == nil {
		return d, nil
	}
	text, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	some := make(map[string]json.RawMessage, len(fields))
	for _, name := range fields {
		some[name] = all[name]
	}
	return some, nil
}

// countDevices counts the devices that match ?q=.
func (s *Server) countDevices(w http.ResponseWriter, r *http.Request) error {
	q, err := s.deviceSearch(r.Context(), accountOf(r).ID, r.URL.Query().Get("q"), "")
	if err != nil {
		return err
	}
	n, err := s.cfg.Store.CountSearch(r.Context(), q)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, FleetCount(n))
	return nil
}

const (
	// Bounds of ?top= and ?days= of the summary.
	maxTop  = 100
	maxDays = 366
)

// showFleet answers with a FleetSummary of the account's devices. ?top= is the number of values
// that the answer lists for each field. ?days= is the number of days for which the answer lists the
// arrivals.
func (s *Server) showFleet(w http.ResponseWriter, r *http.Request) error {
	top, err := numberInQuery(r, "top", 10, maxTop)
	if err != nil {
		return err
	}
	days, err := numberInQuery(r, "days", 30, maxDays)
	if err != nil {
		return err
	}
	summary, err := s.fleetSummary(r.Context(), accountOf(r).ID, top, days)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, summary)
	return nil
}

// numberInQuery reads the query parameter `name`, which must be a number from 1 to `most`. If the
// query does not have this parameter, numberInQuery returns the default `otherwise`.
func numberInQuery(r *http.Request, name string, otherwise, most int) (int, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > most {
		return 0, problem(http.StatusBadRequest, "number", fmt.Sprintf("Use a number from 1 to %d.", most), "%q is not a number from 1 to %d.", name, most)
	}
	return n, nil
}

// fleetSummary counts the devices of an account.
func (s *Server) fleetSummary(ctx context.Context, owner string, top, days int) (f FleetSummary, err error) {
	n, err := s.cfg.Store.FleetCounts(ctx, owner)
	if err != nil {
		return f, err
	}
	f.Total, f.Waiting, f.States = n.Total, n.Waiting, n.ByState
	if !n.Quietest.IsZero() {
		at := n.Quietest.UTC()
		f.Quietest = &at
	}
	for field, facet := range map[store.SearchField]*Facet{store.FieldModel: &f.Models, store.FieldMaker: &f.Makers,
		store.FieldFirmware: &f.Firmware, store.FieldToken: &f.Tokens} {
		values, others, err := s.cfg.Store.Facets(ctx, owner, field, top)
		if err != nil {
			return f, err
		}
		facet.Top, facet.Others = make([]FacetValue, len(values)), others
		for i, v := range values {
			facet.Top[i] = FacetValue(v)
		}
	}
	now := s.cfg.Now().UTC()
	arrived, err := s.cfg.Store.Arrivals(ctx, owner, now, days)
	if err != nil {
		return f, err
	}
	f.Arrivals = make([]Arrival, len(arrived))
	for i, n := range arrived {
		f.Arrivals[i] = Arrival{Day: now.AddDate(0, 0, i+1-len(arrived)).Format(time.DateOnly), N: n}
	}
	return f, nil
}
