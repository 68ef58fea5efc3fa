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
	"gangway/hub/search"
	"gangway/hub/store"
	"gangway/hub/ui"
)

// Problem is the body of an error answer: a stable code, a sentence about what is wrong, and a
// sentence about the remedy. Pantacor's clients display only "msg".
type Problem struct {
	Status  int    `json:"code"` // the HTTP status again, as Pantacor's clients expect it in the body
	Code    string `json:"error"`
	Message string `json:"msg"`
	Hint    string `json:"hint,omitempty"`
	// If the code is "certificate-not-active", Certificate is the state of the connection's
	// certificate: "unknown", "pending", "superseded", "expired" or "revoked".
	Certificate string `json:"certificate,omitempty"`
	// If the code begins with "search-", Search is the part of the search's text that is wrong.
	Search *SearchProblem `json:"search,omitempty"`
}

// SearchProblem is the part of a search's text that is wrong.
type SearchProblem struct {
	Offset int    `json:"offset"` // offset of Word in the text, in bytes of UTF-8
	Word   string `json:"word"`
}

func (p *Problem) Error() string { return p.Message }

func problem(status int, code, hint, format string, args ...any) *Problem {
	return &Problem{Status: status, Code: code, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// fail answers with the problem that knownProblem returns for an error. If the error is unexpected,
// fail logs it and answers 500 without the error's text, which may contain secrets.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := s.knownProblem(r, err)
	if p == nil {
		s.metrics.errors.WithLabelValues(internalError).Inc()
		s.log.Error("request failed", "route", routeOf(r), "err", err, traceOf(r.Context()))
		p = problem(http.StatusInternalServerError, "internal", "Try again. If the request fails again, ask the hub's operator to read the hub's log.", "The hub failed to answer the request.")
	}
	s.metrics.refusals.WithLabelValues(p.Code).Inc()
	traceError(r, p.Code)
	if p.Status == http.StatusUnauthorized {
		s.setAuthenticate(w, r)
	}
	switch p.Status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", strconv.Itoa(s.retryAfter(r)))
	case http.StatusInsufficientStorage:
		w.Header().Set("Retry-After", "60")
	}
	if p.Code == errNotSignedIn.Code && isPage(r) && (r.Method == http.MethodGet || r.Method == http.MethodHead) && s.toSignIn(w, r) == nil {
		return
	}
	if strings.Contains(r.Header.Get("Accept"), "text/html") { // for a browser
		data := ui.Problem{Code: p.Code, Message: p.Message, Hint: p.Hint}
		if p.Code == "no-such-route" { // a person knows pages and addresses, not routes
			data.Message, data.Hint = "This page does not exist.", "Check the address. The link that you followed may be old."
		}
		if s.renderPage(w, r, p.Status, "problem", ui.Page{Title: "Problem", Data: data}) == nil {
			return
		}
	}
	writeJSON(w, p.Status, p)
}

// knownProblem returns the problem that describes an error, or nil if the error is unexpected.
func (s *Server) knownProblem(r *http.Request, err error) *Problem {
	var p *Problem
	var refusal *evidence.Refusal
	var tooLarge *http.MaxBytesError
	var meta *store.MetaError
	var badSearch *store.ErrBadSearch
	var badQuery *search.Error
	if p := s.temporaryProblem(r, err); p != nil {
		return p
	}
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &refusal):
		return &Problem{Status: statusOf(refusal.Code), Code: refusal.Code, Message: refusal.Reason, Hint: refusal.Hint}
	case errors.As(err, &tooLarge):
		return problem(http.StatusRequestEntityTooLarge, "body-too-large", "Send a smaller body.", "The body is larger than the limit of %d bytes.", tooLarge.Limit)
	case errors.As(err, &meta):
		return problem(http.StatusBadRequest, "meta-malformed", "Use fewer levels of nesting, or store the value as a string that contains JSON.", "The metadata key %.64q cannot be stored: %v.", meta.Name, meta.Err)
	case errors.As(err, &badQuery):
		p = problem(http.StatusBadRequest, badQuery.Code, badQuery.Remedy, "%s", badQuery.Reason)
		p.Search = &SearchProblem{Offset: badQuery.Offset, Word: badQuery.Word}
		return p
	case errors.As(err, &badSearch):
		return problem(http.StatusBadRequest, "search-refused", "See docs/search.md for the searches that the hub offers.", "%s", badSearch.Reason)
	case errors.Is(err, store.ErrTooLarge):
		return problem(http.StatusRequestEntityTooLarge, "meta-too-large", "Delete keys by setting them to null.", "The metadata would have more than %d bytes.", store.MaxMeta)
	case errors.Is(err, store.ErrNotFound):
		return problem(http.StatusNotFound, "not-found", "Check the id. It must belong to your account.", "Not found. The id does not exist, or it belongs to another account.")
	case errors.Is(err, store.ErrExists):
		return problem(http.StatusConflict, "exists", "Choose another name.", "The name is in use.")
	case r.Context().Err() != nil:
		return problem(http.StatusServiceUnavailable, "interrupted", "Try again.", "The request was interrupted.")
	}
	return nil
}

// setAuthenticate sets the WWW-Authenticate header, which each answer with status 401 must have.
// Pantacor's clients require exactly this form, because they split the header at ", ".
func (s *Server) setAuthenticate(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`JWT realm="pantahub services", ph-aeps="%s/auth"`, s.urlFor(r)))
}

// statusOf returns the HTTP status of a refusal with this code.
func statusOf(code string) int {
	switch code {
	case onboard.CodeOtherOwner, onboard.CodeOtherEK:
		return http.StatusConflict
	case onboard.CodeExpired, onboard.CodeSuperseded, onboard.CodeRevoked:
		return http.StatusGone
	case evidence.CodeRevocationUnknown: // the agent retries by itself
		return http.StatusServiceUnavailable
	case "csr-hash", onboard.CodeSteps, onboard.CodeDeviceName, onboard.CodeDevicePRN, "ak-name", "idevid-name":
		return http.StatusBadRequest
	}
	if strings.HasSuffix(code, "-malformed") {
		return http.StatusBadRequest
	}
	return http.StatusForbidden
}

// writeJSON answers with JSON. It does not escape <, > and &, because some devices cannot decode
// the escapes. This is safe, because browsers never show application/json as a page.
func writeJSON(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // every answer's type can be marshalled
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	setLength(w, b.Len())
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

// setLength sets Content-Length. Without it, net/http sends long answers in chunks, which the small
// HTTP clients of some devices cannot read.
func setLength(w http.ResponseWriter, n int) {
	w.Header().Set("Content-Length", strconv.Itoa(n))
}
