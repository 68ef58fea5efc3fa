package hub_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"testing"
)

// metrics reads /metrics.
func (s *scene) metrics(t testing.TB) string {
	t.Helper()
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.client.Roots}}}
	defer c.CloseIdleConnections()
	resp := must(c.Get(s.URL + "/metrics"))(t)
	defer resp.Body.Close()
	return string(must(io.ReadAll(resp.Body))(t))
}
