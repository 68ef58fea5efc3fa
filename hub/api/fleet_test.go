package api_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
)

// fleetPage is api.FleetPage as a client reads it.
type fleetPage struct {
	Devices []api.FleetDevice
	Next    string
}

func (p fleetPage) nicks() string {
	var list []string
	for _, d := range p.Devices {
		list = append(list, d.Nick)
	}
	return strings.Join(list, " ")
}

func searched(p *person, query string, more ...string) fleetPage {
	p.t.Helper()
	return want[fleetPage](p, "GET", "/fleet/devices?q="+url.QueryEscape(query)+strings.Join(more, ""), nil, 200)
}

func TestSearchFindsByEachFieldOverTheAPI(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	boat := must(f.Store.Device(t.Context(), f.boatID))(t)
	want[any](f.ada, "PATCH", "/devices/"+f.boatID+"/user-meta", `{"site":"oslo"}`, 200)
	token := must(f.Store.JoinToken(t.Context(), boat.TokenID))(t)
	for query, found := range map[string]bool{
		"": true, boat.Nick: true, boat.Nick[:3]: true, `"` + strings.ToUpper(boat.Nick) + `"`: true, "nothing": false,
		`serial:"` + boat.ProdSerial + `"`: true, `model:"` + boat.ProdModel + `"`: true, "maker:" + boat.TPMMaker: true,
		`firmware:"` + boat.TPMFirmware + `"`: true, "id:" + f.boatID[:6]: true, "token:" + boat.TokenID: true,
		"token:" + strings.ToUpper(boat.TokenID): true, `token:"` + token.Nick + `"`: true, "token:nothing": false,
		"meta.site=Oslo": true, "meta.site=bergen": false, "state:active": true, "state:quiet": false, "state:quiet " + boat.Nick: false,
	} {
		p := searched(f.ada, query)
		if got := slices.ContainsFunc(p.Devices, func(d api.FleetDevice) bool { return d.ID == f.boatID }); got != found {
			t.Errorf("%s: found %v, want %v", query, got, found)
		}
		n := want[api.FleetCount](f.ada, "GET", "/fleet/count?q="+url.QueryEscape(query), nil, 200)
		if n.N != len(p.Devices) || n.More {
			t.Errorf("%s: count %s, %d devices", query, brief.Of(n), len(p.Devices))
		}
		if others := searched(f.mallory, query); slices.ContainsFunc(others.Devices, func(d api.FleetDevice) bool { return d.ID == f.boatID }) {
			t.Errorf("%s: another owner found the device", query)
		}
	}
}

// For a wrong search, the answer has a problem code, the position of the mistake in the search, and
// a remedy.
func TestSearchErrorsHaveCodePlaceAndRemedy(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.Token(t, f.Owner, func(tok *store.JoinToken) { tok.Nick = "twice" })
	f.Token(t, f.Owner, func(tok *store.JoinToken) { tok.Nick = "Twice" })
	for query, code := range map[string]string{
		"q=x+modell:NUC": "search-field", "q=state:happy": "search-value", "q=%22x": "search-quote", "q=" + strings.Repeat("x", 600): "search-too-long",
		"q=1+2+3+4+5+6+7+8+9": "search-too-many", "q=%ff": "search-text", "q=token:twice": "search-ambiguous", "sort=weight": "search-refused", "sort=--nick": "search-refused",
		"after=x": "search-refused", "after=" + strings.Repeat("A", 8000): "search-refused", "limit=0": "limit", "limit=1001": "limit", "fields=nick,password": "fields",
		"q=" + strings.Repeat("x", 400): "search-refused",
	} {
		p := want[api.Problem](f.ada, "GET", "/fleet/devices?"+query, nil, 400)
		if p.Code != code || p.Hint == "" {
			t.Errorf("%.60s: %s", query, brief.Of(p))
		}
		if code == "search-field" && (p.Search == nil || *p.Search != api.SearchProblem{Offset: 2, Word: "modell"} || p.Hint != `Did you mean "model"?`) {
			t.Error(brief.Of(p))
		}
	}
	for _, query := range []string{"top=0", "top=101", "days=367", "days=x"} {
		want[api.Problem](f.ada, "GET", "/fleet/summary?"+query, nil, 400)
	}
}

func TestSearchPagesSortsAndChoosesFields(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.Policy(t, store.HubWide, hubtest.LabPolicy+"without_tpm: accept\n")
	for i := range 5 {
		d := want[api.Registered](f.ada, "POST", "/devices", "{}", 200)
		want[any](f.ada, "PATCH", "/devices/"+d.ID, fmt.Sprintf(`{"nick":"zz-%d"}`, i), 200)
	}
	var nicks []string
	for next := ""; ; {
		p := searched(f.ada, "zz", "&sort=-nick&limit=2&after="+next)
		nicks = append(nicks, p.nicks())
		if next = p.Next; next == "" {
			break
		}
	}
	if got := strings.Join(nicks, ","); got != "zz-4 zz-3,zz-2 zz-1,zz-0" {
		t.Error(got)
	}
	first := searched(f.ada, "zz", "&limit=2")
	want[api.Problem](f.ada, "GET", "/fleet/devices?q=other&after="+first.Next, nil, 400)
	want[api.Problem](f.mallory, "GET", "/fleet/devices?q=zz&limit=2&after="+first.Next, nil, 400)
	some := want[struct{ Devices []map[string]any }](f.ada, "GET", "/fleet/devices?q=zz-1&fields=nick,states", nil, 200)
	if text, _ := json.Marshal(some.Devices); string(text) != `[{"nick":"zz-1","states":["active"]}]` {
		t.Error(string(text))
	}
	// Each name that ?fields= accepts is a field of the answer, and ?fields= accepts each field of
	// the answer.
	all := want[struct{ Devices []map[string]any }](f.ada, "GET", "/fleet/devices?q=zz-1", nil, 200).Devices[0]
	for name := range all {
		one := want[struct{ Devices []map[string]any }](f.ada, "GET", "/fleet/devices?q=zz-1&fields="+name, nil, 200).Devices[0]
		if _, ok := one[name]; !ok || len(one) != 1 {
			t.Errorf("fields=%s: %v", name, one)
		}
	}
}

func TestSummaryHasExactNumbers(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.Policy(t, store.HubWide, hubtest.LabPolicy+"without_tpm: accept\n")
	before := want[api.FleetSummary](f.ada, "GET", "/fleet/summary", nil, 200)
	want[api.Registered](f.ada, "POST", "/devices", "{}", 200)
	boat := must(f.Store.Device(t.Context(), f.boatID))(t)
	s := want[api.FleetSummary](f.ada, "GET", "/fleet/summary?days=7&top=2", nil, 200)
	if s.Total != before.Total+1 || s.States["active"] != s.Total || s.States["quiet"] != 0 || s.Quietest != nil || len(s.Arrivals) != 7 || len(before.Arrivals) != 30 {
		t.Errorf("%s\n%s", brief.Of(before), brief.Of(s))
	}
	if today := s.Arrivals[6]; today.N != s.Total || today.Day != f.Now().UTC().Format("2006-01-02") {
		t.Error(brief.Of(s.Arrivals))
	}
	for what, facet := range map[string]api.Facet{boat.TPMMaker: s.Makers, boat.TPMFirmware: s.Firmware, boat.ProdModel: s.Models} {
		if !slices.Contains(facet.Top, api.FacetValue{Value: what, N: 1}) || facet.Others != 0 {
			t.Errorf("%s: %s", what, brief.Of(facet))
		}
	}
}
