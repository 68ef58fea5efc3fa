package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/hub/ui"
)

// Problem is an answer that is no success: a stable code, a sentence for a
// person, and what to do next. Pantacor's clients show msg.
type Problem struct {
	Status  int    `json:"code"` // the HTTP status again, as Pantacor's clients expect it in the body
	Code    string `json:"error"`
	Message string `json:"msg"`
	Hint    string `json:"hint,omitempty"`
	// Certificate is what became of the connection's certificate, with the code
	// "certificate-not-active".
	Certificate string `json:"certificate,omitempty"`
}

func (p *Problem) Error() string { return p.Message }

func problem(status int, code, hint, format string, args ...any) *Problem {
	return &Problem{Status: status, Code: code, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// fail answers with a problem. Errors that are none of ours are logged and
// answered as 500 without their text, which may tell too much.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var p *Problem
	var refusal *evidence.Refusal
	var tooLarge *http.MaxBytesError
	var meta *store.MetaError
	trouble := s.trouble(r, err)
	switch {
	case trouble != nil:
		p = trouble
	case errors.As(err, &p):
	case errors.As(err, &refusal):
		p = &Problem{Status: statusOf(refusal.Code), Code: refusal.Code, Message: refusal.Reason, Hint: refusal.Hint}
	case errors.As(err, &tooLarge):
		p = problem(http.StatusRequestEntityTooLarge, "body-too-large", "Send less.", "The body is larger than the %d bytes that are allowed here.", tooLarge.Limit)
	case errors.As(err, &meta):
		p = problem(http.StatusBadRequest, "meta-malformed", "Write it flatter, or as a string with JSON in it.", "The metadata's %.64q cannot be kept: %v.", meta.Name, meta.Err)
	case errors.Is(err, store.ErrTooLarge):
		p = problem(http.StatusRequestEntityTooLarge, "meta-too-large", "Delete keys by setting them to null.", "The metadata would be larger than %d bytes.", store.MaxMeta)
	case errors.Is(err, store.ErrNotFound):
		p = problem(http.StatusNotFound, "not-found", "Check the id; list yours to see them.", "There is no such thing, or it is not yours.")
	case errors.Is(err, store.ErrExists):
		p = problem(http.StatusConflict, "exists", "Choose another name.", "The name is taken.")
	case r.Context().Err() != nil:
		p = problem(http.StatusServiceUnavailable, "interrupted", "Try again.", "The request was interrupted.")
	default:
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
		p = problem(http.StatusInternalServerError, "internal", "Try again; the operator finds the cause in the hub's log.", "The hub could not do it.")
	}
	if p.Status == http.StatusUnauthorized {
		s.setAuthenticate(w)
	}
	switch p.Status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "5")
	case http.StatusInsufficientStorage:
		w.Header().Set("Retry-After", "60")
	}
	if strings.Contains(r.Header.Get("Accept"), "text/html") { // a person looks at it
		var page bytes.Buffer
		if err := ui.WriteProblem(&page, ui.Problem{Code: p.Code, Message: p.Message, Hint: p.Hint}); err == nil {
			s.html(w, p.Status, page.Bytes())
			return
		}
	}
	writeJSON(w, p.Status, p)
}

// setAuthenticate sets what each 401 must have. Pantacor's clients need exactly
// this form (parts split on ", ").
func (s *Server) setAuthenticate(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`JWT realm="pantahub services", ph-aeps="%s/auth"`, s.cfg.PublicURL))
}

// statusOf gives the HTTP status of a refusal by its code.
func statusOf(code string) int {
	switch code {
	case onboard.CodeOtherOwner, onboard.CodeOtherEK:
		return http.StatusConflict
	case onboard.CodeExpired, onboard.CodeSuperseded, onboard.CodeRevoked:
		return http.StatusGone
	case evidence.CodeRevocationUnknown: // the agent tries again by itself
		return http.StatusServiceUnavailable
	case "csr-hash", onboard.CodeSteps, onboard.CodeDeviceName, onboard.CodeDevicePRN, "ak-name", "idevid-name":
		return http.StatusBadRequest
	}
	if strings.HasSuffix(code, "-malformed") {
		return http.StatusBadRequest
	}
	return http.StatusForbidden
}

// writeJSON answers. Texts are escaped no more than JSON demands, for devices
// that take them as they stand; and no answer of this type is ever a page.
func writeJSON(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // all answers are made of types that marshal
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	setLength(w, b.Len())
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

// setLength tells how long an answer is. Go does it only for short ones, and
// sends the others in chunks, which a device's small HTTP client may not read.
func setLength(w http.ResponseWriter, n int) {
	w.Header().Set("Content-Length", strconv.Itoa(n))
}
