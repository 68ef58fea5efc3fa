package api

import (
	"errors"
	"io"
	"net/http"
	"time"

	"gangway/hub/policy"
	"gangway/hub/store"
)

// PolicyView has an owner's policy and the hub's policy, each as YAML text, or empty.
type PolicyView struct {
	Policy     string     `json:"policy"`
	Updated    *time.Time `json:"updated,omitempty"`
	HubPolicy  string     `json:"hub-policy"`
	HubUpdated *time.Time `json:"hub-updated,omitempty"`
	// Warnings are about the rules in the field Policy that have no effect, or that name an unknown
	// TPM maker. In the output of the operator's commands on the hub's machine, Warnings are about
	// HubPolicy.
	Warnings []string `json:"warnings,omitempty"`
}

// Warn fills Warnings. If one of the policies cannot be parsed, Warn adds no warnings.
func (v *PolicyView) Warn() {
	mine, err := policy.Parse([]byte(v.Policy))
	if err != nil {
		return
	}
	var hubs *policy.Document
	if v.HubPolicy != "" {
		if hubs, err = policy.Parse([]byte(v.HubPolicy)); err != nil {
			return
		}
	}
	v.Warnings = policy.Warnings(mine, hubs, true)
}

func (s *Server) showPolicy(w http.ResponseWriter, r *http.Request) error {
	var view PolicyView
	for _, p := range []struct {
		owner   string
		text    *string
		updated **time.Time
	}{{accountOf(r).ID, &view.Policy, &view.Updated}, {store.HubWide, &view.HubPolicy, &view.HubUpdated}} {
		stored, err := s.cfg.Store.Policy(r.Context(), p.owner)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		*p.text, *p.updated = stored.Text, &stored.Updated
	}
	view.Warn()
	writeJSON(w, http.StatusOK, view)
	return nil
}

func (s *Server) putPolicy(w http.ResponseWriter, r *http.Request) error {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return readError(err)
	}
	if _, err := policy.Parse(text); err != nil {
		return problem(http.StatusBadRequest, "policy-malformed", "Correct the policy and send it again. The previous policy is still in force.", "%s.", err)
	}
	return s.setPolicy(w, r, string(text))
}

func (s *Server) deletePolicy(w http.ResponseWriter, r *http.Request) error {
	return s.setPolicy(w, r, "")
}

func (s *Server) setPolicy(w http.ResponseWriter, r *http.Request, text string) error {
	a := accountOf(r)
	if err := s.cfg.Store.PutPolicy(r.Context(), store.Policy{Owner: a.ID, Text: text, Updated: s.cfg.Now()}); err != nil {
		return err
	}
	s.recordPolicy(r, a, text == "")
	return s.showPolicy(w, r)
}

// recordPolicy records that an owner changed or removed their policy.
func (s *Server) recordPolicy(r *http.Request, a store.Account, removed bool) {
	verb := "changed"
	if removed {
		verb = "removed"
	}
	s.record(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "policy." + verb, Owner: a.ID, Message: a.Nick + " " + verb + " the policy."})
}

func (s *Server) showEKList(w http.ResponseWriter, r *http.Request) error {
	list, err := s.cfg.Store.EKList(r.Context(), accountOf(r).ID)
	if err != nil {
		return err
	}
	view := make([]policy.ListEntry, len(list))
	for i, l := range list {
		view[i] = policy.NewListEntry(l)
	}
	writeJSON(w, http.StatusOK, view)
	return nil
}

func (s *Server) putEKList(w http.ResponseWriter, r *http.Request) error {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return readError(err)
	}
	list, err := policy.ParseEKList(text)
	if err != nil {
		return problem(http.StatusBadRequest, "ek-list-malformed", "Correct the list and send it again. The previous list is still in force.", "%s.", err)
	}
	return s.setEKList(w, r, list, "changed")
}

func (s *Server) deleteEKList(w http.ResponseWriter, r *http.Request) error {
	return s.setEKList(w, r, nil, "removed")
}

func (s *Server) setEKList(w http.ResponseWriter, r *http.Request, list []store.ListedEK, verb string) error {
	if err := s.storeEKList(r, list, verb); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]int{"listed": len(list)})
	return nil
}

// storeEKList replaces the caller's EK list.
func (s *Server) storeEKList(r *http.Request, list []store.ListedEK, verb string) error {
	a := accountOf(r)
	if err := s.cfg.Store.PutEKList(r.Context(), a.ID, list); err != nil {
		return err
	}
	s.record(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "ek-list." + verb, Owner: a.ID, Message: a.Nick + " " + verb + " the EK list."})
	return nil
}
