package api_test

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/locked"
)

// line is a line of the access log.
type line struct {
	Method, Route, Address, Actor, Means string
	Status                               int
	Bytes                                int64
	Seconds                              float64
}

func TestAccessLogHasALineForEachRequest(t *testing.T) {
	t.Parallel()
	var log locked.Buffer
	s := newSceneWith(t, func(c *api.Config) { c.AccessLog = slog.New(slog.NewJSONHandler(&log, nil)) })
	ada := s.person(t, "ada")
	want[[]api.DeviceView](ada, "GET", "/devices", nil, 200)
	wantCode(ada, "GET", "/devices/none", nil, 404)
	s.person(t, "").do("BREW", "/coffee", nil)
	var lines []line
	for text := range strings.SplitSeq(strings.TrimSpace(log.String()), "\n") {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		lines = append(lines, l)
	}
	for i, want := range []line{
		{Method: "POST", Route: "POST /auth/login", Status: 200}, {Method: "GET", Route: "GET /devices", Status: 200, Actor: "prn", Means: "api"},
		{Method: "GET", Route: "GET /devices/{id}", Status: 404, Actor: "prn", Means: "api"}, {Method: "other", Route: "/", Status: 404},
	} {
		if len(lines) != 4 {
			t.Fatalf("%d lines for 4 requests: %s", len(lines), brief.Of(lines))
		}
		got := lines[i]
		if got.Method != want.Method || got.Route != want.Route || got.Status != want.Status || got.Bytes == 0 || got.Seconds <= 0 || got.Address != "127.0.0.1" ||
			want.Means != "" && (got.Means != want.Means || !strings.HasPrefix(got.Actor, want.Actor)) {
			t.Errorf("%s, want %s", brief.Of(got), brief.Of(want))
		}
	}
}

// The access log must not contain a password, a token, a claim code or a signed URL. A client must
// not be able to write a line of its choice into the log.
func TestAccessLogHasNoSecretsAndNoClientsText(t *testing.T) {
	t.Parallel()
	var log locked.Buffer
	f := fleetOf(t, newSceneWith(t, func(c *api.Config) { c.AccessLog = slog.New(slog.NewJSONHandler(&log, nil)) }))
	created := want[api.JoinTokenCreated](f.ada, "POST", "/devices/tokens", nil, 200)
	object := announce(f.ada, "/objects/", "x", "content", 200)
	const mark = "xyzzy4711"
	for _, path := range []string{"/claims/" + mark, "/devices/" + mark, "/" + mark, "/fleet/devices?q=" + mark, "/local-s3/" + mark} {
		f.ada.request("GET", path, nil, map[string]string{"User-Agent": mark, "Referer": mark, "X-Forwarded-For": mark})
	}
	f.ada.do(mark, "/devices", nil)
	signed := object.PutURL[strings.LastIndexByte(object.PutURL, '/')+1:]
	for what, secret := range map[string]string{
		"password": hubtest.Password, "access token": f.ada.token, "join token": created.Token, "signed URL": signed, "client's text": mark, "device's id": "/devices/" + f.boatID,
	} {
		if secret == "" || strings.Contains(log.String(), secret) {
			t.Errorf("the access log contains the %s %q", what, secret)
		}
	}
}

// Profiles of the Go runtime (net/http/pprof) show the hub's memory, and each profile costs CPU
// time. The hub must serve profiles only on the private listener, and only if the operator wants
// them. It must never serve them on the listener that devices reach.
func TestProfilesAreOnThePrivateListenerOnly(t *testing.T) {
	t.Parallel()
	with, without := newSceneWith(t, func(c *api.Config) { c.Profiles = true }), newScene(t)
	private := func(s *scene, path string) int {
		w := httptest.NewRecorder()
		s.Server.PrivateHandler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code
	}
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/goroutine?debug=1", "/debug/pprof/cmdline"} {
		got := []int{private(with, path), private(without, path)}
		want := []int{200, 404}
		if strings.HasSuffix(path, "cmdline") { // may have a password
			want = []int{404, 404}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
		for _, s := range []*scene{with, without} {
			if status, body := s.person(t, "").do("GET", path, nil); status != 404 {
				t.Errorf("%s on the public listener: %d %.80s", path, status, body)
			}
		}
	}
}
