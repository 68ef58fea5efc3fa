package api

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"gangway/hub/boot"
	"gangway/hub/clone"
	"gangway/hub/store"
	"gangway/wire"
)

// compareClock weighs what a TPM attested of itself in a verified quote against
// what it attested before. known is that of onboard.Service.Seen. A measurement
// does not fail because that could not be kept.
func (s *Server) compareClock(r *http.Request, d store.Device, e store.Enrolment, m *boot.Measurement, body *wire.BootReport) (known bool) {
	sighting := clone.Sighting{
		From: time.Unix(int64(binary.BigEndian.Uint64(body.Nonce)), 0), To: s.cfg.Now(), // of a quote over a nonce of that second
		Counters: m.Counters(), Attested: true, Addr: remoteAddr(r),
	}
	version, known, err := s.cfg.Onboard.Seen(r.Context(), d, e, remoteAddr(r), func(k *clone.Record) { k.Add(sighting) })
	if err != nil {
		s.log.Error("comparing a device with what was seen of it", "device", d.ID, "err", err)
		return false
	}
	if c := ownConnection(r); c != nil {
		c.seen.Store(version)
	}
	return known
}

// ownConnection is the state of a connection that is one device's. It is nil
// for that of a proxy, which is many devices'.
func ownConnection(r *http.Request) *connState {
	if _, ok := leaf(r); !ok || originOf(r).proxied {
		return nil
	}
	c, _ := r.Context().Value(connKey{}).(*connState)
	return c
}

// How often a device is asked on one connection to measure again: some times at
// once, for one turn may look like a TPM that was cleared, and then every so
// often. Where clones are suspected, each report may be answered so, until they
// are certain: that takes some turns.
const (
	askEvery = 10 * time.Minute
	askBurst = 4
)

// askAgain reports whether the device of this connection is to measure again:
// another connection of the same device measured since this one did. A machine
// that was restarted, or lost its connection, does not come back on an old one;
// a copy of it does.
func (s *Server) askAgain(r *http.Request, d store.Device) (bool, error) {
	c := ownConnection(r)
	if c == nil || c.seen.Load() == 0 || d.Clone == string(clone.Certain) {
		return false, nil
	}
	row, err := s.cfg.Store.Clone(r.Context(), d.ID)
	if errors.Is(err, store.ErrNotFound) || err == nil && row.Version == c.seen.Load() {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return d.Clone == string(clone.Suspected) || c.asks.AllowN(s.cfg.Now(), 1), nil
}

// usedEarlier notes that a peer proved a certificate that is not active.
func (s *Server) usedEarlier(r *http.Request, certificate [32]byte) {
	if err := s.cfg.Onboard.UsedEarlier(r.Context(), certificate, remoteAddr(r)); err != nil && r.Context().Err() == nil {
		s.log.Error("comparing a device with what was seen of it", "err", err)
	}
}

// ClonedView says whether several machines run with a device's TPM state.
type ClonedView struct {
	Device string `json:"device"`
	State  string `json:"state"` // "", "suspected", "certain", "refused"
	// Findings are what does not fit one machine with one TPM.
	Findings []ClonedFinding `json:"findings"`
	Decision string          `json:"decision"` // "one", "two", or empty: none
	By       string          `json:"decided-by,omitempty"`
	Decided  *time.Time      `json:"decided,omitempty"`
}

// ClonedFinding is such a thing, in words.
type ClonedFinding struct {
	Code     string    `json:"code"`
	Words    string    `json:"words"`
	Time     time.Time `json:"time"`
	Answered bool      `json:"answered"` // by the decision "one"
}

func (s *Server) cloned(ctx context.Context, device string) (ClonedView, error) {
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

// Open are the codes of the findings that no decision has answered.
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
	view, err := s.cloned(r.Context(), d.ID)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, view)
	return nil
}

// decideCloned takes an owner's decision: "one" machine, "two", or empty: the
// last decision is taken back.
func (s *Server) decideCloned(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Decision *string  `json:"decision"`
		Findings []string `json:"findings"` // that the owner was shown; none: not compared
	}
	if err := readJSON(w, r, &body); err != nil {
		return err
	}
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	if body.Decision == nil {
		return errClonedDecision
	}
	view, err := s.decidedCloned(r, d, *body.Decision, body.Findings)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, view)
	return nil
}

var errClonedDecision = problem(http.StatusBadRequest, "decision", `Use "one", "two", or "" to take the last decision back.`, "The decision is not one that can be made.")

func (s *Server) decidedCloned(r *http.Request, d store.Device, decision string, findings []string) (ClonedView, error) {
	if decision != string(clone.OneMachine) && decision != string(clone.TwoMachines) && decision != "" {
		return ClonedView{}, errClonedDecision
	}
	k, err := s.cfg.Onboard.DecideClone(r.Context(), owner(r), d, clone.Decision(decision), findings, remoteAddr(r))
	if errors.Is(err, store.ErrChanged) {
		return ClonedView{}, problem(http.StatusConflict, "cloned-changed", "Look at it with 'gangway device cloned', and decide again.", "Something else was found since you looked.")
	}
	if err != nil {
		return ClonedView{}, err
	}
	return viewCloned(d.ID, k), nil
}

// decideClonedOnPage is decideCloned for the page's form.
func (s *Server) decideClonedOnPage(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		return badBody(err)
	}
	r.SetPathValue("id", r.PostForm.Get("id"))
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	decision := r.PostForm.Get("decision")
	if decision == "back" {
		decision = ""
	} else if decision == "" {
		return errClonedDecision
	}
	// An absent list is an empty one: a page always says what it showed.
	if _, err := s.decidedCloned(r, d, decision, append([]string{}, r.PostForm["finding"]...)); err != nil {
		return err
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}
