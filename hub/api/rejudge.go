package api

import (
	"context"
	"errors"
	"net/http"

	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/store"
)

// maxJudged is the largest number of devices that one request judges again. The hub verifies all
// signatures of each device, which takes milliseconds.
const maxJudged = 100

// Judgement says how the hub would judge a device's stored evidence if the device sent it today.
type Judgement struct {
	ID      string `json:"id"`
	Nick    string `json:"nick"`
	Outcome string `json:"outcome"` // "waiting" or "refused"
	Code    string `json:"code"`
	Reason  string `json:"reason"`
}

// Outcomes of a Judgement.
const (
	wouldWait   = "waiting"
	wouldRefuse = "refused"
)

// Judgements is one page of the judgements of an owner's devices, in the order of the devices'
// nicks.
type Judgements struct {
	// Devices are the devices of this page that the hub would not accept.
	Devices  []Judgement `json:"devices"`
	Accepted int         `json:"accepted"` // devices of this page that the hub would accept
	// WithoutEvidence is the number of devices of this page that have no TPM, and so no evidence
	// to judge.
	WithoutEvidence int    `json:"without-evidence"`
	Next            string `json:"next,omitempty"` // for ?after=; empty: this is the last page
}

// JudgedStore has the store's methods that Rejudge needs.
type JudgedStore interface {
	Devices(ctx context.Context, owner, after string, limit int) ([]store.Device, error)
	Enrolment(ctx context.Context, request store.Hash) (store.Enrolment, error)
}

// Rejudge judges the stored evidence of an owner's devices again, with the trust store, the
// policies and the EK lists in force. It takes at most `limit` devices in the order of their nicks,
// beginning after the nick `after`. It changes nothing.
func Rejudge(ctx context.Context, st JudgedStore, s *onboard.Service, owner, after string, limit int) (*Judgements, error) {
	trial, err := s.Try(ctx, owner, nil)
	if err != nil {
		return nil, err
	}
	list, err := st.Devices(ctx, owner, after, limit)
	if err != nil {
		return nil, err
	}
	page := &Judgements{Devices: []Judgement{}}
	for i := range list {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := page.judge(ctx, st, trial, &list[i]); err != nil {
			return nil, err
		}
	}
	if len(list) == limit {
		page.Next = list[limit-1].Nick
	}
	return page, nil
}

func (p *Judgements) judge(ctx context.Context, st JudgedStore, trial *onboard.Trial, d *store.Device) error {
	e, err := st.Enrolment(ctx, d.Enrolment)
	if errors.Is(err, store.ErrNotFound) {
		p.WithoutEvidence++
		return nil
	}
	if err != nil {
		return err
	}
	now, err := trial.Present(ctx, &e)
	if errors.Is(err, onboard.ErrKept) { // one damaged row must not hide the other devices
		now, err = onboard.Outcome{Action: evidence.Refuse, Code: "evidence-unreadable", Reason: "The stored evidence cannot be read."}, nil
	}
	if err != nil {
		return err
	}
	j := Judgement{ID: d.ID, Nick: d.Nick, Outcome: wouldRefuse, Code: now.Code, Reason: now.Reason}
	switch now.Action {
	case evidence.Accept:
		p.Accepted++
		return nil
	case evidence.Ask:
		j.Outcome = wouldWait
	}
	p.Devices = append(p.Devices, j)
	return nil
}

// rejudge answers with one page of judgements of the account's devices.
func (s *Server) rejudge(w http.ResponseWriter, r *http.Request) error {
	limit, err := pageSize(r, maxJudged)
	if err != nil {
		return err
	}
	owner := accountOf(r).ID
	if !s.previews.acquire(owner) {
		return errPreviews
	}
	defer s.previews.release(owner)
	page, err := Rejudge(r.Context(), s.cfg.Store, s.cfg.Onboard, owner, r.URL.Query().Get("after"), min(limit, maxJudged))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, page)
	return nil
}
