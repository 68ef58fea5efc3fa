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

// enrol takes a TCG-CSR-IDEVID and answers with certificates sealed to the
// TPM: the one round trip.
func (s *Server) enrol(w http.ResponseWriter, r *http.Request) error {
	return answerRequest(s, w, r, s.cfg.Onboard.Enrol, func(reply []byte) error {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		setLength(w, len(reply))
		_, err := w.Write(reply)
		return err
	})
}

// bytesPerRequest is how many bytes of a request count as one, for the rate limit.
const bytesPerRequest = 16 << 10

// answerRequest has a request of at most limit bytes judged, counts how it ended, and
// answers: that it waits for a person, or as answer does.
func answerRequest[T any](s *Server, w http.ResponseWriter, r *http.Request, judge func(ctx context.Context, body []byte, addr string) (T, error), answer func(T) error) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.metrics.enrolments.WithLabelValues("body").Inc()
		return readError(err)
	}
	// What is large fills the hub sooner: each further 16 KiB is a request.
	if more := len(body) / bytesPerRequest; more > 0 && !s.limiters[onboardRate].charge(network(remoteAddr(r)), more, s.cfg.Now()) {
		s.metrics.enrolments.WithLabelValues(errTooFast.Code).Inc()
		return errTooFast
	}
	made, err := judge(r.Context(), body, remoteAddr(r))
	s.metrics.enrolments.WithLabelValues(outcome(err)).Inc()
	var undecided *onboard.Undecided
	if errors.As(err, &undecided) {
		answerWaiting(w, undecided)
		return nil
	}
	if err != nil {
		return err
	}
	return answer(made)
}

func outcome(err error) string {
	if err == nil {
		return "accepted"
	}
	var refusal *evidence.Refusal
	if errors.As(err, &refusal) {
		return refusal.Code
	}
	if u := (*onboard.Undecided)(nil); errors.As(err, &u) {
		return "waiting"
	}
	return "error"
}

// The activation proof is bound to the device's own TLS connection, which ends at the proxy if
// there is one.
var errActivationProxied = problem(http.StatusBadRequest, "activation-through-proxy", "Let the device reach the hub directly, or have the proxy pass TLS through; or onboard by Pantacor's two steps, which need no connection of the device's own.",
	"An activation is bound to the device's own TLS connection, and this one came through a proxy that ended it.")

// activate binds the device of this very connection.
func (s *Server) activate(w http.ResponseWriter, r *http.Request) error {
	hash, _ := clientCertificate(r) // pendingDevice has one
	if r.TLS.Version < tls.VersionTLS13 {
		return problem(http.StatusBadRequest, "tls-version", "Connect with TLS 1.3.", "An activation is bound to its connection, which must be of TLS 1.3.")
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
	view, err := s.deviceView(r.Context(), d)
	if err != nil {
		return err
	}
	view.Cloned = ""
	writeJSON(w, http.StatusOK, view)
	return nil
}

// aikCertificate serves a certificate of the AIK registry, which holds only
// those that an activation proved: by the IAK's name in hexadecimal, which its
// holder knows; or by the device's id, to the device and its owner. Every other
// request gets the same answer, so that an id tells nobody which TPM is here.
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

var errNoAIK = problem(http.StatusNotFound, "not-found", "Use the address in the certificate's subject alternative name. By a device's id, only the device and its owner find it.", "There is no such certificate, or it is not yours.")
