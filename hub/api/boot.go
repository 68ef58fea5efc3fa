package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"gangway/hub/boot"
	"gangway/hub/store"
)

// BootView describes a device's boot measurements to its owner.
type BootView struct {
	Device  string        `json:"device"`
	State   string        `json:"state"`             // store.BootMatches or another of its states
	Refusal *BootRefusal  `json:"refusal,omitempty"` // set only in state "refused"; the other fields then describe the latest valid measurement
	Changes []boot.Change `json:"changes"`
	// Parts has a verdict for each part of the boot in the latest measurement. It is empty if an
	// old version of the hub judged the measurement, because old versions did not judge the parts.
	Parts     []boot.PartVerdict `json:"parts,omitempty"`
	System    *boot.System       `json:"system,omitempty"` // the system that ran, if one of the owner's manifests names it
	Reference *boot.Reference    `json:"reference,omitempty"`
	Latest    *boot.Measurement  `json:"latest,omitempty"`
	Measured  *time.Time         `json:"measured,omitempty"`
	Number    int64              `json:"measurement,omitempty"` // number of the latest measurement; an owner's decision about the measurement contains this number
	Requested bool               `json:"requested"`             // the device will be asked to measure again
	History   []BootPast         `json:"history"`
	// The evidence of the latest measurement, in base64, so that anyone can check the measurement
	// again.
	Nonce     []byte `json:"nonce,omitempty"`
	Attest    []byte `json:"attest,omitempty"`
	Signature []byte `json:"signature,omitempty"`
	EventLog  []byte `json:"event-log,omitempty"`
}

// BootRefusal is the reason why the hub refused the newest measurement.
type BootRefusal struct {
	Time   time.Time `json:"time"`
	Code   string    `json:"error"`
	Reason string    `json:"msg"`
	Hint   string    `json:"hint"`
}

// BootPast is an earlier measurement.
type BootPast struct {
	Time  time.Time `json:"time"`
	State string    `json:"state"`
	Words []string  `json:"words"`
}

func (s *Server) showBoot(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	return s.writeBoot(w, r, d)
}

// bootStatus is a device's boot state, its latest measurement, and the reference: the boot with
// which the hub compared this measurement.
type bootStatus struct {
	state     string
	reference store.BootReference // if its Text is empty, the device has no reference
	latest    *store.Boot         // nil: none
}

// stableBootStatus reads a device's boot status. A measurement or a decision may change the status
// between two reads of the store. So stableBootStatus repeats the reads until two results in a row
// are equal.
func (s *Server) stableBootStatus(ctx context.Context, device string) (j bootStatus, err error) {
	for range 10 {
		last := j
		if j, err = s.readBootStatus(ctx, device); err != nil {
			return j, err
		}
		same := last.latest == j.latest || last.latest != nil && j.latest != nil && last.latest.Number == j.latest.Number && bytes.Equal(last.latest.Nonce, j.latest.Nonce)
		if same && last.state == j.state && bytes.Equal(last.reference.Text, j.reference.Text) {
			return j, nil
		}
	}
	return j, nil
}

func (s *Server) readBootStatus(ctx context.Context, device string) (j bootStatus, err error) {
	if j.state, err = s.cfg.Store.BootState(ctx, device); err != nil {
		return j, err
	}
	if j.reference, err = s.cfg.Store.BootReference(ctx, device); err != nil && !errors.Is(err, store.ErrNotFound) {
		return j, err
	}
	b, err := s.cfg.Store.LatestBoot(ctx, device)
	if errors.Is(err, store.ErrNotFound) {
		return j, nil
	}
	j.latest = &b
	return j, err
}

func (s *Server) writeBoot(w http.ResponseWriter, r *http.Request, d store.Device) error {
	view := BootView{Device: d.ID, Changes: []boot.Change{}, History: []BootPast{}}
	if err := s.judgeIfStale(r.Context(), d); err != nil {
		return err
	}
	state, err := s.stableBootStatus(r.Context(), d.ID)
	if err != nil {
		return err
	}
	view.State = state.state
	if view.Requested, err = s.cfg.Store.BootRequested(r.Context(), d.ID); err != nil {
		return err
	}
	if entry, err := s.cfg.Store.BootRefusal(r.Context(), d.ID); err == nil {
		view.Refusal = &BootRefusal{entry.Time.UTC(), entry.Code, entry.Reason, entry.Hint}
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if state.reference.Text != nil {
		if err := json.Unmarshal(state.reference.Text, &view.Reference); err != nil {
			return err
		}
	}
	if state.latest == nil {
		writeJSON(w, http.StatusOK, view)
		return nil
	}
	b := state.latest
	view.Measured, view.Number = &b.Time, b.Number
	view.Nonce, view.Attest, view.Signature, view.EventLog = b.Nonce, b.Attest, b.Signature, b.Log
	if err := errors.Join(json.Unmarshal(b.Measurement, &view.Latest), json.Unmarshal(b.Changes, &view.Changes)); err != nil {
		return err
	}
	if len(b.Verdict) > 0 {
		var v boot.Verdict
		if err := json.Unmarshal(b.Verdict, &v); err != nil {
			return err
		}
		view.Parts, view.System = v.Parts, v.System
	}
	history, err := s.cfg.Store.BootHistory(r.Context(), d.ID)
	if err != nil {
		return err
	}
	for _, past := range history {
		p := BootPast{Time: past.Time, State: past.State, Words: []string{}}
		var changes []boot.Change
		if err := json.Unmarshal(past.Changes, &changes); err != nil {
			return err
		}
		for _, c := range changes {
			p.Words = append(p.Words, c.Words)
		}
		view.History = append(view.History, p)
	}
	writeJSON(w, http.StatusOK, view)
	return nil
}

// bootDecision is an owner's decision about a device's reference. The reference is the boot with
// which the hub compares later boots.
type bootDecision struct {
	From string         `json:"from"` // "latest", "device:ID", "values", or empty: keep the present reference
	Bank string         `json:"bank"`
	PCRs map[int]string `json:"pcrs"`
	Lock *bool          `json:"lock"`
	// Measurement is the number of the measurement that the owner looked at. If there is a newer
	// measurement, the decision fails. If Measurement is 0, the hub does not check this.
	Measurement int64 `json:"measurement"`
}

// setReference sets a device's reference from its latest measurement, from another device's
// reference, or from values in the request. It can also lock or unlock the reference.
func (s *Server) setReference(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	var body bootDecision
	if err := readJSON(r, &body); err != nil {
		return err
	}
	if err := s.decideReference(r, d, body); err != nil {
		return err
	}
	return s.writeBoot(w, r, d)
}

// decideReference applies an owner's decision about a device's reference.
func (s *Server) decideReference(r *http.Request, d store.Device, body bootDecision) error {
	now := s.cfg.Now().UTC()
	latest, err := s.cfg.Store.LatestBoot(r.Context(), d.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if body.Measurement != 0 && body.Measurement != latest.Number {
		return errNewerBoot
	}
	was, err := s.cfg.Store.BootReference(r.Context(), d.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	ref, err := s.decidedReference(r, d, body, was.Text, latest, now)
	if err != nil {
		return err
	}
	if body.Lock != nil {
		ref.Locked = *body.Lock
	}
	text, err := json.Marshal(ref)
	if err != nil {
		return err
	}
	if latest.Number != 0 {
		var m boot.Measurement
		if err := json.Unmarshal(latest.Measurement, &m); err != nil {
			return err
		}
		rules, err := s.rulesFor(r.Context(), d, &m)
		if err != nil {
			return err
		}
		if _, err := judge(&latest, d, &m, rules, text, now); err != nil {
			return err
		}
	}
	err = s.cfg.Store.PutBootReference(r.Context(), store.BootReference{Device: d.ID, Text: text, Replaces: was.Text}, latest)
	if errors.Is(err, store.ErrChanged) {
		return errNewerBoot
	}
	if err != nil {
		return err
	}
	s.record(r.Context(), store.Event{Time: now, Kind: "device.boot-reference", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("%s set the boot reference of %q: %s.", accountOf(r).Nick, d.Nick, ref.From)})
	return nil
}

var errNewerBoot = problem(http.StatusConflict, "boot-newer", "Look at the new measurement with 'gangway device boot', and decide again.", "After you looked, the device was measured again, or another decision changed the reference.")

// decidedReference returns the reference that results from an owner's decision. `present` is the
// text of the present reference, or empty if the device has none.
func (s *Server) decidedReference(r *http.Request, d store.Device, body bootDecision, present []byte, latest store.Boot, now time.Time) (*boot.Reference, error) {
	var was *boot.Reference
	if len(present) > 0 {
		if err := json.Unmarshal(present, &was); err != nil {
			return nil, err
		}
	}
	if was != nil && was.Locked && body.From != "" && (body.Lock == nil || *body.Lock) {
		return nil, problem(http.StatusConflict, "boot-reference-locked", "Unlock the reference first, or in the same request.", "The device's reference is locked.")
	}
	switch {
	case body.From == "" && was != nil:
		return was, nil
	case body.From == "", body.From == "latest" && latest.Number == 0:
		return nil, errNeverMeasured
	case body.From == "latest":
		var m boot.Measurement
		if err := json.Unmarshal(latest.Measurement, &m); err != nil {
			return nil, err
		}
		if m.NothingMeasured() {
			return nil, problem(http.StatusConflict, "boot-nothing-measured", "Switch on the TPM's SHA-256 bank and UEFI boot in the machine's firmware, or set 'measured_boot: report' in the policy.", "The firmware measured nothing, so there is no measurement to accept.")
		}
		return boot.NewReference(&m, "the boot of "+latest.Time.UTC().Format("2 January 2006"), now), nil
	case strings.HasPrefix(body.From, "device:"):
		ref, err := s.referenceOfOther(r, d, strings.TrimPrefix(body.From, "device:"))
		if err != nil {
			return nil, err
		}
		ref.Since = now
		return ref, nil
	case body.From == "values":
		ref := &boot.Reference{Bank: body.Bank, PCRs: body.PCRs, From: "values", Since: now}
		if err := ref.Check(); err != nil {
			return nil, problem(http.StatusBadRequest, "boot-reference", "Send the bank and the PCRs in the form in which GET returns them.", "%v.", err)
		}
		return ref, nil
	}
	return nil, problem(http.StatusBadRequest, "boot-reference", "Use \"latest\", \"device:ID\" or \"values\".", "The value of \"from\" is not valid.")
}

var errNeverMeasured = problem(http.StatusConflict, "boot-unmeasured", "Request a measurement first.", "The boot of the device has never been measured.")

// referenceOfOther returns the reference of another device of the same owner and model.
func (s *Server) referenceOfOther(r *http.Request, d store.Device, name string) (*boot.Reference, error) {
	other, err := s.ownDeviceNamed(r, name)
	if err != nil {
		return nil, err
	}
	if other.ProdModel != d.ProdModel {
		return nil, problem(http.StatusConflict, "boot-other-model", "Choose a device of the same model.", "The other device is of another model (%s, not %s).", other.ProdModel, d.ProdModel)
	}
	stored, err := s.cfg.Store.BootReference(r.Context(), other.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errNeverMeasured
	}
	var ref boot.Reference
	if err := errors.Join(err, json.Unmarshal(stored.Text, &ref)); err != nil {
		return nil, err
	}
	if err := ref.Check(); err != nil {
		return nil, problem(http.StatusConflict, "boot-reference", "Choose another device, or accept this device's own measurement.", "The other device's reference cannot be used: %v.", err)
	}
	ref.From, ref.Locked = "device "+other.Nick, false
	return &ref, nil
}

// requestBoot asks a device to measure its boot. The device gets the request in the answer to its
// next report.
func (s *Server) requestBoot(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	if err := s.askForBoot(r, d); err != nil {
		return err
	}
	return s.writeBoot(w, r, d)
}

// askForBoot records that a person asked the device to measure its boot.
func (s *Server) askForBoot(r *http.Request, d store.Device) error {
	if err := s.cfg.Store.RequestBoot(r.Context(), d.ID); err != nil {
		return err
	}
	s.count(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.boot-requested", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q was asked to measure its boot.", d.Nick)})
	return nil
}
