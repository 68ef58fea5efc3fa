package api

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/wire"
)

// WaitingView is a device that waits for its owner's decision, or that the owner has denied.
type WaitingView struct {
	ID       string      `json:"id"` // the id of the waiting device; the onboarded device has another id
	Status   string      `json:"status"`
	EK       string      `json:"ek-sha256"` // SHA-256 of the EK's SubjectPublicKeyInfo, hexadecimal
	Machine  MachineView `json:"machine"`
	TPM      TPMView     `json:"tpm"`
	Key      string      `json:"key"`
	TokenID  string      `json:"token-id"`
	RealIP   string      `json:"real-ip"`
	Since    time.Time   `json:"since"`
	LastSeen time.Time   `json:"last-seen"`
	Expires  time.Time   `json:"expires"`
	// Questions are the codes of the questions that the owner must decide.
	Questions []string         `json:"questions"`
	DecidedBy string           `json:"decided-by,omitempty"`
	Decided   *time.Time       `json:"decided,omitempty"`
	Verdict   evidence.Verdict `json:"verdict"`
}

// viewWaiting converts a waiting device to its view. If the verdict cannot be parsed, the view has
// a question that says so, because one unreadable row must not make the whole list fail.
func viewWaiting(w store.WaitingDevice) WaitingView {
	view := WaitingView{
		ID: w.DeviceID, Status: string(w.State), EK: hex.EncodeToString(w.EK[:]),
		Machine: MachineView{w.ProdModel, w.ProdSerial}, TPM: TPMView{w.Manufacturer, w.Model, w.Firmware}, Key: w.KeyAlgorithm,
		TokenID: w.TokenID, RealIP: w.Addr, Since: w.Since, LastSeen: w.LastSeen, Expires: w.Expires,
		Questions: w.Codes, DecidedBy: w.By,
	}
	if !w.Decided.IsZero() {
		view.Decided = &w.Decided
	}
	if err := json.Unmarshal(w.Verdict, &view.Verdict); err != nil {
		view.Verdict = evidence.Verdict{}
		view.Verdict.Fail("verdict", &evidence.Refusal{Code: "verdict-unreadable", Ask: true,
			Reason: "The stored verdict about this device cannot be read.", Hint: "Deny the device, or wait for its next request."})
	}
	return view
}

func (s *Server) listWaiting(w http.ResponseWriter, r *http.Request) error {
	list, err := s.cfg.Store.WaitingDevices(r.Context(), accountOf(r).ID, s.cfg.Now(), 1000)
	if err != nil {
		return err
	}
	views := make([]WaitingView, len(list))
	for i, one := range list {
		views[i] = viewWaiting(one)
	}
	writeJSON(w, http.StatusOK, views)
	return nil
}

func (s *Server) approve(w http.ResponseWriter, r *http.Request) error { return s.decide(w, r, true) }
func (s *Server) deny(w http.ResponseWriter, r *http.Request) error    { return s.decide(w, r, false) }

// decide applies the owner's decision. The body may name the questions that the owner saw. If the
// device's questions have changed since then, decide returns an error.
func (s *Server) decide(w http.ResponseWriter, r *http.Request, approve bool) error {
	var body struct {
		Questions []string `json:"questions"`
	}
	if err := readJSON(r, &body); err != nil {
		return err
	}
	decided, err := s.cfg.Onboard.Decide(r.Context(), accountOf(r), r.PathValue("id"), approve, body.Questions, remoteAddr(r))
	if err != nil {
		return decisionError(err)
	}
	s.tellDecision(decided, approve)
	writeJSON(w, http.StatusOK, viewWaiting(decided))
	return nil
}

// tellDecision notifies the open pages of a decision, which package onboard has recorded.
func (s *Server) tellDecision(w store.WaitingDevice, approve bool) {
	kind := "device.denied"
	if approve {
		kind = "device.approved"
	}
	s.live.tell(store.Event{Kind: kind, Owner: w.Owner, Device: w.DeviceID})
}

func decisionError(err error) error {
	switch {
	case errors.Is(err, store.ErrChanged):
		return problem(http.StatusConflict, "waiting-changed", "Look at the device again, then decide.", "After you looked, the device sent a new request, so you must decide about other questions.")
	case errors.Is(err, store.ErrNotFound):
		return problem(http.StatusNotFound, "not-waiting", "'gangway device ls' lists the waiting devices.", "None of your waiting devices has this id.")
	}
	return err
}

// answerWaiting answers a waiting device with the first question that the owner must decide, and
// the time after which to retry.
func answerWaiting(w http.ResponseWriter, u *onboard.WaitingError) {
	q := u.Questions[0]
	seconds := int(math.Ceil(u.RetryAfter.Seconds()))
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	writeJSON(w, http.StatusAccepted, wire.Waiting{
		Status: wire.WaitingStatus, Code: q.Code, Reason: q.Reason, Hint: q.Hint,
		DeviceID: u.DeviceID, EK: hex.EncodeToString(u.EK[:]), RetryAfter: seconds,
	})
}
