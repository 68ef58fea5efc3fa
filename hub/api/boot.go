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

// nonceFor is how long a nonce may be quoted.
const nonceFor = time.Minute

// connState is what the hub knows of a connection.
type connState struct {
	matched atomic.Bool // a measurement made on it matched
	// seen is the version of the device's clone.Record after the connection's
	// last measurement; 0: none.
	seen atomic.Int64
	// asks bounds how often the device is asked on it to measure again because
	// another connection did.
	asks *rate.Limiter
}

type connKey struct{}

func withConnState(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, &connState{asks: rate.NewLimiter(rate.Every(askEvery), askBurst)})
}

// bootNonce is a nonce of a device's connection at a time, in seconds. There is
// none to remember: it can be made again, by the hub alone.
func (s *Server) bootNonce(r *http.Request, device string, at int64) ([]byte, error) {
	exporter, err := r.TLS.ExportKeyingMaterial(wire.BootExporterLabel, nil, wire.ExporterSize)
	if err != nil {
		// TLS 1.2 without RFC 7627: such a connection cannot be told apart.
		return nil, problem(http.StatusBadRequest, "tls-version", "Connect with TLS 1.3.", "A measurement is bound to its connection, and this one's TLS cannot do that.")
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
	d, now := peer(r), s.cfg.Now()
	state, err := s.cfg.Store.BootState(r.Context(), d.ID)
	if err != nil {
		return err
	}
	nonce, err := s.bootNonce(r, d.ID, now.Unix())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, wire.BootChallenge{Nonce: nonce, Expires: now.Add(nonceFor).UTC().Truncate(time.Second), State: state})
	return nil
}

// measure judges what a device booted. A measurement that does not hold is
// refused and the device's owner told; what an earlier one said counts no more.
func (s *Server) measure(w http.ResponseWriter, r *http.Request) error {
	d := peer(r)
	if !s.boots.allow(d.ID, s.cfg.Now()) {
		return problem(http.StatusTooManyRequests, "too-many-requests", "Wait some seconds and try again.", "The device measures itself too often.")
	}
	var body wire.BootReport
	sent := &watchedBody{ReadCloser: r.Body}
	r.Body = sent
	if err := readJSONOf(w, r, wire.MaxBootReport, &body); err != nil {
		if sent.lost {
			return err // the connection broke: nothing was said
		}
		return s.refuseBoot(r, d, err)
	}
	enrolment, err := s.cfg.Store.Enrolment(r.Context(), d.Enrolment)
	if err != nil {
		return err
	}
	m, err := s.verifyBoot(r, d, enrolment, &body)
	if err != nil {
		return s.refuseBoot(r, d, err)
	}
	verdict, err := s.judgeBoot(r, d, enrolment, m, &body)
	if err != nil {
		return err
	}
	setMatched(r, verdict.State == store.BootMatches)
	writeJSON(w, http.StatusOK, verdict)
	return nil
}

// setMatched notes whether the newest measurement on a connection matched.
func setMatched(r *http.Request, matched bool) {
	// A proxy's connection is many devices'.
	if c, ok := r.Context().Value(connKey{}).(*connState); ok && !originOf(r).proxied {
		c.matched.Store(matched)
	}
}

// watchedBody notes that a request's body could not be received to its end.
type watchedBody struct {
	io.ReadCloser
	lost bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.lost = b.lost || err != nil && !errors.Is(err, io.EOF)
	return n, err
}

// refuseBoot records that a measurement was refused, where err is a refusal, and
// returns err. The owner is told once of the same.
func (s *Server) refuseBoot(r *http.Request, d store.Device, err error) error {
	no := store.BootRefusal{Time: s.cfg.Now()}
	var refusal *evidence.Refusal
	var p *Problem
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &refusal):
		no.Code, no.Reason, no.Hint = refusal.Code, refusal.Reason, refusal.Hint
	case errors.As(err, &tooLarge):
		no.Code, no.Reason, no.Hint = "body-too-large", fmt.Sprintf("The measurement has more than %d bytes.", tooLarge.Limit), "The agent sends no event log of more than 1 MiB; look at what sends this one."
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
		Message: fmt.Sprintf("Device %q sent a measurement that does not hold. %s", d.Nick, no.Reason)})
	return err
}

func (s *Server) verifyBoot(r *http.Request, d store.Device, e store.Enrolment, body *wire.BootReport) (*boot.Measurement, error) {
	stale := &evidence.Refusal{Code: boot.CodeNonce, Reason: "The nonce is not one of this connection, or is older than a minute.", Hint: "Ask for a new one with GET /device/boot, on the same connection."}
	if len(body.Nonce) != wire.BootNonceSize {
		return nil, stale
	}
	at := int64(binary.BigEndian.Uint64(body.Nonce))
	want, err := s.bootNonce(r, d.ID, at)
	if err != nil {
		return nil, err
	}
	age := s.cfg.Now().Sub(time.Unix(at, 0))
	if !hmac.Equal(want, body.Nonce) || age < -time.Second || age > nonceFor {
		return nil, stale
	}
	iak, err := tcg.ParsePublic(e.IAKPublic)
	if err != nil {
		return nil, err
	}
	return boot.Verify(iak, &boot.Evidence{Nonce: body.Nonce, Attest: body.Attest, Signature: body.Signature, Bank: tcg.AlgID(body.Bank), PCRs: body.PCRs, Log: body.EventLog})
}

// judgeBoot compares a measurement with the device's reference, which the first
// one becomes, and keeps it.
func (s *Server) judgeBoot(r *http.Request, d store.Device, e store.Enrolment, m *boot.Measurement, body *wire.BootReport) (*wire.BootVerdict, error) {
	ctx, now := r.Context(), s.cfg.Now()
	before, err := s.cfg.Store.LatestBoot(ctx, d.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if known := s.compareClock(r, d, e, m, body); !known {
		s.noticeBackwards(r, d, e, before, m)
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
	var learnt []byte // stays empty where there is nothing to learn
	if !m.NothingMeasured() {
		if learnt, err = json.Marshal(boot.NewReference(m, "the first boot", now.UTC())); err != nil {
			return nil, err
		}
	}
	// The same boot, shown anew on another connection, is no other measurement:
	// what its owner looks at stays the latest.
	var earlier boot.Measurement
	if before.Measurement != nil && json.Unmarshal(before.Measurement, &earlier) == nil && m.SameBoot(&earlier) {
		b.Number = before.Number
	}
	isFirst := false
	for reference := learnt; ; {
		if err := judge(&b, m, reference); err != nil {
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
		// There is one, or its owner has changed it in this very moment.
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
		s.often(ctx, event)
	}
	return verdict, nil
}

// bootEvent is what an owner reads of a verdict.
func bootEvent(nick string, v *wire.BootVerdict) store.Event {
	switch v.State {
	case store.BootChanged:
		return store.Event{Kind: "device.boot-changed", Code: "boot-changed", Message: fmt.Sprintf("The boot of %q changed. %s", nick, strings.Join(v.Changes[:min(3, len(v.Changes))], " "))}
	case store.BootNothing:
		return store.Event{Kind: "device.boot-nothing-measured", Code: "boot-nothing-measured", Message: fmt.Sprintf("Nothing was measured of the boot of %q. %s", nick, strings.Join(v.Changes, " "))}
	}
	return store.Event{Kind: "device.boot-matches", Message: fmt.Sprintf("The boot of %q matches its reference.", nick)}
}

// noticeBackwards tells the owner when the TPM's counters went back since it
// last attested something: at its last measurement, or when it onboarded.
func (s *Server) noticeBackwards(r *http.Request, d store.Device, e store.Enrolment, last store.Boot, m *boot.Measurement) {
	var before boot.Counters
	var earlier boot.Measurement
	if last.Measurement != nil && json.Unmarshal(last.Measurement, &earlier) == nil {
		before = earlier.Counters()
	} else {
		before, _ = onboard.Attested(e)
	}
	if words := boot.Rollback(before, m.Counters()); words != "" {
		s.often(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.tpm-went-backwards", Code: "tpm-backwards", Owner: d.Owner, Device: d.ID,
			Message: fmt.Sprintf("Device %q: %s", d.Nick, words)})
	}
}

var (
	errUnmeasured  = problem(http.StatusForbidden, "boot-unmeasured", "Send a measurement first: GET, then POST /device/boot, on the same connection. The agent does so by itself.", "The owner's policy admits a device only after it has shown what it booted.")
	errBootNothing = problem(http.StatusForbidden, "boot-nothing-measured", "Switch on the TPM's SHA-256 bank and UEFI boot in the machine's firmware, or set measured_boot: report.", "The owner's policy asks for a measured boot, and the firmware measured nothing into the TPM.")
	errBootRefused = problem(http.StatusForbidden, "boot-refused", "Its owner sees why with 'gangway device boot'. The agent measures again by itself.", "The owner's policy asks for a measured boot, and the device's last measurement was refused.")
	errBootChanged = problem(http.StatusForbidden, "boot-changed", "Its owner sees what changed with 'gangway device boot' and may accept it.", "The owner's policy admits a device only when its boot matches its reference.")
)

// admitted checks that the device may use the API, where its owner's policy
// wants its boot to match: by a measurement on this very connection, since
// another one may be of another boot. Programs that come with a token, and
// devices behind a proxy, go by the device's last measurement.
func (s *Server) admitted(r *http.Request, d store.Device) error {
	force, err := s.cfg.Onboard.Policy(r.Context(), d.Owner)
	if err != nil || !force.RequireBoot {
		return err
	}
	state, err := s.cfg.Store.BootState(r.Context(), d.ID)
	if err != nil {
		return err
	}
	switch state {
	case store.BootMatches:
	case store.BootChanged:
		return errBootChanged
	case store.BootNothing:
		return errBootNothing
	case store.BootRefused:
		return errBootRefused
	default:
		return errUnmeasured
	}
	if _, ok := leaf(r); ok && !originOf(r).proxied {
		if c, ok := r.Context().Value(connKey{}).(*connState); !ok || !c.matched.Load() {
			return errUnmeasured
		}
	}
	return nil
}

// BootView is what a device booted, for its owner.
type BootView struct {
	Device    string            `json:"device"`
	State     string            `json:"state"`             // as store.BootMatches and the others
	Refusal   *BootRefusal      `json:"refusal,omitempty"` // in state "refused": why; the rest is of the latest measurement that holds
	Changes   []boot.Change     `json:"changes"`
	Reference *boot.Reference   `json:"reference,omitempty"`
	Latest    *boot.Measurement `json:"latest,omitempty"`
	Measured  *time.Time        `json:"measured,omitempty"`
	Number    int64             `json:"measurement,omitempty"` // the latest measurement's, to decide on it
	Requested bool              `json:"requested"`             // the device is asked to measure again
	History   []BootPast        `json:"history"`
	// The latest measurement's evidence, base64, to be checked again.
	Nonce     []byte `json:"nonce,omitempty"`
	Attest    []byte `json:"attest,omitempty"`
	Signature []byte `json:"signature,omitempty"`
	EventLog  []byte `json:"event-log,omitempty"`
}

// BootRefusal is why the newest measurement was refused.
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

// judgedBoot is a device's state, and what it was judged by and from.
type judgedBoot struct {
	state     string
	reference store.BootReference // without Text: there is none
	latest    *store.Boot         // nil: there is none
}

// judged reads a device's boot. Measurements and decisions may come between
// the reads, so it reads until two in a row are the same.
func (s *Server) judged(ctx context.Context, device string) (j judgedBoot, err error) {
	for range 10 {
		last := j
		if j, err = s.readJudged(ctx, device); err != nil {
			return j, err
		}
		same := last.latest == j.latest || last.latest != nil && j.latest != nil && last.latest.Number == j.latest.Number && bytes.Equal(last.latest.Nonce, j.latest.Nonce)
		if same && last.state == j.state && bytes.Equal(last.reference.Text, j.reference.Text) {
			return j, nil
		}
	}
	return j, nil
}

func (s *Server) readJudged(ctx context.Context, device string) (j judgedBoot, err error) {
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
	state, err := s.judged(r.Context(), d.ID)
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

// bootDecision is what an owner says that a device should boot.
type bootDecision struct {
	From string         `json:"from"` // "latest", "device:ID", "values", or empty: as it is
	Bank string         `json:"bank"`
	PCRs map[int]string `json:"pcrs"`
	Lock *bool          `json:"lock"`
	// Measurement is the number of the measurement that was looked at. With
	// "latest" a newer one is then not taken in its place.
	Measurement int64 `json:"measurement"`
}

// setReference makes a device's reference of its latest measurement, of another
// device's reference, or of values; and locks it.
func (s *Server) setReference(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	var body bootDecision
	if err := readJSON(w, r, &body); err != nil {
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
	ref, err := s.decided(r, d, body, was.Text, latest, now)
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
		if err := errors.Join(json.Unmarshal(latest.Measurement, &m), judge(&latest, &m, text)); err != nil {
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
	s.record(r.Context(), store.Event{Time: now, Kind: "device.boot-reference", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("%s set what %q should boot: %s.", owner(r).Nick, d.Nick, ref.From)})
	return s.writeBoot(w, r, d)
}

var errNewerBoot = problem(http.StatusConflict, "boot-newer", "Look at it with 'gangway device boot', and decide again.", "The device has been measured again since, or somebody else has decided.")

// decided is the reference that an owner's decision makes, where the text of the
// one before is had; empty: there is none.
func (s *Server) decided(r *http.Request, d store.Device, body bootDecision, had []byte, latest store.Boot, now time.Time) (*boot.Reference, error) {
	var was *boot.Reference
	if len(had) > 0 {
		if err := json.Unmarshal(had, &was); err != nil {
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
			return nil, problem(http.StatusConflict, "boot-nothing-measured", "Switch on the TPM's SHA-256 bank and UEFI boot in the machine's firmware; or let the device in with measured_boot: report.", "The firmware measured nothing: there is nothing to accept.")
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
			return nil, problem(http.StatusBadRequest, "boot-reference", "Give a bank and PCRs, as GET shows them.", "%v.", err)
		}
		return ref, nil
	}
	return nil, problem(http.StatusBadRequest, "boot-reference", "Use latest, device:ID or values.", "There is no such source of a reference.")
}

var errNeverMeasured = problem(http.StatusConflict, "boot-unmeasured", "Ask for a measurement first.", "The device has never been measured.")

// referenceOfOther takes the reference of another device of the same owner and
// model.
func (s *Server) referenceOfOther(r *http.Request, d store.Device, name string) (*boot.Reference, error) {
	r.SetPathValue("id", name)
	other, err := s.ownDevice(r)
	r.SetPathValue("id", d.ID)
	if err != nil {
		return nil, err
	}
	if other.ProdModel != d.ProdModel {
		return nil, problem(http.StatusConflict, "boot-other-model", "Take one of the same model.", "The other device is of another model (%s, not %s).", other.ProdModel, d.ProdModel)
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
		return nil, problem(http.StatusConflict, "boot-reference", "Take another device's, or accept what this one booted.", "The other device's reference cannot be taken: %v.", err)
	}
	ref.From, ref.Locked = "device "+other.Nick, false
	return &ref, nil
}

// judge gives a measurement its state and changes by a reference; empty: there
// is none.
func judge(b *store.Boot, m *boot.Measurement, reference []byte) (err error) {
	changes := []boot.Change{}
	b.State = store.BootMatches
	switch {
	case m.NothingMeasured():
		b.State = store.BootNothing
		changes = append(changes, boot.Change{PCR: -1, What: "the measurement", Words: fmt.Sprintf("In the TPM's %s bank, PCR 0 to 7 are as after a reset, or have separators only: the firmware measured nothing that tells this boot from another.", m.Bank)})
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

// requestBoot asks the device to measure again, which it is told with its next
// report.
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
