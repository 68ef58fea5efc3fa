package api

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Threat: a reader of the hub's log learns a secret from the path of a request that failed, such as a
// claim code or the token of a signed URL.
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
