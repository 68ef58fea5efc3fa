package api_test

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/hub/ui"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/race"
)

// The hub refuses a request that changes something if the request has the browser's cookie but not
// the session's form token. The test sends such a request to every route that admits a session,
// both of the web pages and of the API.
func TestFormWithoutItsTokenIsRefused(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	f := newFleet(t)
	f.Server.Unlimited()
	f.setOperator(t, f.Owner.ID, true) // so that the operator's routes admit the session too
	b := f.browser(t)
	b.signIn()
	values := strings.NewReplacer("{sha256}", strings.Repeat("0", 64), "{id}", f.boatID, "{rev}", "0", "{sha}", strings.Repeat("0", 64), "{code}", claimCode(t))
	bearer := []string{"urlHolder", "activeDevice", "tlsDevice", "unmeasuredDevice", "pendingDevice", "anyone", "registrant"}
	tried := 0
	for _, r := range api.Routes() {
		if r.Method == "GET" || slices.Contains(bearer, r.Access) {
			continue
		}
		tried++
		for name, header := range map[string]map[string]string{
			"no token":    {"Cookie": b.cookie},
			"wrong field": {"Cookie": b.cookie, "Content-Type": "application/x-www-form-urlencoded", "Body": "csrf=AAAA"},
			"in JSON":     {"Cookie": b.cookie, "Content-Type": "application/json", "Body": `{"csrf":"` + b.token + `"}`},
			"multipart":   {"Cookie": b.cookie, "Content-Type": "multipart/form-data; boundary=x", "Body": "--x\r\nContent-Disposition: form-data; name=\"csrf\"\r\n\r\nAAAA\r\n--x--\r\n"},
		} {
			body := header["Body"]
			delete(header, "Body")
			status, answer, _ := b.request(r.Method, values.Replace(r.Path), body, header)
			if status != 403 && status != 413 || status == 403 && !strings.Contains(string(answer), "form-token") {
				t.Errorf("%s %s with %s: %d %s", r.Method, r.Path, name, status, brief.Of(answer))
			}
		}
	}
	if tried < 30 {
		t.Errorf("only %d routes were tried", tried)
	}
	// The refused requests, one of which was a sign-out, did not end the session. With the form
	// token, the sign-out succeeds.
	if status, page, _ := b.send("POST", "/sign-out", ""); status != 303 {
		t.Errorf("sign-out with the token: %d %s", status, brief.Of(page))
	}
}

func TestFormTokenOfAnotherSessionIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	first, second := s.browser(t), s.browser(t)
	first.signIn()
	second.signIn()
	if first.token == "" || first.token == second.token {
		t.Fatalf("the tokens of two sessions are %q and %q", first.token, second.token)
	}
	first.token = second.token
	if status, page, _ := first.send("POST", "/sign-out", ""); status != 403 {
		t.Errorf("%d %s", status, brief.Of(page))
	}
}

func TestSignInLeadsOnlyToTheHubsPages(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	for next, to := range map[string]string{
		"/ui/devices?q=state%3Aquiet":      "/ui/devices?q=state%3Aquiet",
		"":                                 "/ui/overview",
		"https://evil.example/ui/":         "/ui/overview",
		"//evil.example/ui/":               "/ui/overview",
		"/\\evil.example/ui/":              "/ui/overview",
		"/ui/\\..\\evil":                   "/ui/overview",
		"javascript:alert(1)":              "/ui/overview",
		"/devices/x":                       "/ui/overview",
		"/ui/\r\nSet-Cookie: a=b":          "/ui/overview",
		"ui/devices":                       "/ui/overview",
		"/%75i/devices":                    "/ui/overview",
		"/ui/" + strings.Repeat("a", 3000): "/ui/overview",
	} {
		b := s.browser(t)
		form := url.Values{"nick": {"ada"}, "password": {hubtest.Password}, "next": {next}}.Encode()
		if status, page, h := b.send("POST", "/sign-in", form); status != 303 || h.Get("Location") != to {
			t.Errorf("%q: %d to %q: %s", brief.Of(next), status, h.Get("Location"), brief.Of(page))
		}
		if _, _, h := b.send("GET", "/sign-in?next="+url.QueryEscape(next), ""); h.Get("Location") != to {
			t.Errorf("%q, signed in already: to %q", brief.Of(next), h.Get("Location"))
		}
	}
}

// A visitor who is not signed in gets the sign-in form first, and then the requested page. If a
// signed-in visitor follows a link on another site, the browser does not send the cookie, so the
// hub's answer makes the browser send the request again.
func TestSignedOutVisitorComesBack(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.person(t, "")
	accept := map[string]string{"Accept": "text/html"}
	status, _, h := p.request("GET", "/ui/overview?x=1&y=2", nil, accept)
	if want := "/sign-in?next=%2Fui%2Foverview%3Fx%3D1%26y%3D2"; status != 303 || h.Get("Location") != want {
		t.Errorf("%d to %q, not %q", status, h.Get("Location"), want)
	}
	status, page, _ := p.request("GET", "/ui/overview", nil, map[string]string{"Accept": "text/html", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
	if status != 200 || !strings.Contains(string(page), `http-equiv="refresh"`) || strings.Contains(string(page), "password") {
		t.Errorf("from another site: %d %s", status, brief.Of(page))
	}
	if status, body, _ := p.request("POST", "/ui/waiting/decide", "", accept); status != 401 {
		t.Errorf("a form: %d %s", status, brief.Of(body))
	}
	if status, body, _ := p.request("GET", "/ui/overview", nil, map[string]string{"Accept": "application/json"}); status != 401 {
		t.Errorf("a program: %d %s", status, brief.Of(body))
	}
}

// A page takes its notice from a cookie, which an attacker may have planted in the browser. The
// page does not interpret markup in the notice, and does not link to the attacker's site.
func TestPlantedNoticeIsHarmless(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	for _, notice := range []string{
		`{"x":"<script>alert(1)</script>","t":"\" onload=\"x"}`, `{"x":"a","p":"https://evil.example/","v":"x"}`, `{"x":"a","p":"//evil.example/ui/"}`, `[]`, `{`, "\x00",
	} {
		cookie := b.cookie + "; __Host-gangway-notice=" + base64.RawURLEncoding.EncodeToString([]byte(notice))
		status, page, _ := b.request("GET", "/ui/overview", nil, map[string]string{"Cookie": cookie})
		for _, bad := range []string{"<script>", "evil.example", `onload="`} {
			if status != 200 || strings.Contains(string(page), bad) {
				t.Errorf("%s: %d: the page has %s", notice, status, bad)
			}
		}
	}
}

// Static files are compressed, and browsers may cache them. Pages are neither compressed nor
// cached, because they contain secrets.
func TestOnlyStaticFilesAreCompressedAndKept(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	for path, static := range map[string]bool{ui.AssetPath("app.css"): true, ui.AssetPath("htmx.min.js"): true, "/ui/overview": false, "/sign-in": false} {
		status, _, h := b.request("GET", path, nil, map[string]string{"Cookie": b.cookie, "Accept-Encoding": "br, gzip"})
		gz, kept := h.Get("Content-Encoding") == "gzip", strings.Contains(h.Get("Cache-Control"), "immutable")
		if status >= 400 || gz != static || kept != static {
			t.Errorf("%s: %d, compressed %v, kept %v", path, status, gz, kept)
		}
	}
	for accept, want := range map[string]string{"": "", "gzip;q=0": "", "identity": "", "gzip;q=0.5": "gzip", "GZIP": "gzip"} {
		_, _, h := b.request("GET", ui.AssetPath("app.css"), nil, map[string]string{"Accept-Encoding": accept})
		if got := h.Get("Content-Encoding"); got != want {
			t.Errorf("Accept-Encoding %q: %q", accept, got)
		}
	}
}
