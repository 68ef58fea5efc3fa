package api

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"gangway/hub/boot"
	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/tcg"
	"gangway/wire"

	"golang.org/x/time/rate"
)

// nonceLife is how long a nonce is valid.
const nonceLife = time.Minute

// connState is the state of a connection.
type connState struct {
	matched atomic.Bool // the last measurement on it matched the reference
	// seen is the version of the device's clone.Record after the connection's
	// last measurement; 0: none.
	seen atomic.Int64
	// asks bounds how often the device is asked on this connection to measure again because
	// another connection of the device measured.
	asks *rate.Limiter
}

type connKey struct{}

func withConnState(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, &connState{asks: rate.NewLimiter(rate.Every(askEvery), askBurst)})
}

// bootNonce derives a nonce from a device, its connection and a time in seconds. The hub stores no
// nonces: it derives them again, and nobody else can.
func (s *Server) bootNonce(r *http.Request, device string, at int64) ([]byte, error) {
	exporter, err := r.TLS.ExportKeyingMaterial(wire.BootExporterLabel, nil, wire.ExporterSize)
	if err != nil {
		// TLS 1.2 without RFC 7627: its exported keys do not identify the connection.
		return nil, problem(http.StatusBadRequest, "tls-version", "Connect with TLS 1.3.", "A measurement is bound to its connection, and the TLS version of this one does not support that.")
	}
	nonce := binary.BigEndian.AppendUint64(nil, uint64(at))
	m := hmac.New(sha256.New, s.cfg.CA.SealKey())
	m.Write([]byte("gangway boot nonce v1\x00"))
	m.Write(nonce)
	m.Write([]byte(device))
	m.Write([]byte{0})
	m.Write(exporter)
	return append(nonce, m.Sum(nil)[:wire.BootNonceSize-8]...), nil
}

// bootChallenge gives a device a nonce to quote.
func (s *Server) bootChallenge(w http.ResponseWriter, r *http.Request) error {
	d, now := deviceOf(r), s.cfg.Now()
	state, err := s.cfg.Store.BootState(r.Context(), d.ID)
	if err != nil {
		return err
	}
	nonce, err := s.bootNonce(r, d.ID, now.Unix())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, wire.BootChallenge{Nonce: nonce, Expires: now.Add(nonceLife).UTC().Truncate(time.Second), State: state})
	return nil
}

// measure verifies and judges a boot measurement. An invalid measurement is refused, recorded for
// the owner, and replaces the verdict of an earlier one.
func (s *Server) measure(w http.ResponseWriter, r *http.Request) error {
	d := deviceOf(r)
	var body wire.BootReport
	sent := &watchedBody{ReadCloser: r.Body}
	r.Body = sent
	if err := readJSON(r, &body); err != nil {
		if sent.lost {
			return err // the connection broke: the device sent no measurement
		}
		return s.recordBootRefusal(r, d, err)
	}
	enrolment, err := s.cfg.Store.Enrolment(r.Context(), d.Enrolment)
	if err != nil {
		return err
	}
	m, err := s.verifyBoot(r, d, enrolment, &body)
	if err != nil {
		return s.recordBootRefusal(r, d, err)
	}
	verdict, err := s.acceptMeasurement(r, d, enrolment, m, &body)
	if err != nil {
		return err
	}
	setMatched(r, verdict.State == store.BootMatches)
	writeJSON(w, http.StatusOK, verdict)
	return nil
}

// setMatched records whether the newest measurement on a connection matched.
func setMatched(r *http.Request, matched bool) {
	// A proxy's connection is shared by many devices.
	if c, ok := r.Context().Value(connKey{}).(*connState); ok && !originOf(r).proxied {
		c.matched.Store(matched)
	}
}

// watchedBody records whether the connection broke before the end of the body.
type watchedBody struct {
	io.ReadCloser
	lost bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	var tooLarge *http.MaxBytesError
	b.lost = b.lost || err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &tooLarge)
	return n, err
}

// recordBootRefusal records a refused measurement, if err is a refusal, and returns err. Equal
// refusals are counted in one event.
func (s *Server) recordBootRefusal(r *http.Request, d store.Device, err error) error {
	no := store.BootRefusal{Time: s.cfg.Now()}
	var refusal *evidence.Refusal
	var p *Problem
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &refusal):
		no.Code, no.Reason, no.Hint = refusal.Code, refusal.Reason, refusal.Hint
	case errors.As(err, &tooLarge):
		no.Code, no.Reason, no.Hint = "body-too-large", fmt.Sprintf("The measurement has more than %d bytes.", tooLarge.Limit), "Gangway's agent sends event logs of at most 1 MiB; check which program sent this one."
	case errors.As(err, &p) && p.Status == http.StatusBadRequest:
		no.Code, no.Reason, no.Hint = p.Code, p.Message, p.Hint
	default:
		return err
	}
	setMatched(r, false)
	if _, failed := s.cfg.Store.RefuseBoot(r.Context(), d.ID, no); failed != nil {
		return failed
	}
	s.count(r.Context(), store.Event{Time: no.Time, Kind: "device.boot-refused", Code: no.Code, Owner: d.Owner, Device: d.ID,
		Message: fmt.Sprintf("Device %q sent an invalid boot measurement. %s", d.Nick, no.Reason)})
	return err
}

func (s *Server) verifyBoot(r *http.Request, d store.Device, e store.Enrolment, body *wire.BootReport) (*boot.Measurement, error) {
	stale := &evidence.Refusal{Code: boot.CodeNonce, Reason: "The nonce is not from this connection, or has expired.", Hint: "Get a new one with GET /device/boot, on the same connection."}
	if len(body.Nonce) != wire.BootNonceSize {
		return nil, stale
	}
	at := int64(binary.BigEndian.Uint64(body.Nonce))
	want, err := s.bootNonce(r, d.ID, at)
	if err != nil {
		return nil, err
	}
	age := s.cfg.Now().Sub(time.Unix(at, 0))
	if !hmac.Equal(want, body.Nonce) || age < -time.Second || age > nonceLife {
		return nil, stale
	}
	iak, err := tcg.ParsePublic(e.IAKPublic)
	if err != nil {
		return nil, err
	}
	return boot.Verify(iak, &boot.Evidence{Nonce: body.Nonce, Attest: body.Attest, Signature: body.Signature, Bank: tcg.AlgID(body.Bank), PCRs: body.PCRs, Log: body.EventLog})
}

// acceptMeasurement compares a verified measurement with the device's reference and stores it. The
// first measurement becomes the reference.
func (s *Server) acceptMeasurement(r *http.Request, d store.Device, e store.Enrolment, m *boot.Measurement, body *wire.BootReport) (*wire.BootVerdict, error) {
	ctx, now := r.Context(), s.cfg.Now()
	before, err := s.cfg.Store.LatestBoot(ctx, d.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if known := s.compareClock(r, d, e, m, body); !known {
		s.reportBackwards(r, d, e, before, m)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	was, err := s.cfg.Store.BootState(ctx, d.ID)
	if err != nil {
		return nil, err
	}
	b := store.Boot{Device: d.ID, Time: now, Measurement: text, Nonce: body.Nonce, Attest: body.Attest, Signature: body.Signature, Log: body.EventLog}
	var learnt []byte // stays empty if nothing was measured
	if !m.NothingMeasured() {
		if learnt, err = json.Marshal(boot.ReferenceOf(m, "the first boot", now.UTC())); err != nil {
			return nil, err
		}
	}
	// The same boot, measured again on another connection, keeps its number, so that the owner's
	// decision about it stays valid.
	var earlier boot.Measurement
	if before.Measurement != nil && json.Unmarshal(before.Measurement, &earlier) == nil && m.SameBoot(&earlier) {
		b.Number = before.Number
	}
	isFirst := false
	for reference := learnt; ; {
		if err := compareBoot(&b, m, reference); err != nil {
			return nil, err
		}
		is, err := s.cfg.Store.PutBoot(ctx, b, reference)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(is, reference) {
			isFirst = len(learnt) > 0 && bytes.Equal(is, learnt)
			break
		}
		// The device has another reference, or its owner has just changed it.
		reference = is
	}
	verdict := &wire.BootVerdict{State: b.State}
	var changes []boot.Change
	if err := json.Unmarshal(b.Changes, &changes); err != nil {
		return nil, err
	}
	for _, c := range changes {
		verdict.Changes = append(verdict.Changes, c.Words)
	}
	if isFirst || b.State != was || !bytes.Equal(b.Changes, before.Changes) {
		event := bootEvent(d.Nick, verdict)
		if isFirst {
			event = store.Event{Kind: "device.boot-learnt", Message: fmt.Sprintf("The boot of %q was measured for the first time and is its reference now.", d.Nick)}
		}
		event.Time, event.Owner, event.Device, event.Addr = now, d.Owner, d.ID, remoteAddr(r)
		s.recordOrCount(ctx, event)
	}
	return verdict, nil
}

// bootEvent is the event of a verdict, for the owner.
func bootEvent(nick string, v *wire.BootVerdict) store.Event {
	switch v.State {
	case store.BootChanged:
		return store.Event{Kind: "device.boot-changed", Code: "boot-changed", Message: fmt.Sprintf("The boot of %q changed. %s", nick, strings.Join(v.Changes[:min(3, len(v.Changes))], " "))}
	case store.BootNothing:
		return store.Event{Kind: "device.boot-nothing-measured", Code: "boot-nothing-measured", Message: fmt.Sprintf("Nothing was measured of the boot of %q. %s", nick, strings.Join(v.Changes, " "))}
	}
	return store.Event{Kind: "device.boot-matches", Message: fmt.Sprintf("The boot of %q matches its reference.", nick)}
}

// reportBackwards records an event if the TPM's counters are lower than in its last attestation,
// which is its last measurement or its onboarding.
func (s *Server) reportBackwards(r *http.Request, d store.Device, e store.Enrolment, last store.Boot, m *boot.Measurement) {
	var before boot.Counters
	var earlier boot.Measurement
	if last.Measurement != nil && json.Unmarshal(last.Measurement, &earlier) == nil {
		before = earlier.Counters()
	} else {
		before, _ = onboard.Attested(e)
	}
	if words := boot.Backwards(before, m.Counters()); words != "" {
		s.recordOrCount(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.tpm-went-backwards", Code: "tpm-backwards", Owner: d.Owner, Device: d.ID,
			Message: fmt.Sprintf("Device %q: %s", d.Nick, words)})
	}
}

// BootView is what a device booted, for its owner.
type BootView struct {
	Device    string            `json:"device"`
	State     string            `json:"state"`             // store.BootMatches or another of its states
	Refusal   *BootRefusal      `json:"refusal,omitempty"` // in state "refused"; the other fields are of the latest valid measurement
	Changes   []boot.Change     `json:"changes"`
	Reference *boot.Reference   `json:"reference,omitempty"`
	Latest    *boot.Measurement `json:"latest,omitempty"`
	Measured  *time.Time        `json:"measured,omitempty"`
	Number    int64             `json:"measurement,omitempty"` // number of the latest measurement, for decisions about it
	Requested bool              `json:"requested"`             // the device will be asked to measure again
	History   []BootPast        `json:"history"`
	// Evidence of the latest measurement, base64, so that it can be checked again.
	Nonce     []byte `json:"nonce,omitempty"`
	Attest    []byte `json:"attest,omitempty"`
	Signature []byte `json:"signature,omitempty"`
	EventLog  []byte `json:"event-log,omitempty"`
}

// BootRefusal says why the newest measurement was refused.
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

// bootStatus is a device's boot state, the reference, and the measurement that was compared with
// it.
type bootStatus struct {
	state     string
	reference store.BootReference // with empty Text: none
	latest    *store.Boot         // nil: none
}

// stableBootStatus reads a device's boot status. Measurements and decisions may happen between its
// reads, so it reads until two results in a row are equal.
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
	state, err := s.stableBootStatus(r.Context(), d.ID)
	if err != nil {
		return err
	}
	view.State = state.state
	if view.Requested, err = s.cfg.Store.BootRequested(r.Context(), d.ID); err != nil {
		return err
	}
	if no, err := s.cfg.Store.BootRefusal(r.Context(), d.ID); err == nil {
		view.Refusal = &BootRefusal{no.Time.UTC(), no.Code, no.Reason, no.Hint}
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

// bootDecision is an owner's decision about a device's reference.
type bootDecision struct {
	From string         `json:"from"` // "latest", "device:ID", "values", or empty: the present reference
	Bank string         `json:"bank"`
	PCRs map[int]string `json:"pcrs"`
	Lock *bool          `json:"lock"`
	// Measurement is the number of the measurement that the owner looked at. If there is a newer
	// one, the decision fails. 0: not checked.
	Measurement int64 `json:"measurement"`
}

// setReference sets a device's reference from its latest measurement, from another device's
// reference, or from values. It can also lock or unlock it.
func (s *Server) setReference(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	var body bootDecision
	if err := readJSON(r, &body); err != nil {
		return err
	}
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
		if err := errors.Join(json.Unmarshal(latest.Measurement, &m), compareBoot(&latest, &m, text)); err != nil {
			return err
		}
	}
	err = s.cfg.Store.PutBootReference(r.Context(), store.BootReference{Device: d.ID, Text: text, Was: was.Text}, latest)
	if errors.Is(err, store.ErrChanged) {
		return errNewerBoot
	}
	if err != nil {
		return err
	}
	s.record(r.Context(), store.Event{Time: now, Kind: "device.boot-reference", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("%s set the boot reference of %q: %s.", accountOf(r).Nick, d.Nick, ref.From)})
	return s.writeBoot(w, r, d)
}

var errNewerBoot = problem(http.StatusConflict, "boot-newer", "Look at the new measurement with 'gangway device boot', and decide again.", "The device has been measured again since, or the reference was changed by another decision.")

// decidedReference is the reference that follows from an owner's decision. present is the text of
// the present reference; empty: none.
func (s *Server) decidedReference(r *http.Request, d store.Device, body bootDecision, present []byte, latest store.Boot, now time.Time) (*boot.Reference, error) {
	var was *boot.Reference
	if len(present) > 0 {
		if err := json.Unmarshal(present, &was); err != nil {
			return nil, err
		}
	}
	if was != nil && was.Locked && body.From != "" && (body.Lock == nil || *body.Lock) {
		return nil, problem(http.StatusConflict, "boot-reference-locked", "Unlock it first, or in the same request.", "The device's reference is locked.")
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
			return nil, problem(http.StatusConflict, "boot-nothing-measured", "Switch on the TPM's SHA-256 bank and UEFI boot in the machine's firmware, or set measured_boot: report.", "The firmware measured nothing, so there is no measurement to accept.")
		}
		return boot.ReferenceOf(&m, "the boot of "+latest.Time.UTC().Format("2 January 2006"), now), nil
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
			return nil, problem(http.StatusBadRequest, "boot-reference", "Send a bank and PCRs in the form of GET's answer.", "%v.", err)
		}
		return ref, nil
	}
	return nil, problem(http.StatusBadRequest, "boot-reference", "Use latest, device:ID or values.", "\"from\" is not a source of a reference.")
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

// compareBoot sets a measurement's state and changes by comparing it with a reference; empty: none.
func compareBoot(b *store.Boot, m *boot.Measurement, reference []byte) (err error) {
	changes := []boot.Change{}
	b.State = store.BootMatches
	switch {
	case m.NothingMeasured():
		b.State = store.BootNothing
		changes = append(changes, boot.Change{PCR: -1, What: "the measurement", Words: fmt.Sprintf("In the TPM's %s bank, PCR 0 to 7 have their values after a reset, or only separators: the firmware measured nothing that distinguishes this boot from another.", m.Bank)})
	default:
		var ref boot.Reference
		if err := json.Unmarshal(reference, &ref); err != nil {
			return err
		}
		if found := boot.Compare(&ref, m); len(found) > 0 {
			b.State, changes = store.BootChanged, found
		}
	}
	b.Changes, err = json.Marshal(changes)
	return err
}

// requestBoot requests a measurement. The device gets the request in the answer to its next report.
func (s *Server) requestBoot(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	if err := s.cfg.Store.RequestBoot(r.Context(), d.ID); err != nil {
		return err
	}
	s.count(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.boot-requested", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q was asked to measure its boot.", d.Nick)})
	return s.writeBoot(w, r, d)
}
