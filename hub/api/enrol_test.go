package api_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/tcg"
)

// A device sends an older and a newer request, and activates the certificates of the newer request
// first. The late activation of the older certificates does not supersede the newer certificates.
func TestLateActivationOfAnOlderRequestIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	older := must(s.victim.Enrol(t.Context(), s.client, must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)))(t)
	newer := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	refused(t, must(s.victim.Activate(t.Context(), s.client, older))(t), 410, onboard.CodeSuperseded)
	if err := s.handshake(t, newer.TLS(s.victim)); err != nil {
		t.Errorf("the newer certificate: %v", err)
	}
	d := s.Devices(t, s.Owner)
	if len(d) != 1 || d[0].IDevIDHash != store.Hash(newer.IDevIDHash()) || s.Uses(t, s.tok) != 1 {
		t.Errorf("%s", brief.Of(d))
	}
}

// After a device has onboarded again, the device repeats its earlier request. The hub answers the
// request, and its activation, with 410 and a problem code that means "superseded".
func TestSupersededRequestIsToldSo(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	request := must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)
	first := must(s.victim.Enrol(t.Context(), s.client, request))(t)
	if a := must(s.victim.Activate(t.Context(), s.client, first))(t); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	refused(t, s.post(t, request), 410, onboard.CodeSuperseded)
	refused(t, must(s.victim.Activate(t.Context(), s.client, first))(t), 410, onboard.CodeSuperseded)
}

// No answer to a device is chunked, even if the answer is long. Examples of long answers are the
// reply to a device with RSA keys, and a device's own record with much metadata.
func TestAnswersToDevicesHaveALength(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	d := must(fleet.New(s.maker, "L-1"))(t)
	d.IAK = must(fleet.NewKey(tcg.IAKTemplates[0], nil))(t)
	d.IDevID = must(fleet.NewKey(tcg.IDevIDTemplates[0], nil))(t)
	request := must(d.Request(s.tok, fleet.RequestChange{}))(t)

	ask := func(config *tls.Config, method, path string, body []byte) []byte {
		t.Helper()
		config.RootCAs, config.NextProtos = s.client.Roots, []string{"http/1.1"}
		conn := must(tls.Dial("tcp", strings.TrimPrefix(s.URL, "https://"), config))(t)
		defer conn.Close()
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: hub\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
		resp := must(http.ReadResponse(bufio.NewReader(conn), nil))(t)
		answer := must(io.ReadAll(resp.Body))(t)
		if resp.StatusCode != 200 || len(answer) <= 2048 {
			t.Fatalf("%s %s: %d, and %d bytes: more than 2048 were expected: %s", method, path, resp.StatusCode, len(answer), brief.Of(answer))
		}
		if len(resp.TransferEncoding) != 0 || resp.ContentLength != int64(len(answer)) {
			t.Errorf("%s %s: Transfer-Encoding %s, Content-Length %d, and %d bytes", method, path, brief.Of(resp.TransferEncoding), resp.ContentLength, len(answer))
		}
		return answer
	}
	reply := ask(&tls.Config{}, "POST", "/onboard", request)
	c := must(d.Open(request, reply))(t)
	if a := must(d.Activate(t.Context(), s.client, c))(t); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	conn := must(s.client.Dial(t.Context(), c.TLS(d)))(t)
	defer conn.Close()
	if a := must(conn.Do(t.Context(), "PATCH", "/device/meta", fmt.Appendf(nil, `{"long":%q}`, bytes.Repeat([]byte("x"), 4000))))(t); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	ask(&tls.Config{Certificates: []tls.Certificate{c.TLS(d)}}, "GET", "/device", nil)
	ask(&tls.Config{}, "GET", "/openapi.json", nil)
}
