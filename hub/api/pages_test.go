package api_test

import (
	"html"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"gangway/hub/ui"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
)

// browser is a person who uses the web pages. Unlike the type person, it sends forms, and
// identifies itself with a cookie instead of a bearer token.
type browser struct {
	*person
	cookie string
	token  string // the form token of the last page that had one
}

func (s *scene) browser(t *testing.T) *browser { return &browser{person: s.person(t, "")} }

func (b *browser) send(method, path, form string) (int, string, http.Header) {
	b.t.Helper()
	header := map[string]string{}
	var body any
	if method == "POST" {
		if b.token != "" {
			form += "&csrf=" + b.token
		}
		header["Content-Type"], header["Origin"], body = "application/x-www-form-urlencoded", b.s.URL, form
	}
	if b.cookie != "" {
		header["Cookie"] = b.cookie
	}
	status, page, h := b.request(method, path, body, header)
	for _, line := range h.Values("Set-Cookie") {
		if strings.HasPrefix(line, "__Host-gangway=") {
			b.cookie, _, _ = strings.Cut(line, ";")
		}
	}
	if token := formTokenIn(string(page)); token != "" {
		b.token = token
	}
	return status, string(page), h
}

// The method `sees` opens a page, and checks that the page has each text in `has` and no text in
// `lacks`.
func (b *browser) sees(path string, has, lacks []string) {
	b.t.Helper()
	status, page, _ := b.send("GET", path, "")
	for _, want := range has {
		if status != 200 || !strings.Contains(page, want) {
			b.t.Errorf("%s: %d, and the page lacks %q: %s", path, status, want, brief.Of(page))
		}
	}
	for _, not := range lacks {
		if strings.Contains(page, not) {
			b.t.Errorf("%s: the page has %q", path, not)
		}
	}
}

// formTokenIn finds the form token in a page.
func formTokenIn(page string) string {
	_, rest, _ := strings.Cut(page, `name="csrf" value="`)
	token, _, _ := strings.Cut(rest, `"`)
	return token
}

// The method `signIn` signs in as ada, and takes a form token from the overview.
func (b *browser) signIn() {
	b.t.Helper()
	defer func() { b.send("GET", "/ui/overview", "") }()
	status, page, h := b.send("POST", "/sign-in", "nick=ada&password="+strings.ReplaceAll(hubtest.Password, " ", "+"))
	if status != 303 || h.Get("Location") != "/ui/overview" {
		b.t.Fatalf("sign-in: %d to %q: %s", status, h.Get("Location"), brief.Of(page))
	}
}

func TestPersonSignsInAndOutOnThePage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	status, page, h := b.send("GET", "/sign-in", "")
	if status != 200 || !strings.Contains(page, `action="/sign-in"`) || !strings.HasPrefix(h.Get("Content-Type"), "text/html") || h.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %s: %s", status, brief.Of(h), brief.Of(page))
	}
	if status, page, h := b.send("POST", "/sign-in", "nick=ada&password=wrong"); status != 401 || h.Get("Set-Cookie") != "" ||
		!strings.Contains(page, `role="alert"`) || !strings.Contains(page, `value="ada"`) {
		t.Fatalf("wrong password: %d %q: %s", status, h.Get("Set-Cookie"), brief.Of(page))
	}
	b.signIn()
	if status, page, _ := b.send("GET", "/ui/overview", ""); status != 200 || !strings.Contains(page, "No device yet") ||
		!strings.Contains(page, "--hub-name "+s.CA.HubName()) || !strings.Contains(page, "gangway token create &gt; device_autojointoken.json") {
		t.Fatalf("no hint on how to begin: %d %s", status, brief.Of(page))
	}
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	nick := s.Devices(t, s.Owner)[0].Nick
	if _, page, _ := b.send("GET", "/ui/devices", ""); !strings.Contains(page, nick) || !strings.Contains(page, "1 device") || !strings.Contains(page, ">active<") {
		t.Fatalf("the device is not on the page: %s", brief.Of(page))
	}

	signedIn := b.cookie
	if status, _, h := b.send("POST", "/sign-out", ""); status != 303 || !strings.Contains(h.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("sign-out: %d %q", status, h.Get("Set-Cookie"))
	}
	// The session has ended on the hub too, not only in this browser.
	b.cookie = signedIn
	if _, page, _ := b.send("GET", "/ui/overview", ""); strings.Contains(page, nick) {
		t.Error("the cookie is valid after signing out")
	}
	if status, _, _ := b.send("POST", "/sign-out", ""); status != 303 {
		t.Errorf("signing out twice: status %d", status)
	}
}

func TestPageShowsNothingOfAnotherOwner(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Account(t, "mallory")
	theirs := s.Token(t, must(s.Store.AccountByNickOrEmail(t.Context(), "mallory"))(t), nil)
	must(s.victim.Onboard(t.Context(), s.client, theirs))(t)
	id := s.deviceOf(t, s.victim)
	nick := must(s.Store.Device(t.Context(), id))(t).Nick
	b := s.browser(t)
	b.signIn()
	if _, page, _ := b.send("GET", "/ui/overview", ""); strings.Contains(page, id) || strings.Contains(page, nick) || !strings.Contains(page, "No device yet") {
		t.Errorf("ada sees mallory's device: %s", brief.Of(page))
	}
}

// The pages show text that a device sends about itself, and text that a person types into a form,
// without interpreting any markup in it.
func TestPageShowsMarkupOfOthersAsText(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	const attack = `"><script>alert(1)</script><img src=x onerror=alert(2)>`
	s.victim.Model, s.victim.Serial = attack, attack
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	b := s.browser(t)
	_, form, _ := b.send("POST", "/sign-in", "password=x&nick=%22%3E%3Cscript%3Ealert(1)%3C/script%3E%3Cimg+src=x+onerror=alert(2)%3E")
	b.signIn()
	_, list, _ := b.send("GET", "/ui/overview", "")
	for name, page := range map[string]string{"form": form, "list": list} {
		if strings.Contains(page, "<script>") || strings.Contains(page, "<img") {
			t.Errorf("%s: the page has the markup: %s", name, brief.Of(page))
		}
		if !strings.Contains(html.UnescapeString(page), attack) {
			t.Errorf("%s: the text is not shown: %s", name, brief.Of(page))
		}
	}
}

// The Content-Security-Policy forbids scripts and inline styles, so the pages must not have scripts
// or inline styles.
func TestPagesKeepToTheirContentPolicy(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	b := s.browser(t)
	inline := regexp.MustCompile(`(?i)<script>|<script [^>]*>[^<]|<style|\sstyle=|\son[a-z]+=|javascript:`)
	check := func(what, path string) {
		t.Helper()
		_, page, h := b.send("GET", path, "")
		if found := inline.FindString(page); found != "" {
			t.Errorf("%s has %q", what, found)
		}
		for _, want := range []string{"default-src 'none'", "style-src 'self'", "form-action 'self'", "frame-ancestors 'none'"} {
			if csp := h.Get("Content-Security-Policy"); !strings.Contains(csp, want) {
				t.Errorf("%s: %q lacks %q", what, csp, want)
			}
		}
	}
	check("the sign-in", "/sign-in")
	b.signIn()
	check("the overview", "/ui/overview")
	if status, sheet, h := b.send("GET", ui.AssetPath("app.css"), ""); status != 200 || !strings.HasPrefix(h.Get("Content-Type"), "text/css") || !strings.Contains(sheet, "prefers-color-scheme: dark") {
		t.Errorf("style sheet: %d %s", status, brief.Of(h))
	}
}

func TestOversizedFormIsRefused(t *testing.T) {
	t.Parallel()
	b := newScene(t).browser(t)
	if status, page, _ := b.send("POST", "/sign-in", "nick=ada&password="+strings.Repeat("x", 1<<20)); status != 413 {
		t.Errorf("%d %s", status, brief.Of(page))
	}
}

// A browser gets an error as a page, and a program gets it as JSON.
func TestBrowserGetsAPageForAProblem(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.person(t, "")
	status, body, header := p.request("GET", "/nothing", nil, map[string]string{"Accept": "text/html,application/xhtml+xml;q=0.9"})
	if status != 404 || !strings.HasPrefix(header.Get("Content-Type"), "text/html") || !strings.Contains(string(body), "This page does not exist.") || !strings.Contains(string(body), "no-such-route") {
		t.Errorf("%d %s %s", status, brief.Of(header), body)
	}
	status, _, header = p.request("GET", "/nothing", nil, nil)
	if status != 404 || header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s", status, brief.Of(header))
	}
}
