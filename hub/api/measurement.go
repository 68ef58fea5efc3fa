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
	"gangway/hub/clone"
	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/hub/tracing/step"
	"gangway/tcg"
	"gangway/wire"

	"golang.org/x/time/rate"
)

// nonceLife is how long a nonce is valid.
const nonceLife = time.Minute

// connState is the state of a connection.
type connState struct {
	peer    peer        // set by the handshake
	holder  *socket     // the connection, if it holds answers: see holdAnswer; nil for HTTP/2
	matched atomic.Bool // the last measurement on this connection matched
	// states are the states of the parts of the boot in the last measurement on this connection;
	// nil: there is no measurement, or the hub refused it.
	states atomic.Pointer[map[string]string]
	// seen is the version of the device's clone.Record after the connection's
	// last measurement; 0: none.
	seen atomic.Int64
	// asks limits how often the hub requests another measurement on this connection. The hub makes
	// this request when another connection of the same device has sent a measurement.
	asks *rate.Limiter
	// shook is how long the handshake took, in nanoseconds. The connection's first request with a
	// trace records the value, and sets shook to 0.
	shook atomic.Int64
}

type connKey struct{}

func newConnState() *connState {
	return &connState{asks: rate.NewLimiter(rate.Every(askEvery), askBurst)}
}

// withConnState is the http.Server's ConnContext function. A connection that was parked keeps its
// state.
func withConnState(ctx context.Context, c net.Conn) context.Context {
	state := stateOf(c)
	if state == nil {
		state = newConnState()
	}
	return context.WithValue(ctx, connKey{}, state)
}

// bootNonce derives a nonce from a device, its connection and the time `at` in seconds. The hub
// stores no nonces: to check a nonce, it derives the nonce again. Without the seal key, nobody can
// derive a nonce.
func (s *Server) bootNonce(r *http.Request, device string, at int64) ([]byte, error) {
	exporter, err := r.TLS.ExportKeyingMaterial(wire.BootExporterLabel, nil, wire.ExporterSize)
	if err != nil {
		// In TLS 1.2, the exported keys identify the connection only with the extension of RFC
		// 7627.
		return nil, problem(http.StatusBadRequest, "tls-version", "Connect with TLS 1.3.", "A boot measurement must be bound to its TLS connection, and this connection's TLS version does not support that.")
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

// bootChallenge answers with a nonce, which the device's TPM must sign in the next quote.
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

// measure verifies a boot measurement and compares it with the reference. If the measurement is
// invalid, measure refuses it, records the refusal for the owner, and sets the device's boot state
// to "refused".
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
	verdict, states, err := s.acceptMeasurement(r, d, enrolment, m, &body)
	if err != nil {
		return err
	}
	setMatched(r, verdict.State == store.BootMatches, states)
	writeJSON(w, http.StatusOK, verdict)
	return nil
}

// setMatched records whether the newest measurement on a connection matched, and the states of the
// parts of that boot. If the hub refused the measurement, `states` is nil.
func setMatched(r *http.Request, matched bool, states map[string]string) {
	// Many devices share a proxy's connection, so the connection must not have the state of one
	// device.
	if c, ok := r.Context().Value(connKey{}).(*connState); ok && !originOf(r).proxied {
		c.matched.Store(matched)
		c.states.Store(nil)
		if states != nil {
			c.states.Store(&states)
		}
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
// refusals share one event of the audit trail, with a count.
func (s *Server) recordBootRefusal(r *http.Request, d store.Device, err error) error {
	entry := store.BootRefusal{Time: s.cfg.Now()}
	var refusal *evidence.Refusal
	var p *Problem
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &refusal):
		entry.Code, entry.Reason, entry.Hint = refusal.Code, refusal.Reason, refusal.Hint
	case errors.As(err, &tooLarge):
		entry.Code, entry.Reason, entry.Hint = "body-too-large", fmt.Sprintf("The measurement has more than %d bytes.", tooLarge.Limit), "Gangway's agent sends event logs of at most 1 MiB; check which program sent this event log."
	case errors.As(err, &p) && p.Status == http.StatusBadRequest:
		entry.Code, entry.Reason, entry.Hint = p.Code, p.Message, p.Hint
	default:
		return err
	}
	setMatched(r, false, nil)
	if _, failed := s.cfg.Store.RefuseBoot(r.Context(), d.ID, entry); failed != nil {
		return failed
	}
	s.count(r.Context(), store.Event{Time: entry.Time, Kind: "device.boot-refused", Code: entry.Code, Owner: d.Owner, Device: d.ID,
		Message: fmt.Sprintf("Device %q sent an invalid boot measurement. %s", d.Nick, entry.Reason)})
	return err
}

func (s *Server) verifyBoot(r *http.Request, d store.Device, e store.Enrolment, body *wire.BootReport) (*boot.Measurement, error) {
	stale := &evidence.Refusal{Code: boot.CodeNonce, Reason: "The nonce is not from this connection, or has expired.", Hint: "Get a new nonce with GET /device/boot, on the same connection."}
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
	_, span := step.Begin(r.Context(), "tpm.verify-quote")
	defer span.End()
	m, err := boot.Verify(iak, &boot.Evidence{Nonce: body.Nonce, Attest: body.Attest, Signature: body.Signature, Bank: tcg.AlgID(body.Bank), PCRs: body.PCRs, Log: body.EventLog})
	if err != nil || body.Installed == nil {
		return m, err
	}
	if m.Installed, err = boot.VerifyInstallation(iak, body.Installed); err != nil {
		m.InstalledProblem = err.Error()
	}
	return m, nil
}

// acceptMeasurement judges a verified measurement and stores it. It also returns the states of the
// boot's parts.
func (s *Server) acceptMeasurement(r *http.Request, d store.Device, e store.Enrolment, m *boot.Measurement, body *wire.BootReport) (verdict *wire.BootVerdict, states map[string]string, err error) {
	ctx, now := r.Context(), s.cfg.Now()
	before, err := s.cfg.Store.LatestBoot(ctx, d.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, nil, err
	}
	if known := s.compareClock(r, d, e, m, body); !known {
		s.reportBackwards(r, d, e, before, m)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, nil, err
	}
	was, err := s.cfg.Store.BootState(ctx, d.ID)
	if err != nil {
		return nil, nil, err
	}
	b := store.Boot{Device: d.ID, Time: now, Measurement: text, Nonce: body.Nonce, Attest: body.Attest, Signature: body.Signature, Log: body.EventLog}
	// If the device measures the same boot again on another connection, the measurement keeps its
	// number, so that an owner's decision about that number stays valid.
	var earlier boot.Measurement
	if before.Measurement != nil && json.Unmarshal(before.Measurement, &earlier) == nil && m.SameBoot(&earlier) {
		b.Number = before.Number
	}
	v, err := s.storeBoot(ctx, d, &b, m)
	if err != nil {
		return nil, nil, err
	}
	verdict = bootVerdict(b.State, v)
	isFirst := v.Learn
	if isFirst || b.State != was || !bytes.Equal(b.Changes, before.Changes) {
		event := bootEvent(d.Nick, verdict)
		if isFirst {
			event = store.Event{Kind: "device.boot-learnt", Message: fmt.Sprintf("The boot of %q was measured for the first time. This boot is the device's reference now.", d.Nick)}
		}
		event.Time, event.Owner, event.Device, event.Addr = now, d.Owner, d.ID, remoteAddr(r)
		s.recordOrCount(ctx, event)
	}
	return verdict, statesOf(v), nil
}

// storeBoot judges a boot and stores it. A first boot that the rules accept becomes the reference.
func (s *Server) storeBoot(ctx context.Context, d store.Device, b *store.Boot, m *boot.Measurement) (*boot.Verdict, error) {
	rules, err := s.rulesFor(ctx, d, m)
	if err != nil {
		return nil, err
	}
	row, _, err := orMissing(s.cfg.Store.BootReference(ctx, d.ID))
	if err != nil {
		return nil, err
	}
	for reference := row.Text; ; {
		v, err := judge(b, d, m, rules, reference, b.Time)
		if err != nil {
			return nil, err
		}
		if v.Learn {
			if reference, err = json.Marshal(firstReference(m, v, b.Time)); err != nil {
				return nil, err
			}
		}
		is, err := s.cfg.Store.PutBoot(ctx, *b, reference)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(is, reference) {
			return v, nil
		}
		// The device has another reference now, because the owner or another measurement has just
		// set one. Judge by the new reference.
		reference = is
	}
}

// firstReference makes a device's reference from its first boot.
func firstReference(m *boot.Measurement, v *boot.Verdict, now time.Time) *boot.Reference {
	r := boot.NewReference(m, "the first boot", now.UTC())
	r.Unproven = v.Unproven
	return r
}

// bootVerdict returns a verdict in the form in which the device gets it.
func bootVerdict(state string, v *boot.Verdict) *wire.BootVerdict {
	out := &wire.BootVerdict{State: state}
	for _, c := range v.Changes {
		out.Changes = append(out.Changes, c.Words)
	}
	return out
}

// bootEvent returns the event that records a verdict for the owner.
func bootEvent(nick string, v *wire.BootVerdict) store.Event {
	switch v.State {
	case store.BootChanged:
		return store.Event{Kind: "device.boot-changed", Code: "boot-changed", Message: fmt.Sprintf("The boot of %q changed. %s", nick, strings.Join(v.Changes[:min(3, len(v.Changes))], " "))}
	case store.BootNothing:
		return store.Event{Kind: "device.boot-nothing-measured", Code: "boot-nothing-measured", Message: fmt.Sprintf("The firmware measured nothing at the boot of %q. %s", nick, strings.Join(v.Changes, " "))}
	}
	return store.Event{Kind: "device.boot-matches", Message: fmt.Sprintf("The boot of %q matches: every part is expected or known.", nick)}
}

// reportBackwards records an event if the TPM's counters are lower than in the TPM's previous
// attestation. The previous attestation is in the device's last measurement or, if there is no
// measurement, in the device's onboarding request.
func (s *Server) reportBackwards(r *http.Request, d store.Device, e store.Enrolment, last store.Boot, m *boot.Measurement) {
	var before boot.Counters
	var earlier boot.Measurement
	if last.Measurement != nil && json.Unmarshal(last.Measurement, &earlier) == nil {
		before = earlier.Counters()
	} else {
		before, _ = onboard.AttestedCounters(e)
	}
	if words := boot.Rollback(before, m.Counters()); words != "" {
		s.recordOrCount(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.tpm-went-backwards", Code: "tpm-backwards", Owner: d.Owner, Device: d.ID,
			Message: fmt.Sprintf("Device %q: %s", d.Nick, words)})
	}
}

// compareClock compares the TPM's clock and counters in a verified quote with the TPM's earlier
// attestations, to find clones. The result `known` is from onboard.Service.RecordSighting: if it is
// true, the owner need not be warned of counters that went back. If the comparison returns an
// error, compareClock logs the error, and the hub accepts the measurement.
func (s *Server) compareClock(r *http.Request, d store.Device, e store.Enrolment, m *boot.Measurement, body *wire.BootReport) (known bool) {
	sighting := clone.Sighting{
		From: time.Unix(int64(binary.BigEndian.Uint64(body.Nonce)), 0), To: s.cfg.Now(), // the hub issued the nonce in the second that begins at From
		Counters: m.Counters(), Attested: true, Addr: remoteAddr(r),
	}
	version, known, err := s.cfg.Onboard.RecordSighting(r.Context(), d, e, remoteAddr(r), func(k *clone.Record) { k.Add(sighting) })
	if err != nil {
		s.log.Error("clone detection", "device", d.ID, "err", err)
		return false
	}
	if c := ownConnection(r); c != nil {
		c.seen.Store(version)
	}
	return known
}

// ownConnection returns the state of a device's own connection. It returns nil for a proxy's
// connection, which many devices share.
func ownConnection(r *http.Request) *connState {
	if _, ok := clientCertificate(r); !ok || originOf(r).proxied {
		return nil
	}
	c, _ := r.Context().Value(connKey{}).(*connState)
	return c
}

// On one connection of a device, the hub may request askBurst measurements without delay, and then
// one per askEvery. The hub needs several measurements to be certain of a clone, so there is no
// limit while it suspects one. Otherwise there is a limit, because a cleared TPM can also cause a
// single sign of a clone.
const (
	askEvery = 10 * time.Minute
	askBurst = 4
)

// mustMeasureAgain reports whether the device must measure again on this connection, because
// another connection of the same device has sent a later measurement. A machine that restarted or
// lost its connection does not use its old connection again, so two connections in use may belong
// to two machines.
func (s *Server) mustMeasureAgain(r *http.Request, d store.Device) (bool, error) {
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
