package api_test

import (
	"crypto/tls"
	"net/http"
	"testing"

	"gangway/hub/api"
)

// If the operator allows TLS 1.2, old devices can use it for API calls. But a request that is bound
// to its TLS connection always needs TLS 1.3.
func TestTLS12IsRefusedUnlessAllowedAndNeverActivates(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	serve := func(server *api.Server) string {
		l := must(tls.Listen("tcp", "127.0.0.1:0", server.TLSConfig()))(t)
		h := &http.Server{Handler: server.Handler()}
		go h.Serve(l)
		t.Cleanup(func() { h.Close() })
		return l.Addr().String()
	}
	old := must(api.New(api.Config{Store: s.Store, CA: s.CA, Onboard: s.Service, Objects: s.Objects, Log: s.Log(), Now: s.Now, PublicURL: s.URL, Names: []string{"127.0.0.1"}, TLS12: true}))(t)
	lax, strict := serve(old), s.URL[len("https://"):]
	config := &tls.Config{RootCAs: s.client.Roots, MaxVersion: tls.VersionTLS12}
	if c, err := tls.Dial("tcp", strict, config); err == nil {
		c.Close()
		t.Error("TLS 1.2 is accepted")
	}
	c, err := tls.Dial("tcp", lax, config)
	if err != nil {
		t.Fatalf("TLS 1.2 is refused: %v", err)
	}
	c.Close()
	certs := must(s.victim.Enrol(t.Context(), s.client, s.request(t, s.victim)))(t)
	config.Certificates = []tls.Certificate{certs.TLS(s.victim)}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	defer client.CloseIdleConnections()
	resp := must(client.Post("https://"+lax+"/onboard/activate", "application/json", nil))(t)
	defer resp.Body.Close()
	if resp.StatusCode != 400 {
		t.Errorf("%s", resp.Status)
	}
	s.boundNothing(t)
}
