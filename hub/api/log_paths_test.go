package api

import (
	"bytes"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"gangway/hub/tracing"
	"gangway/hub/tracing/tracetest"

	"github.com/prometheus/client_golang/prometheus"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// Threat: a request fails, and its path contains a secret, such as a claim code or the token of a
// signed URL. A reader of the hub's log learns the secret.
func TestHubsLogHasNoSecretOfAPath(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := &Server{metrics: newMetrics(prometheus.NewRegistry()), log: slog.New(slog.NewTextHandler(&log, nil))}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /local-s3/{token}", func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, errors.New("broken")) })
	mux.HandleFunc("GET /claim/{code}", func(http.ResponseWriter, *http.Request) { panic("broken") })
	h := s.secured(mux)
	for request, route := range map[string]string{"PUT /local-s3/SECRET": "PUT /local-s3/{token}", "GET /claim/SECRET": "GET /claim/{code}"} {
		log.Reset()
		method, path, _ := strings.Cut(request, " ")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		if text := log.String(); w.Code != 500 || strings.Contains(text, "SECRET") || !strings.Contains(text, route) {
			t.Errorf("%s: %d, %s", request, w.Code, text)
		}
	}
}

// If a handler panics, the request's trace ends with the error type "panic", and without the
// panic's text. The line in the hub's log has the trace's id.
func TestPanicEndsTheTrace(t *testing.T) {
	t.Parallel()
	ratio, c := 1.0, tracetest.New(t)
	traces, err := tracing.New(t.Context(), tracing.Config{Endpoint: c.URL, Ratio: &ratio, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s := &Server{metrics: newMetrics(prometheus.NewRegistry()), log: slog.New(slog.NewTextHandler(&log, nil)), tracer: traces.Tracer()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /claim/{code}", func(http.ResponseWriter, *http.Request) { panic("SECRET") })
	w := httptest.NewRecorder()
	s.secured(mux).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/claim/SECRET", nil))
	traces.Close()
	spans := c.Spans(t)
	if w.Code != 500 || len(spans) != 1 || strings.Contains(c.Text(), "SECRET") {
		t.Fatalf("%d, %v", w.Code, spans)
	}
	span := spans[0]
	if span.Name != "GET /claim/{code}" || tracetest.Attribute(span, "error.type").GetStringValue() != "panic" || tracetest.Attribute(span, "http.response.status_code").GetIntValue() != 500 || span.Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR {
		t.Errorf("%v", span)
	}
	if !strings.Contains(log.String(), "trace="+hex.EncodeToString(span.TraceId)) {
		t.Errorf("the log does not name the trace: %s", log.String())
	}
}
