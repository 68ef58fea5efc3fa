package api

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"

	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/wire"
)

// enrol answers a TCG-CSR-IDEVID with certificates that are sealed to the TPM, in one round trip.
func (s *Server) enrol(w http.ResponseWriter, r *http.Request) error {
	return answerRequest(s, w, r, s.cfg.Onboard.Enrol, func(reply []byte) error {
		holdAnswer(r)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		setLength(w, len(reply))
		_, err := w.Write(reply)
		return err
	})
}

// bytesPerRequest is the number of bytes in a body that the rate limit counts as one more request.
const bytesPerRequest = 16 << 10

// answerRequest passes the request's body to the function `judge`, which accepts or refuses the
// request, and counts the outcome in the metrics. If `judge` accepted the request, answerRequest
// calls the function `answer`. If the owner must decide first, answerRequest tells the device to
// wait. It returns any other error of `judge`.
func answerRequest[T any](s *Server, w http.ResponseWriter, r *http.Request, judge func(ctx context.Context, body []byte, addr string) (T, error), answer func(T) error) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.metrics.judged("body")
		return readError(err)
	}
	// A large body fills the disk faster, so it counts as several requests.
	if more := len(body) / bytesPerRequest; more > 0 && !s.limiters[onboardRate].charge(network(remoteAddr(r)), more, s.cfg.Now()) {
		s.metrics.judged(errTooFast.Code)
		return errTooFast
	}
	result, err := judge(r.Context(), body, remoteAddr(r))
	s.metrics.judged(outcome(err))
	var undecided *onboard.WaitingError
	if errors.As(err, &undecided) {
		answerWaiting(w, undecided)
		return nil
	}
	if err != nil {
		return err
	}
	return answer(result)
}

func outcome(err error) string {
	if err == nil {
		return "accepted"
	}
	var refusal *evidence.Refusal
	if errors.As(err, &refusal) {
		return refusal.Code
	}
	if u := (*onboard.WaitingError)(nil); errors.As(err, &u) {
		return "waiting"
	}
	return "error"
}

// The activation proof is bound to the device's own TLS connection. If a proxy terminates TLS, that
// connection ends at the proxy, so the hub cannot check the proof.
var errActivationProxied = problem(http.StatusBadRequest, "activation-through-proxy", "Connect the device to the hub directly, or configure the proxy to pass TLS through. Pantacor's two-step enrolment also works through a proxy that terminates TLS.",
	"An activation is bound to the device's own TLS connection, and a proxy terminated this connection.")

// activate activates the enrolment to which the connection's certificate belongs.
func (s *Server) activate(w http.ResponseWriter, r *http.Request) error {
	hash, _ := clientCertificate(r) // a request without a certificate does not get here: see pendingDevice
	if r.TLS.Version < tls.VersionTLS13 {
		return problem(http.StatusBadRequest, "tls-version", "Connect with TLS 1.3.", "An activation requires a TLS 1.3 connection.")
	}
	var body wire.ActivationRequest
	if err := readJSON(r, &body); err != nil {
		return err
	}
	exporter, err := r.TLS.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterSize)
	if err != nil {
		return err
	}
	d, err := s.cfg.Onboard.Activate(r.Context(), hash, exporter, body.Proof, remoteAddr(r))
	s.metrics.activations.WithLabelValues(outcome(err)).Inc()
	if err != nil {
		return err
	}
	s.live.tell(store.Event{Kind: "device.activated", Owner: d.Owner, Device: d.ID})
	view, err := s.deviceView(r.Context(), d)
	if err != nil {
		return err
	}
	view.Cloned = ""
	holdAnswer(r)
	writeJSON(w, http.StatusOK, view)
	return nil
}

// aikCertificate serves a certificate of the AIK registry, which contains only the AIKs that an
// activation proved. {file} is the IAK's TPM name in hexadecimal. For the device and its owner,
// {file} may also be the device's id. Other callers get the same answer for every id, so that the
// answer does not show which TPM a device has.
func (s *Server) aikCertificate(w http.ResponseWriter, r *http.Request) error {
	name, ok := strings.CutSuffix(r.PathValue("file"), ".crt")
	raw, err := hex.DecodeString(name)
	if !ok || err != nil || len(raw) > 66 {
		return errNoAIK
	}
	if wire.IsID(name) {
		if raw, err = s.ownIAKName(r, name); err != nil {
			return err
		}
	}
	aik, err := s.cfg.Store.AIK(r.Context(), raw)
	if errors.Is(err, store.ErrNotFound) {
		return errNoAIK
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/pkix-cert")
	setLength(w, len(aik.Certificate))
	_, err = w.Write(aik.Certificate)
	return err
}

var errNoAIK = problem(http.StatusNotFound, "not-found", "Use the URL in the certificate's subject alternative name. Only the device and its owner can use the device's id.", "Not found. The certificate does not exist, or its device belongs to another account.")
