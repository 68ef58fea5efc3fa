package api_test

import (
	"net/http/httptest"
	"testing"
)

// metrics returns the metrics that the operator's listener serves at /metrics.
func (s *scene) metrics(t testing.TB) string {
	t.Helper()
	w := httptest.NewRecorder()
	s.Server.PrivateHandler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("/metrics: %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}
