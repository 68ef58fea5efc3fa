package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"gangway/hub/store"
	"gangway/internal/strictjson"
	"gangway/wire"
	"gangway/wire/trail"
)

// SummaryView is a line of the output of `pvr ps`. A device without a trail has revision -1.
type SummaryView struct {
	DeviceID     string    `json:"deviceid"`
	Device       string    `json:"device"`
	Nick         string    `json:"device-nick"`
	Revision     int       `json:"revision"`          // number of the newest revision
	ProgressRev  int       `json:"progress-revision"` // number of the revision about which the device sent its last report; the fields below describe that revision
	Progress     int       `json:"progress"`          // percent
	Public       bool      `json:"public"`
	StateSha     string    `json:"state-sha"`
	Status       string    `json:"status"`
	Timestamp    time.Time `json:"timestamp"` // time when the device was last seen or changed
	StepTime     time.Time `json:"step-time"`
	ProgressTime time.Time `json:"progress-time"`
	TouchedTime  time.Time `json:"trail-touched-time"`
	RealIP       string    `json:"real-ip"`
	Group        string    `json:"fleet-group"` // this field and the next three come from the keys of the same name in the device's user-meta
	Model        string    `json:"fleet-model"`
	Location     string    `json:"fleet-location"`
	FleetRev     string    `json:"fleet-rev"`
	StatusMsg    string    `json:"status-msg"`
}

func viewSummary(d store.Device, t *store.TrailSummary) SummaryView {
	text := func(key string) string {
		s, _ := d.UserMeta[key].(string)
		return s
	}
	v := SummaryView{
		DeviceID: d.ID, Device: wire.DevicePRN + d.ID, Nick: d.Nick, Revision: -1, ProgressRev: -1, Timestamp: d.LastSeen.UTC(), RealIP: d.LastSeenAddr,
		Group: text("fleet-group"), Model: text("fleet-model"), Location: text("fleet-location"), FleetRev: text("fleet-rev"),
		StepTime: time.Unix(0, 0).UTC(), ProgressTime: time.Unix(0, 0).UTC(), TouchedTime: time.Unix(0, 0).UTC(),
	}
	if t == nil {
		return v
	}
	report := trail.ReadReport(t.Revision.Progress)
	v.Revision, v.ProgressRev, v.Progress, v.StatusMsg, v.Status = t.Rev, t.Reported, report.Percent, report.Message, string(t.Revision.Status)
	v.StateSha, v.StepTime, v.TouchedTime = fmt.Sprintf("%x", t.Revision.StateSum), t.Revision.Posted.UTC(), t.Touched.UTC()
	if !t.Revision.ProgressTime.IsZero() {
		v.ProgressTime = t.Revision.ProgressTime.UTC()
	}
	if t.Touched.After(v.Timestamp) {
		v.Timestamp = t.Touched.UTC()
	}
	return v
}

// summaryText has the text fields, by which summaries can be sorted and filtered.
var summaryText = map[string]func(*SummaryView) string{
	"deviceid":       func(v *SummaryView) string { return v.DeviceID },
	"device":         func(v *SummaryView) string { return v.Device },
	"device-nick":    func(v *SummaryView) string { return v.Nick },
	"status":         func(v *SummaryView) string { return v.Status },
	"state-sha":      func(v *SummaryView) string { return v.StateSha },
	"real-ip":        func(v *SummaryView) string { return v.RealIP },
	"fleet-group":    func(v *SummaryView) string { return v.Group },
	"fleet-model":    func(v *SummaryView) string { return v.Model },
	"fleet-location": func(v *SummaryView) string { return v.Location },
	"fleet-rev":      func(v *SummaryView) string { return v.FleetRev },
}

// summaryOrder has the other fields, by which summaries can only be sorted.
var summaryOrder = map[string]func(a, b *SummaryView) int{
	"revision":           func(a, b *SummaryView) int { return cmp.Compare(a.Revision, b.Revision) },
	"progress-revision":  func(a, b *SummaryView) int { return cmp.Compare(a.ProgressRev, b.ProgressRev) },
	"progress":           func(a, b *SummaryView) int { return cmp.Compare(a.Progress, b.Progress) },
	"timestamp":          func(a, b *SummaryView) int { return a.Timestamp.Compare(b.Timestamp) },
	"step-time":          func(a, b *SummaryView) int { return a.StepTime.Compare(b.StepTime) },
	"progress-time":      func(a, b *SummaryView) int { return a.ProgressTime.Compare(b.ProgressTime) },
	"trail-touched-time": func(a, b *SummaryView) int { return a.TouchedTime.Compare(b.TouchedTime) },
}

// readSummarySort parses ?sort=, which names a field. A hyphen before the name reverses the order.
func readSummarySort(name string) (func(a, b SummaryView) int, error) {
	field, down := strings.CutPrefix(cmp.Or(name, "-timestamp"), "-")
	order := summaryOrder[field]
	if text := summaryText[field]; text != nil {
		order = func(a, b *SummaryView) int { return strings.Compare(text(a), text(b)) }
	}
	if order == nil {
		return nil, problem(http.StatusBadRequest, "sort", "See /openapi.json for the fields.", "The parameter \"sort\" does not name a field by which summaries can be sorted.")
	}
	return func(a, b SummaryView) int {
		o := order(&a, &b)
		if down {
			o = -o
		}
		return cmp.Or(o, strings.Compare(a.DeviceID, b.DeviceID))
	}, nil
}

// readSummaryFilter parses ?filter=, a JSON object that has, for each field to filter by, the text
// that the field must have.
func readSummaryFilter(text string) (func(*SummaryView) bool, error) {
	if text == "" {
		return func(*SummaryView) bool { return true }, nil
	}
	bad := problem(http.StatusBadRequest, "filter", `Write a filter like {"status":"ERROR"}; see /openapi.json for the fields.`, "The parameter \"filter\" is not a JSON object of strings.")
	var wanted map[string]string
	if len(text) > 4096 || strictjson.Decode([]byte(text), &wanted) != nil {
		return nil, bad
	}
	for field := range wanted {
		if summaryText[field] == nil {
			return nil, bad
		}
	}
	return func(v *SummaryView) bool {
		for field, want := range wanted {
			if summaryText[field](v) != want {
				return false
			}
		}
		return true
	}, nil
}

// listSummaries lists the summaries of all devices of the account.
func (s *Server) listSummaries(w http.ResponseWriter, r *http.Request) error {
	order, err := readSummarySort(r.URL.Query().Get("sort"))
	if err != nil {
		return err
	}
	fits, err := readSummaryFilter(r.URL.Query().Get("filter"))
	if err != nil {
		return err
	}
	trails, err := s.summaries(r.Context(), accountOf(r).ID)
	if err != nil {
		return err
	}
	views := []SummaryView{}
	for after := ""; ; {
		devices, err := s.cfg.Store.Devices(r.Context(), accountOf(r).ID, after, 1000)
		if err != nil {
			return err
		}
		for _, d := range devices {
			after = d.Nick
			if v := viewSummary(d, trails[d.ID]); fits(&v) {
				views = append(views, v)
			}
		}
		if len(devices) < 1000 {
			break
		}
	}
	slices.SortFunc(views, order)
	writeJSON(w, http.StatusOK, views)
	return nil
}

func (s *Server) summaries(ctx context.Context, owner string) (map[string]*store.TrailSummary, error) {
	found := map[string]*store.TrailSummary{}
	for after := ""; ; {
		list, err := s.cfg.Store.TrailSummaries(ctx, owner, after, 100)
		if err != nil {
			return nil, err
		}
		for i := range list {
			after = list[i].Device
			// A progress report may be as large as 64 KiB, so keep only its percentage and message
			// in memory.
			report := trail.ReadReport(list[i].Revision.Progress)
			list[i].Revision.Progress = trail.NewProgress(list[i].Revision.Status, report.Percent, report.Message)
			found[after] = &list[i]
		}
		if len(list) < 100 {
			return found, nil
		}
	}
}

func (s *Server) showSummary(w http.ResponseWriter, r *http.Request) error {
	d, err := s.trailDevice(r)
	if err != nil {
		return err
	}
	t, err := s.cfg.Store.TrailSummary(r.Context(), d.ID)
	if errors.Is(err, store.ErrNotFound) {
		writeJSON(w, http.StatusOK, viewSummary(d, nil))
		return nil
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, viewSummary(d, &t))
	return nil
}
