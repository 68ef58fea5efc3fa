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

// CodeCloned is the code of ErrCloned.
const CodeCloned = "tpm-cloned"

// ErrCloned refuses a device because its owner has decided that several machines run with its TPM's
// state.
var ErrCloned = &evidence.Refusal{Code: CodeCloned, Reason: "The owner has decided that several machines run with a copy of this TPM's state, so no machine may use the TPM's identity.",
	Hint: "Give this machine another TPM state (for a virtual machine: a new vTPM) and onboard it again. If there is only one machine, its owner can change the decision with 'gangway device cloned ID --one'."}

// AttestedCounters returns the clock and the firmware version that the TPM attested in an
// enrolment's request. The second result is false if the request has no attestation by the TPM, as
// in a two-step enrolment.
func AttestedCounters(e store.Enrolment) (boot.Counters, bool) {
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

// EnrolmentSighting returns what an activated enrolment shows about its TPM: the time, the
// machine's serial number and address, and the TPM's counters.
func EnrolmentSighting(e store.Enrolment, addr string) clone.Sighting {
	s := clone.Sighting{To: e.Created, Serial: e.ProdSerial, Addr: addr}
	s.Counters, s.Attested = AttestedCounters(e)
	return s
}

// RecordSighting updates a device's clone record with a new sighting of its TPM, for example the
// counters of a new quote, and stores the record. The function `weigh` compares the new sighting
// with the record, and adds it. If another sighting was stored in between, RecordSighting calls
// `weigh` again. If the device has no record yet, the record begins with `first`, the device's
// enrolment.
//
// If the record's state gets worse, RecordSighting appends an event for the owner in the same
// transaction, so the owner gets the event exactly once. RecordSighting returns the record's
// version.
//
// The result `known` matters only if the TPM's counters went back. If it is true, the caller need
// not warn the owner about this, because the record already had an unanswered finding, or because
// this sighting adds another finding, which explains the counters.
func (s *Service) RecordSighting(ctx context.Context, d store.Device, first store.Enrolment, addr string, weigh func(*clone.Record)) (version int64, known bool, err error) {
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
			r.Add(EnrolmentSighting(first, ""))
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

// clonedEvent returns the event that tells the owner about the new findings. `had` is the number of
// older findings, which come first in the record.
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
	e.Message += fmt.Sprintf(" The hub refuses no machine until you decide: 'gangway device cloned %s'.", d.ID)
	return e
}

// recordRepeatedOnboarding adds a repeated onboarding to the device's clone record, as a new
// sighting of its TPM. If the hub cannot store the record, the device onboards anyway.
func (s *Service) recordRepeatedOnboarding(ctx context.Context, d store.Device, before, e store.Enrolment, addr string) {
	_, _, err := s.RecordSighting(ctx, d, before, addr, func(r *clone.Record) { r.Add(EnrolmentSighting(e, addr)) })
	if err != nil {
		s.Log.Error("could not record a sighting of a device's TPM", "device", d.ID, "err", err)
	}
}

// RecordSupersededUse is called when a peer has proven that it has the key of a superseded
// certificate: the device has onboarded again since, and got another certificate. If the machine
// that got the superseded certificate had another serial number than the device has now, the TPM's
// state may have been copied, and RecordSupersededUse records a finding. It records only the first
// such finding.
func (s *Service) RecordSupersededUse(ctx context.Context, certificate [32]byte, addr string) error {
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
			return nil // the use is not a finding, or the owner has answered the finding
		}
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	_, _, err = s.RecordSighting(ctx, d, e, addr, func(r *clone.Record) { r.AddEarlierCertificate(e.ProdSerial, d.ProdSerial, s.Now(), addr) })
	return err
}

// DecideClone stores an owner's decision about copies of a device's TPM state. If `findings` is not
// nil, it has the codes of the findings that the owner saw, and the error is store.ErrChanged if
// the open findings are different. If the device was deleted, the error is store.ErrNotFound.
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
			clone.OneMachine:  "decided that %q is one machine: the device stays active.",
			clone.TwoMachines: "decided that several machines run with the TPM state of %q: the hub refuses each machine until it has another TPM state.",
			"":                "withdrew the decision about copies of the TPM state of %q.",
		}[decision]
		_, err = s.Store.PutClone(ctx, row, store.Event{Time: now, Kind: "device.clone-decided", Owner: d.Owner, Device: d.ID, Addr: addr, Message: by.Nick + " " + fmt.Sprintf(words, d.Nick)})
		if errors.Is(err, store.ErrChanged) {
			continue
		}
		return &r, err
	}
}
