package api_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/internal/brief"
)

// TLS works as docs/protocol.md#10-transport says: a client that offers only one of the listed
// groups needs no HelloRetryRequest, the hub has one P-256 certificate, and ALPN is optional.
func TestTransportIsAsThePageSays(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	hello := func(config *tls.Config) (tls.ConnectionState, string) {
		t.Helper()
		config.RootCAs = s.client.Roots
		conn := must(tls.Dial("tcp", strings.TrimPrefix(s.URL, "https://"), config))(t)
		defer conn.Close()
		state := conn.ConnectionState()
		if state.NegotiatedProtocol == "h2" {
			return state, ""
		}
		fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n")
		resp := must(http.ReadResponse(bufio.NewReader(conn), nil))(t)
		return state, resp.Proto
	}
	for _, group := range []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521, tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024} {
		state, _ := hello(&tls.Config{CurvePreferences: []tls.CurveID{group}})
		if state.CurveID != group || state.HelloRetryRequest || state.Version != tls.VersionTLS13 {
			t.Errorf("%v: version %x, group %v, a HelloRetryRequest: %v", group, state.Version, state.CurveID, state.HelloRetryRequest)
		}
		key, ok := state.PeerCertificates[0].PublicKey.(*ecdsa.PublicKey)
		if len(state.PeerCertificates) != 1 || !ok || key.Curve != elliptic.P256() {
			t.Errorf("%v: %d certificates, the first of a %T", group, len(state.PeerCertificates), state.PeerCertificates[0].PublicKey)
		}
	}
	for _, protocols := range [][]string{nil, {"http/1.1"}, {"h2"}} {
		state, proto := hello(&tls.Config{NextProtos: protocols})
		if want := strings.Join(protocols, ""); state.NegotiatedProtocol != want || want != "h2" && proto != "HTTP/1.1" {
			t.Errorf("%q: %q, %q", want, state.NegotiatedProtocol, proto)
		}
	}
}

// HTTP and JSON work as docs/protocol.md#10-transport says: paths are exact, the hub never
// redirects, and it refuses a byte order mark, or data after the JSON object.
func TestRequestsAreExact(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.person(t, "")
	for _, path := range []string{"/onboard/", "/Onboard", "/onboard/activate/", "/register/", "/enroll/request/"} {
		if status, body, h := p.request("POST", path, "{}", nil); status != 404 && status != 405 || h.Get("Location") != "" {
			t.Errorf("POST %s: %d %s", path, status, body)
		}
	}
	const question = `{"token-id":"a","owner":"b","idevid-name":"c","signature":"AAAA"}`
	for name, c := range map[string]struct{ body, want string }{
		"as it must be":      {question, "signature"},
		"white space":        {"\r\n\t " + question + " \n", "signature"},
		"a byte order mark":  {"\ufeff" + question, "body-malformed"},
		"another object":     {question + question, "body-malformed"},
		"not padded":         {strings.Replace(question, "AAAA", "AA", 1), "body-malformed"},
		"base64url":          {strings.Replace(question, "AAAA", "__--", 1), "body-malformed"},
		"an array":           {"[" + question + "]", "body-malformed"},
		"compressed or what": {"\x1f\x8b\x08", "body-malformed"},
	} {
		status, body, h := p.request("POST", "/auth/signature/verify", c.body, map[string]string{"Accept-Encoding": "gzip"})
		if status != 400 || !strings.Contains(string(body), `"error":"`+c.want+`"`) || h.Get("Content-Encoding") != "" {
			t.Errorf("%s: %d %s %s", name, status, body, brief.Of(h))
		}
	}
}

// If a device sends the same boot report twice, as if the first answer was lost, it gets the same
// answer both times, and the hub stores one measurement.
func TestSameReportTwiceIsOneMeasurement(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c, _, id := s.connected(t)
	r := report(t, s.victim, challenge(t, c).Nonce, usual, 1)
	first, second := sendBoot(t, c, r), sendBoot(t, c, r)
	if first.Status != 200 || second.Status != 200 || string(first.Body) != string(second.Body) {
		t.Errorf("%d %s, then %d %s", first.Status, first.Body, second.Status, second.Body)
	}
	if v := want[api.BootView](s.person(t, "ada"), "GET", "/devices/"+id+"/boot", nil, 200); len(v.History) != 1 {
		t.Errorf("%d measurements", len(v.History))
	}
}
