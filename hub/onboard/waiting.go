package onboard

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/store"
	"gangway/tcg"
)

const (
	// WaitFor is how long a machine waits for a person before its row is
	// dropped. One that comes again waits anew.
	WaitFor = 7 * 24 * time.Hour
	// DeniedFor is how long a denial is remembered.
	DeniedFor = 365 * 24 * time.Hour
	// MaxWaiting bounds how many machines wait for one owner.
	MaxWaiting = 1000

	// Machines come again after a tenth of the time they have waited, within
	// these bounds.
	soonest = 2 * time.Second
	latest  = 5 * time.Minute
)

// Undecided is the answer to a machine that waits for a person. It is an
// error, and no refusal.
type Undecided struct {
	DeviceID   string // see waitingID
	EK         store.Hash
	Questions  []*evidence.Refusal
	RetryAfter time.Duration
}

func (u *Undecided) Error() string {
	return "onboard: device " + u.DeviceID + " waits for its owner's decision"
}

// waitingID is what a machine is called while it waits: the same whenever it
// asks, and without any relation to the id of the device that it will be, or is
// at another owner's. Whoever has a join token and somebody's public EK gets it.
func (s *Service) waitingID(ek store.Hash) string {
	id := s.derive("gangway waiting id v1\x00", ek[:])
	return hex.EncodeToString(id[:12])
}

// judge settles what the evidence left open, by what a person has decided, or
// keeps the machine waiting for it: its errors are *Undecided and
// *evidence.Refusal.
func (s *Service) judge(ctx context.Context, v *evidence.Verdict, e store.Enrolment, addr string) error {
	var codes []string
	for _, q := range v.Questions {
		codes = append(codes, q.Code)
	}
	was, err := s.Store.Waiting(ctx, e.Owner, e.EK, e.Created)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if was.Approves(codes) {
		v.Approve(evidence.Approval{By: was.By, At: was.Decided, Codes: was.Answered})
		return nil
	}
	id := s.waitingID(e.EK)
	undecided := &Undecided{DeviceID: id, EK: e.EK, Questions: v.Questions, RetryAfter: soonest}
	// A machine that only asks again is not worth a write.
	if was.State == store.Undecided && was.RequestHash == e.RequestHash && e.Created.Sub(was.LastSeen) < time.Minute {
		undecided.RetryAfter = retryAfter(was, e.Created)
		return undecided
	}
	w := store.Waiting{
		Owner: e.Owner, EK: e.EK, DeviceID: id, TokenID: e.TokenID, Codes: codes,
		RequestHash: e.RequestHash, Request: e.Request,
		Manufacturer: e.Manufacturer, Model: e.Model, Firmware: e.Firmware,
		ProdModel: e.ProdModel, ProdSerial: e.ProdSerial, KeyAlgorithm: e.KeyAlgorithm,
		Addr: addr, Since: e.Created, LastSeen: e.Created, Expires: e.Created.Add(WaitFor),
	}
	if w.Verdict, err = json.Marshal(v); err != nil {
		return err
	}
	w, err = s.Store.Wait(ctx, w, MaxWaiting)
	switch {
	case errors.Is(err, store.ErrFull):
		return &evidence.Refusal{Code: CodeFull, Reason: fmt.Sprintf("%d machines wait for this owner's decision already. %s", MaxWaiting, v.Questions[0].Reason), Hint: "Approve or deny some of them first."}
	case err != nil:
		return err
	case w.State == store.Denied:
		return refuseDenied(w, " "+v.Questions[0].Reason)
	case w.State == store.Approved: // in the meantime
		v.Approve(evidence.Approval{By: w.By, At: w.Decided, Codes: w.Answered})
		return nil
	}
	if was.State != store.Undecided {
		s.unproven(ctx, store.Event{Kind: "device.waiting", Code: codes[0], Owner: e.Owner, Token: e.TokenID, Device: id, Addr: addr,
			Message: fmt.Sprintf("%s waits for your decision. %s", machineWords(w), v.Questions[0].Reason)})
	}
	undecided.RetryAfter = retryAfter(w, e.Created)
	return undecided
}

// denied refuses a machine about which nothing is left to ask, where its owner
// has denied the EK before: a certificate that is shown later, or a line of an
// EK list, does not undo what a person decided.
func (s *Service) denied(ctx context.Context, e store.Enrolment) error {
	w, err := s.Store.Waiting(ctx, e.Owner, e.EK, e.Created)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case w.State == store.Denied && e.Created.Before(w.Expires):
		return refuseDenied(w, "")
	}
	return nil
}

// refuseDenied is the refusal of a machine that a person denied. question is put
// behind the reason.
func refuseDenied(w store.Waiting, question string) *evidence.Refusal {
	return &evidence.Refusal{Code: CodeDenied, Reason: fmt.Sprintf("%s denied this machine on %s.%s", w.By, w.Decided.Format(time.DateOnly), question), Hint: "Who denied it can still approve it."}
}

func retryAfter(w store.Waiting, now time.Time) time.Duration {
	return min(max(now.Sub(w.Since)/10, soonest), latest).Round(time.Second)
}

func machineWords(w store.Waiting) string {
	return tcg.Printable(fmt.Sprintf("A machine (%s, serial %s)", w.ProdModel, w.ProdSerial))
}

// Decide approves or denies a machine that waits. codes are the questions that
// the person saw; nil: whatever there are. Errors: store.ErrNotFound,
// store.ErrChanged.
func (s *Service) Decide(ctx context.Context, by store.Account, deviceID string, approve bool, codes []string, addr string) (store.Waiting, error) {
	now := s.Now()
	w, err := s.Store.Decide(ctx, by.ID, deviceID, store.Decision{Approve: approve, By: by.Nick, Codes: codes, At: now, Expires: now.Add(DeniedFor)})
	if err != nil {
		return w, err
	}
	event := store.Event{Kind: "device.denied", Owner: by.ID, Token: w.TokenID, Device: deviceID, Addr: addr,
		Message: fmt.Sprintf("%s denied it: %s.", by.Nick, lowerFirst(machineWords(w)))}
	if approve {
		event.Kind = "device.approved"
		event.Message = fmt.Sprintf("%s approved the EK with SHA-256 %x: %s.", by.Nick, w.EK, lowerFirst(machineWords(w)))
	}
	s.audit(ctx, event)
	return w, nil
}

func lowerFirst(s string) string { return "a" + s[1:] }
