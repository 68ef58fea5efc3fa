package hub

import (
	"net/http"
	"strconv"
	"time"

	"gangway/store"
)

// EventView is a line of an owner's audit trail.
type EventView struct {
	Seq     int64     `json:"seq"`
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"`
	Code    string    `json:"code,omitempty"`
	Device  string    `json:"device,omitempty"`
	Token   string    `json:"token,omitempty"`
	Addr    string    `json:"addr,omitempty"`
	Message string    `json:"message"`
}

func (s *Server) listEvents(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	f := store.EventFilter{Owner: owner(r).ID, Device: q.Get("device")}
	if v := q.Get("before"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 1 {
			return problem(http.StatusBadRequest, "before", "Use the seq of an event.", "\"before\" is no positive number.")
		}
		f.Before = n
	}
	events, err := s.cfg.Store.Events(r.Context(), f)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, ViewEvents(events))
	return nil
}

// ViewEvents turns events into what the API shows of them.
func ViewEvents(events []store.Event) []EventView {
	views := make([]EventView, len(events))
	for i, e := range events {
		views[i] = EventView{e.Seq, e.Time.UTC(), e.Kind, e.Code, e.Device, e.Token, e.Addr, e.Message}
	}
	return views
}
