package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"gangway/hub/clone"
	"gangway/hub/store"
	"gangway/hub/ui"
)

// noteUsedCertificate records that a peer proved possession of the key of a certificate that is not
// active.
func (s *Server) noteUsedCertificate(r *http.Request, certificate [32]byte) {
	if err := s.cfg.Onboard.RecordSupersededUse(r.Context(), certificate, remoteAddr(r)); err != nil && r.Context().Err() == nil {
		s.log.Error("clone detection", "err", err)
	}
}

// ClonedView says whether several machines run with a device's TPM state. It is the result of the
// clone detection.
type ClonedView struct {
	Device string `json:"device"`
	State  string `json:"state"` // "", "suspected", "certain", "refused"
	// Findings are signs that the device is not one machine with one TPM.
	Findings []ClonedFinding `json:"findings"`
	Decision string          `json:"decision"` // "one", "two", or empty: no decision
	By       string          `json:"decided-by,omitempty"`
	Decided  *time.Time      `json:"decided,omitempty"`
}

// ClonedFinding is a sign that several machines have the device's TPM state, described for a
// person.
type ClonedFinding struct {
	Code     string    `json:"code"`
	Words    string    `json:"words"`
	Time     time.Time `json:"time"`
	Answered bool      `json:"answered"` // the owner's decision "one" has answered the finding
}

func (s *Server) clonedView(ctx context.Context, device string) (ClonedView, error) {
	row, err := s.cfg.Store.Clone(ctx, device)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return ClonedView{}, err
	}
	var k clone.Record
	if err == nil {
		if err := json.Unmarshal(row.Record, &k); err != nil {
			return ClonedView{}, err
		}
	}
	return viewCloned(device, &k), nil
}

func viewCloned(device string, k *clone.Record) ClonedView {
	v := ClonedView{Device: device, State: string(k.State()), Findings: []ClonedFinding{}, Decision: string(k.Decision), By: k.By}
	if !k.Decided.IsZero() {
		v.Decided = &k.Decided
	}
	open := map[string]bool{}
	for _, f := range k.Unanswered() {
		open[f.Code] = true
	}
	for _, f := range k.Findings {
		v.Findings = append(v.Findings, ClonedFinding{f.Code, f.Words, f.Time, !open[f.Code]})
	}
	return v
}

// Open returns the codes of the findings about which the owner has not decided yet.
func (v ClonedView) Open() []string {
	codes := []string{}
	for _, f := range v.Findings {
		if !f.Answered {
			codes = append(codes, f.Code)
		}
	}
	return codes
}

func (s *Server) showCloned(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	view, err := s.clonedView(r.Context(), d.ID)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, view)
	return nil
}

// decideCloned applies an owner's decision. The decision "one" means that there is one machine, and
// "two" means that there are several machines. An empty decision withdraws the last decision.
func (s *Server) decideCloned(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Decision *string  `json:"decision"`
		Findings []string `json:"findings"` // codes of the findings that the owner saw; null: the hub does not compare these with the open findings
	}
	if err := readJSON(r, &body); err != nil {
		return err
	}
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	if body.Decision == nil {
		return errClonedDecision
	}
	view, err := s.applyCloneDecision(r, d, *body.Decision, body.Findings)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, view)
	return nil
}

var errClonedDecision = problem(http.StatusBadRequest, "decision", `Use "one", "two", or "" to withdraw the last decision.`, "The decision is missing or unknown.")

func (s *Server) applyCloneDecision(r *http.Request, d store.Device, decision string, findings []string) (ClonedView, error) {
	if decision != string(clone.OneMachine) && decision != string(clone.TwoMachines) && decision != "" {
		return ClonedView{}, errClonedDecision
	}
	k, err := s.cfg.Onboard.DecideClone(r.Context(), accountOf(r), d, clone.Decision(decision), findings, remoteAddr(r))
	if errors.Is(err, store.ErrChanged) {
		return ClonedView{}, problem(http.StatusConflict, "cloned-changed", "Look at the findings with 'gangway device cloned', and decide again.", "After you looked, the hub recorded new findings about the device.")
	}
	if err != nil {
		return ClonedView{}, err
	}
	return viewCloned(d.ID, k), nil
}

// decideClonedOnPage is like decideCloned, but for the page's form.
func (s *Server) decideClonedOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	d, err := s.ownDeviceNamed(r, r.PostForm.Get("id"))
	if err != nil {
		return err
	}
	decision := r.PostForm.Get("decision")
	if decision == "back" {
		decision = ""
	} else if decision == "" {
		return errClonedDecision
	}
	// The page always sends the findings that it showed. So a missing field means that the page
	// showed no findings. The list must then be empty and not nil, because with nil the hub does
	// not compare the findings.
	if _, err := s.applyCloneDecision(r, d, decision, append([]string{}, r.PostForm["finding"]...)); err != nil {
		return err
	}
	to := waitingPath
	if next := safeReturn(r.PostForm.Get("next")); next != "" {
		to = next
	}
	return s.redirect(w, r, to, ui.Notice{Tone: "ok", Text: "The decision is recorded."})
}
