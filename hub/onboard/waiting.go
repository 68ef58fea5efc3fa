package onboard

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gangway/hub/boot"
	"gangway/hub/evidence"
	"gangway/hub/store"
	"gangway/tcg"
	"gangway/wire"
)

const (
	// WaitFor is the time after which the hub forgets a waiting device that sends no more requests.
	WaitFor = 7 * 24 * time.Hour
	// DeniedFor is the time after which an owner's denial of a device expires.
	DeniedFor = 365 * 24 * time.Hour
	// MaxWaiting is the maximum number of waiting devices of one owner.
	MaxWaiting = 1000

	// A waiting device retries after a tenth of the time that it has waited, within these bounds.
	soonest = 2 * time.Second
	latest  = 5 * time.Minute
)

// WaitingError is the answer to a device that must wait for its owner's decision, which is not a
// refusal.
type WaitingError struct {
	DeviceID   string // see waitingID
	EK         store.Hash
	Questions  []*evidence.Refusal
	RetryAfter time.Duration
}

func (u *WaitingError) Error() string {
	return "onboard: device " + u.DeviceID + " waits for its owner's decision"
}

// waitingID returns the id of a waiting device, which is the same at each request. Anyone with a
// join token can learn the waiting id for any public EK, so it must not reveal the id that the
// TPM's device will have later, or has with another owner now.
func (s *Service) waitingID(ek store.Hash) string {
	id := s.derive("gangway waiting id v1\x00", ek[:])
	return hex.EncodeToString(id[:12])
}

// askOwner answers the questions of a verdict with the owner's decision. If the owner has not
// decided yet, askOwner stores the waiting device and returns a *WaitingError. If the owner has
// denied the device, it returns a *evidence.Refusal.
func (s *Service) askOwner(ctx context.Context, v *evidence.Verdict, e store.Enrolment, addr string) error {
	var codes []string
	for _, q := range v.Questions {
		codes = append(codes, q.Code)
	}
	was, err := s.Store.WaitingByEK(ctx, e.Owner, e.EK, e.Created)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if was.Approves(codes) {
		v.Approve(evidence.Approval{By: was.By, At: was.Decided, Codes: was.Answered})
		return nil
	}
	id := s.waitingID(e.EK)
	undecided := &WaitingError{DeviceID: id, EK: e.EK, Questions: v.Questions, RetryAfter: soonest}
	// Write nothing if the device repeats its request within a minute.
	if was.State == store.Undecided && was.RequestHash == e.RequestHash && e.Created.Sub(was.LastSeen) < time.Minute {
		undecided.RetryAfter = retryAfter(was, e.Created)
		return undecided
	}
	w := store.WaitingDevice{
		Owner: e.Owner, EK: e.EK, DeviceID: id, TokenID: e.TokenID, Codes: codes,
		RequestHash: e.RequestHash, Request: e.Request,
		Manufacturer: e.Manufacturer, Model: e.Model, Firmware: e.Firmware,
		ProdModel: e.ProdModel, ProdSerial: e.ProdSerial, KeyAlgorithm: e.KeyAlgorithm,
		Addr: addr, Since: e.Created, LastSeen: e.Created, Expires: e.Created.Add(WaitFor),
	}
	if w.Verdict, err = json.Marshal(v); err != nil {
		return err
	}
	w, err = s.Store.PutWaiting(ctx, w, MaxWaiting)
	switch {
	case errors.Is(err, store.ErrFull):
		return &evidence.Refusal{Code: CodeFull, Reason: fmt.Sprintf("This owner has the maximum number of waiting devices (%d), or the evidence of these devices has the maximum size. %s", MaxWaiting, v.Questions[0].Reason), Hint: "The owner must approve or deny some waiting devices first."}
	case err != nil:
		return err
	case w.State == store.Denied:
		return errDenied(w, " "+v.Questions[0].Reason)
	case w.State == store.Approved: // the owner approved the device after this request had read the decision
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

// checkDenial refuses a device if its owner has denied its EK, even if the evidence now leaves no
// questions, so that neither an EK certificate in a later request nor a line of an EK list undoes
// the denial.
func (s *Service) checkDenial(ctx context.Context, e store.Enrolment) error {
	w, err := s.Store.WaitingByEK(ctx, e.Owner, e.EK, e.Created)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case w.State == store.Denied && e.Created.Before(w.Expires):
		return errDenied(w, "")
	}
	return nil
}

// errDenied returns the refusal of a device that its owner has denied. It appends `question` to the
// reason.
func errDenied(w store.WaitingDevice, question string) *evidence.Refusal {
	return &evidence.Refusal{Code: CodeDenied, Reason: fmt.Sprintf("%s denied this machine on %s.%s", w.By, w.Decided.Format(time.DateOnly), question), Hint: "If the denial was a mistake, the owner can approve the machine."}
}

func retryAfter(w store.WaitingDevice, now time.Time) time.Duration {
	return min(max(now.Sub(w.Since)/10, soonest), latest).Round(time.Second)
}

func machineWords(w store.WaitingDevice) string {
	return tcg.Printable(fmt.Sprintf("A machine (%s, serial %s)", w.ProdModel, w.ProdSerial))
}

// Decide approves or denies a waiting device. If `codes` is not nil, it has the codes of the
// questions that the owner saw, and the error is store.ErrChanged if the open questions are
// different. If there is no such device, the error is store.ErrNotFound.
func (s *Service) Decide(ctx context.Context, by store.Account, deviceID string, approve bool, codes []string, addr string) (store.WaitingDevice, error) {
	return s.decide(ctx, by, deviceID, store.Decision{Approve: approve, Codes: codes}, addr)
}

// DecideSeen is like Decide, but for a person who also saw the machine's evidence. `seen` is the
// Digest of the store.WaitingDevice that the person saw. If the Digest has changed since, the error
// is store.ErrChanged.
func (s *Service) DecideSeen(ctx context.Context, by store.Account, deviceID string, approve bool, seen store.Hash, addr string) (store.WaitingDevice, error) {
	return s.decide(ctx, by, deviceID, store.Decision{Approve: approve, Seen: &seen}, addr)
}

func (s *Service) decide(ctx context.Context, by store.Account, deviceID string, d store.Decision, addr string) (store.WaitingDevice, error) {
	d.By, d.At = by.Nick, s.Now()
	d.Expires = d.At.Add(DeniedFor)
	w, err := s.Store.Decide(ctx, by.ID, deviceID, d)
	if err != nil {
		return w, err
	}
	event := store.Event{Kind: "device.denied", Owner: by.ID, Token: w.TokenID, Device: deviceID, Addr: addr,
		Message: fmt.Sprintf("%s denied it: %s.", by.Nick, lowerFirst(machineWords(w)))}
	if d.Approve {
		event.Kind = "device.approved"
		event.Message = fmt.Sprintf("%s approved the EK with SHA-256 %x: %s.", by.Nick, w.EK, lowerFirst(machineWords(w)))
	}
	s.audit(ctx, event)
	return w, nil
}

// RequestFacts are the facts in a waiting device's stored request, for a person. The machine only
// claims these facts; the verdict says which of them are proven.
type RequestFacts struct {
	EKName        []byte // TPM name; nil: the request cannot be read
	EKCertificate []byte // DER; nil: the request has no EK certificate
	TwoSteps      bool
	Attested      bool // Counters are set
	Counters      boot.Counters
}

// ReadRequest reads the stored request of a waiting device.
func ReadRequest(request []byte) (f RequestFacts) {
	var kept wire.RegistrationRecord
	if json.Unmarshal(request, &kept) == nil {
		f.TwoSteps, f.EKCertificate = true, kept.EKCert
		f.EKName = nameOf(kept.EKPub)
		return f
	}
	r, err := evidence.Parse(request)
	if err != nil {
		return f
	}
	f.EKName, f.EKCertificate = nameOf(r.EK.Raw), r.EKCertificateDER()
	f.Attested, f.Counters = true, boot.Counters{ClockInfo: r.Certify.ClockInfo, Firmware: evidence.Firmware(r.Certify.FirmwareVersion)}
	return f
}

func nameOf(public []byte) []byte {
	p, err := tcg.ParsePublic(public)
	if err != nil {
		return nil
	}
	name, err := p.Name()
	if err != nil {
		return nil
	}
	return name
}

func lowerFirst(s string) string { return "a" + s[1:] }
