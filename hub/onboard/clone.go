package onboard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"gangway/hub/boot"
	"gangway/hub/clone"
	"gangway/hub/evidence"
	"gangway/hub/store"
	"gangway/tcg"
)

// CodeCloned is the code of the refusal of a device whose owner has said that
// several machines run with its TPM's state.
const CodeCloned = "tpm-cloned"

// RefuseCloned is the refusal of such a device.
var RefuseCloned = &evidence.Refusal{Code: CodeCloned, Reason: "The owner has decided that several machines run with a copy of this TPM's state, so none of them may use its identity.",
	Hint: "Give this machine a TPM state of its own (for a virtual machine: a new vTPM) and onboard it again. If there is only one machine, its owner takes the decision back with 'gangway device cloned ID --one'."}

// Attested returns what the TPM attested of itself in an enrolment's request.
// It is false for a request that has no certification by the TPM, as that of
// Pantacor's two steps.
func Attested(e store.Enrolment) (boot.Counters, bool) {
	csr, err := tcg.ParseCSR(e.Request)
	if err != nil {
		return boot.Counters{}, false
	}
	a, err := tcg.ParseCertify(csr.SgnCertifyInfo)
	if err != nil {
		return boot.Counters{}, false
	}
	return boot.Counters{ClockInfo: a.ClockInfo, Firmware: evidence.Firmware(a.FirmwareVersion)}, true
}

// Enrolled is the sighting that an activated enrolment is.
func Enrolled(e store.Enrolment, addr string) clone.Sighting {
	s := clone.Sighting{To: e.Created, Serial: e.ProdSerial, Addr: addr}
	s.Counters, s.Attested = Attested(e)
	return s
}

// Seen weighs something that a proven peer showed of a device's TPM against
// what was seen before, and keeps it. Where the device has no record yet, first
// is its enrolment, which the record begins with. The owner is told when the
// record's state gets worse, in the same step, so once and only once. Seen
// returns the record's version. known says that the owner need not be told of
// counters that went back: they know of a contradiction that no decision has
// answered, or are told just now of one that explains it.
//
// weigh may be called again, when another sighting came in between.
func (s *Service) Seen(ctx context.Context, d store.Device, first store.Enrolment, addr string, weigh func(*clone.Record)) (version int64, known bool, err error) {
	for {
		var r clone.Record
		row, err := s.Store.Clone(ctx, d.ID)
		switch {
		case errors.Is(err, store.ErrNotFound):
			row = store.Clone{Device: d.ID}
		case err != nil:
			return 0, false, err
		default:
			if err := json.Unmarshal(row.Record, &r); err != nil {
				return 0, false, err
			}
		}
		if len(r.Boots) == 0 && len(r.Serials) == 0 {
			r.Add(Enrolled(first, ""))
		}
		was, had := r.State(), len(r.Findings)
		weigh(&r)
		var events []store.Event
		if is := r.State(); is != was && (is == clone.Certain || is == clone.Suspected) {
			events = append(events, clonedEvent(d, &r, had, addr, s.Now()))
		}
		row.State = string(r.State())
		if row.Record, err = json.Marshal(&r); err != nil {
			return 0, false, err
		}
		version, err = s.Store.PutClone(ctx, row, events...)
		if errors.Is(err, store.ErrChanged) {
			continue
		}
		return version, was != "" || slices.ContainsFunc(r.Findings[had:], func(f clone.Finding) bool { return f.Code != clone.CountersBack }), err
	}
}

// clonedEvent tells the owner what was found just now.
func clonedEvent(d store.Device, r *clone.Record, had int, addr string, now time.Time) store.Event {
	e := store.Event{Time: now, Kind: "device.clone-suspected", Code: "tpm-clone-suspected", Owner: d.Owner, Device: d.ID, Addr: addr,
		Message: fmt.Sprintf("Device %q: another machine may run with a copy of its TPM's state.", d.Nick)}
	if r.State() == clone.Certain {
		e.Kind, e.Code = "device.cloned", CodeCloned
		e.Message = fmt.Sprintf("Device %q: several machines run with a copy of its TPM's state.", d.Nick)
	}
	for _, f := range r.Findings[had:] {
		e.Message += " " + f.Words
	}
	e.Message += fmt.Sprintf(" Nothing is refused until you decide: 'gangway device cloned %s'.", d.ID)
	return e
}

// enrolmentOf returns the enrolment that a device is active by, if there is
// such a device.
func (s *Service) enrolmentOf(ctx context.Context, device string) (store.Enrolment, bool, error) {
	d, err := s.Store.Device(ctx, device)
	if errors.Is(err, store.ErrNotFound) {
		return store.Enrolment{}, false, nil
	}
	if err != nil {
		return store.Enrolment{}, false, err
	}
	e, err := s.Store.Enrolment(ctx, d.Enrolment)
	if errors.Is(err, store.ErrNotFound) { // it came without a TPM
		return store.Enrolment{}, false, nil
	}
	return e, err == nil, err
}

// cameAgain weighs an onboarding of a device that was aboard already. Whether
// it can be kept does not decide whether the device comes aboard.
func (s *Service) cameAgain(ctx context.Context, d store.Device, before, e store.Enrolment, addr string) {
	_, _, err := s.Seen(ctx, d, before, addr, func(r *clone.Record) { r.Add(Enrolled(e, addr)) })
	if err != nil {
		s.Log.Error("comparing a device with what was seen of it", "device", d.ID, "err", err)
	}
}

// UsedEarlier notes that a peer proved the certificate of an enrolment that a
// later one has superseded. Only a superseded enrolment whose machine named
// itself otherwise than the device does now is a finding, and only the first
// one is written.
func (s *Service) UsedEarlier(ctx context.Context, certificate [32]byte, addr string) error {
	e, err := s.Store.EnrolmentByCertificate(ctx, certificate)
	if errors.Is(err, store.ErrNotFound) || err == nil && e.State != store.Superseded {
		return nil
	}
	if err != nil {
		return err
	}
	d, err := s.Store.Device(ctx, e.DeviceID)
	if errors.Is(err, store.ErrNotFound) || err == nil && (d.Clone != "" || d.ProdSerial == e.ProdSerial) {
		return nil
	}
	if err != nil {
		return err
	}
	if row, err := s.Store.Clone(ctx, d.ID); err == nil {
		var r clone.Record
		if err := json.Unmarshal(row.Record, &r); err != nil {
			return err
		}
		if len(r.AddEarlierCertificate(e.ProdSerial, d.ProdSerial, s.Now(), addr)) == 0 {
			return nil // answered by the owner, or no finding: nothing to write
		}
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	_, _, err = s.Seen(ctx, d, e, addr, func(r *clone.Record) { r.AddEarlierCertificate(e.ProdSerial, d.ProdSerial, s.Now(), addr) })
	return err
}

// DecideClone takes an owner's decision on a device. findings are the codes of
// what the owner was shown; nil: not compared. Its errors are store.ErrChanged
// where something else was found since, and store.ErrNotFound where the device
// is gone.
func (s *Service) DecideClone(ctx context.Context, by store.Account, d store.Device, decision clone.Decision, findings []string, addr string) (*clone.Record, error) {
	for {
		row, err := s.Store.Clone(ctx, d.ID)
		if errors.Is(err, store.ErrNotFound) {
			row, err = store.Clone{Device: d.ID, Record: []byte("{}")}, nil
		}
		if err != nil {
			return nil, err
		}
		var r clone.Record
		if err := json.Unmarshal(row.Record, &r); err != nil {
			return nil, err
		}
		if findings != nil && !slices.EqualFunc(r.Unanswered(), findings, func(f clone.Finding, code string) bool { return f.Code == code }) {
			return nil, store.ErrChanged
		}
		now := s.Now()
		r.Decide(decision, by.Nick, now.UTC())
		row.State = string(r.State())
		if row.Record, err = json.Marshal(&r); err != nil {
			return nil, err
		}
		words := map[clone.Decision]string{
			clone.OneMachine:  "decided that %q is one machine: it goes on as it is.",
			clone.TwoMachines: "decided that several machines run with the TPM state of %q: none of them is let in until it has a TPM state of its own.",
			"":                "took back what was decided about copies of the TPM state of %q.",
		}[decision]
		_, err = s.Store.PutClone(ctx, row, store.Event{Time: now, Kind: "device.clone-decided", Owner: d.Owner, Device: d.ID, Addr: addr, Message: by.Nick + " " + fmt.Sprintf(words, d.Nick)})
		if errors.Is(err, store.ErrChanged) {
			continue
		}
		return &r, err
	}
}
