package api

import (
	"net/http"
	"strconv"
	"time"

	"gangway/hub/store"
)

// EventView is a line of an audit trail. If Count is not 0, the line stands for Count equal events
// of one day: the first was at Time, and the last at Last.
type EventView struct {
	Seq        int64      `json:"seq"`
	Time       time.Time  `json:"time"`
	Last       *time.Time `json:"last,omitempty"`
	Count      int        `json:"count,omitempty"`
	Kind       string     `json:"kind"`
	Code       string     `json:"code,omitempty"`
	Owner      string     `json:"owner,omitempty"` // Pantacor resource name (prn) of the account; the event is in the audit trail of this account
	Device     string     `json:"device,omitempty"`
	Token      string     `json:"token,omitempty"` // a join token's id
	Actor      string     `json:"actor,omitempty"` // prn of the account or device, or "operator:" and a name
	ActorName  string     `json:"actor-name,omitempty"`
	Means      string     `json:"means,omitempty"`      // "page", "api", "api-token", "command", "certificate", "secret" or "token"
	Credential string     `json:"credential,omitempty"` // an API token's name
	Addr       string     `json:"addr,omitempty"`
	Message    string     `json:"message"`
}

func (s *Server) listEvents(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	f := store.EventFilter{Owner: accountOf(r).ID, Device: q.Get("device"), Kind: q.Get("kind")}
	if v := q.Get("before"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 1 {
			return problem(http.StatusBadRequest, "before", "Use the value of an event's field \"seq\".", "\"before\" is not a positive number.")
		}
		f.Before = n
	}
	for name, to := range map[string]*time.Time{"since": &f.Since, "until": &f.Until} {
		if v := q.Get(name); v != "" {
			t, err := time.Parse(time.RFC3339Nano, v)
			if err != nil || t.Year() < 1970 || t.Year() > 9999 {
				return problem(http.StatusBadRequest, "time", "Write a time like 2026-11-28T12:00:00Z.", "%q is not a time in the form of RFC 3339.", name)
			}
			*to = t
		}
	}
	switch routine := q.Get("routine"); routine {
	case "", "true":
	case "false":
		f.NoRoutine = true
	default:
		return problem(http.StatusBadRequest, "routine", "Use true or false.", "The parameter \"routine\" must be true or false.")
	}
	var err error
	if f.Limit, err = pageSize(r, 0); err != nil {
		return err
	}
	events, err := s.cfg.Store.Events(r.Context(), f)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, ViewEvents(events))
	return nil
}

// ViewEvents converts events to their views.
func ViewEvents(events []store.Event) []EventView {
	views := make([]EventView, len(events))
	for i, e := range events {
		v := EventView{
			Seq: e.Seq, Time: e.Time.UTC(), Count: e.Count, Kind: e.Kind, Code: e.Code, Owner: accountPRN(e.Owner), Device: e.Device, Token: e.Token,
			Actor: e.Actor, ActorName: e.ActorName, Means: e.Means, Credential: e.Credential, Addr: e.Addr, Message: e.Message,
		}
		if !e.Last.IsZero() {
			last := e.Last.UTC()
			v.Last = &last
		}
		views[i] = v
	}
	return views
}
