package api

import (
	"cmp"
	"log/slog"
	"net/http"
	"time"

	"gangway/hub/store"
)

// answer is a response whose status and size are recorded.
type answer struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 { // after an informational answer (1xx), the final answer follows
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	n, err := a.ResponseWriter.Write(b)
	a.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// The method `logged` writes a line of the access log for each request. The line has the route's
// pattern and not the path, because paths and queries contain secrets, such as claim codes and
// signed URLs.
func (s *Server) logged(next http.Handler) http.Handler {
	if s.cfg.AccessLog == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun, a := time.Now(), &answer{ResponseWriter: w}
		defer func() {
			status := a.status
			if status == 0 {
				status = http.StatusOK // net/http sends this status if a handler writes nothing
			}
			p := recover()
			if p != nil {
				status = http.StatusInternalServerError
			}
			actor := store.ActorIn(r.Context())
			s.cfg.AccessLog.LogAttrs(r.Context(), slog.LevelInfo, "request",
				slog.String("method", knownMethod(r.Method)), slog.String("route", r.Pattern), slog.Int("status", status), slog.Int64("bytes", a.bytes),
				slog.Float64("seconds", time.Since(begun).Seconds()), slog.String("address", actor.Addr), slog.String("actor", actor.ID), slog.String("means", actor.Means), traceOf(r.Context()))
			if p != nil {
				panic(p)
			}
		}()
		next.ServeHTTP(a, r)
	})
}

// routeOf names a request in the hub's log: by the pattern of its route, because a path can contain
// a claim code or a signed URL.
func routeOf(r *http.Request) string {
	return cmp.Or(r.Pattern, knownMethod(r.Method)+" without a route")
}

// knownMethod returns the method, or "other" for a method that no route has, because a client may
// send any text.
func knownMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "other"
}
