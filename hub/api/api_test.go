package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/wire"
)

// person is a signed-in client of the API.
type person struct {
	t      *testing.T
	s      *scene
	token  string
	client *http.Client
}

func (s *scene) person(t *testing.T, nick string) *person {
	t.Helper()
	p := &person{t: t, s: s, client: &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.client.Roots}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	t.Cleanup(p.client.CloseIdleConnections)
	if nick == "" {
		return p
	}
	status, body := p.do("POST", "/auth/login", map[string]string{"username": nick, "password": hubtest.Password})
	var answer struct{ Token string }
	if err := json.Unmarshal(body, &answer); status != 200 || err != nil || answer.Token == "" {
		t.Fatalf("sign-in: %d %s", status, body)
	}
	p.token = answer.Token
	return p
}

func (p *person) do(method, path string, in any) (int, fleet.Body) {
	p.t.Helper()
	status, body, _ := p.request(method, path, in, nil)
	return status, body
}

func (p *person) request(method, path string, in any, header map[string]string) (int, fleet.Body, http.Header) {
	p.t.Helper()
	var body io.Reader
	switch v := in.(type) {
	case nil:
	case string:
		body = strings.NewReader(v)
	default:
		b, err := json.Marshal(v)
		if err != nil {
			p.t.Fatal(err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, p.s.URL+path, body)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, b, resp.Header
}

// want sends a request and returns the decoded answer. It fails the test if the answer has another
// status than `status`.
func want[T any](p *person, method, path string, in any, status int) T {
	p.t.Helper()
	got, body := p.do(method, path, in)
	if got != status {
		p.t.Fatalf("%s %s: %d %s, want %d", method, brief.Of(path), got, body, status)
	}
	var out T
	if err := json.Unmarshal(body, &out); err != nil {
		p.t.Fatalf("%s %s: %v: %s", method, brief.Of(path), err, body)
	}
	return out
}

// An owner makes a join token, onboards a device with it, and uses the API to see and to change the
// device.
func TestOwnersDay(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	if who := want[struct{ Nick, Type string }](ada, "GET", "/auth/auth_status", nil, 200); who.Nick != "ada" || who.Type != "USER" {
		t.Errorf("%s", brief.Of(who))
	}
	created := want[api.JoinTokenCreated](ada, "POST", "/devices/tokens", api.NewJoinToken{Nick: "batch", MaxUses: 2, ExpiresIn: "1h", DefaultUserMeta: map[string]any{"site": "oslo"}}, 200)
	raw, err := json.Marshal(created)
	if err != nil {
		t.Fatal(err)
	}
	tok := must(wire.ParseTokenFile(raw))(t) // the API's answer is a token file
	must(s.victim.Onboard(t.Context(), s.client, tok))(t)

	list := want[[]api.DeviceView](ada, "GET", "/devices/", nil, 200)
	if len(list) != 1 || list[0].UserMeta["site"] != "oslo" || list[0].OwnerNick != "ada" || list[0].TPM.Manufacturer != "FAKE" {
		t.Fatalf("%s", brief.Of(list))
	}
	d := list[0]
	e := want[api.EvidenceView](ada, "GET", "/devices/"+d.ID+"/evidence", nil, 200)
	if !e.Verdict.Accepted() || len(e.Verdict.Checks) != 11 || !strings.Contains(e.IDevIDCertificate, "BEGIN CERTIFICATE") || len(e.Request) == 0 {
		t.Errorf("evidence: %s", brief.Of(e))
	}
	if again := want[api.DeviceView](ada, "PATCH", "/devices/"+d.ID, map[string]string{"nick": "flagship"}, 200); again.Nick != "flagship" {
		t.Errorf("%s", brief.Of(again))
	}
	want[map[string]any](ada, "PATCH", "/devices/"+d.ID+"/user-meta", map[string]any{"site": nil, "rack": 7}, 200)
	d = want[api.DeviceView](ada, "GET", "/devices/"+d.ID, nil, 200)
	if _, still := d.UserMeta["site"]; still || d.UserMeta["rack"] != 7.0 || d.Nick != "flagship" {
		t.Errorf("%s", brief.Of(d))
	}
	tokens := want[[]api.JoinTokenView](ada, "GET", "/devices/tokens", nil, 200)
	if len(tokens) != 2 || tokens[0].Uses+tokens[1].Uses != 1 {
		t.Errorf("%s", brief.Of(tokens))
	}
	if events := want[[]api.EventView](ada, "GET", "/events?device="+d.ID, nil, 200); len(events) == 0 {
		t.Error("no event about the device")
	}
	want[map[string]any](ada, "DELETE", "/devices/tokens/"+created.ID, nil, 200)
	want[api.DeviceView](ada, "DELETE", "/devices/"+d.ID, nil, 200)
	if list := want[[]api.DeviceView](ada, "GET", "/devices", nil, 200); len(list) != 0 {
		t.Errorf("%s", brief.Of(list))
	}
	want[map[string]any](ada, "POST", "/auth/logout", nil, 200)
	want[api.Problem](ada, "GET", "/devices", nil, 401)
}

// Only the answer to the creation of a join token contains the token's secret. No answer contains a
// password's hash.
func TestSecretsAreShownOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	created := want[api.JoinTokenCreated](ada, "POST", "/devices/tokens", nil, 200)
	for _, path := range []string{"/devices/tokens", "/devices", "/events", "/auth/auth_status", "/openapi.json", "/"} {
		_, body := ada.do("GET", path, nil)
		if bytes.Contains(body, []byte(created.Token)) || bytes.Contains(body, []byte("argon2id$")) {
			t.Errorf("%s shows a secret", path)
		}
	}
}

func TestOneOwnerSeesNothingOfAnothers(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	id := s.deviceOf(t, s.victim)
	s.Account(t, "mallory")
	mallory, anonymous := s.person(t, "mallory"), s.person(t, "")
	for _, r := range []struct {
		method, path string
		in           any
	}{
		{"GET", "/devices/" + id, nil},
		{"GET", "/devices/" + id + "/evidence", nil},
		{"PATCH", "/devices/" + id, map[string]string{"nick": "mine"}},
		{"PATCH", "/devices/" + id + "/user-meta", map[string]string{"a": "b"}},
		{"DELETE", "/devices/" + id, nil},
		{"DELETE", "/devices/tokens/" + s.tok.ID, nil},
	} {
		if p := want[api.Problem](mallory, r.method, r.path, r.in, 404); p.Code != "not-found" {
			t.Errorf("%s %s: %s", r.method, r.path, brief.Of(p))
		}
		want[api.Problem](anonymous, r.method, r.path, r.in, 401)
	}
	for _, path := range []string{"/devices", "/devices/tokens", "/events?device=" + id} {
		if _, body := mallory.do("GET", path, nil); bytes.Contains(body, []byte(id)) || bytes.Contains(body, []byte(s.tok.ID)) {
			t.Errorf("%s shows ada's data to mallory: %s", path, body)
		}
		want[api.Problem](anonymous, "GET", path, nil, 401)
	}
	d := must(s.Store.Device(t.Context(), id))(t)
	if d.Nick == "mine" || len(d.UserMeta) != 0 {
		t.Errorf("mallory changed the device: %s", brief.Of(d))
	}
}

// A 401 has a WWW-Authenticate header, because without it Pantacor's clients would retry forever.
func TestUnauthorizedSaysWhereToSignIn(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	_, _, h := s.person(t, "").request("GET", "/devices/", nil, nil)
	if got, want := h.Get("WWW-Authenticate"), `JWT realm="pantahub services", ph-aeps="`+s.URL+`/auth"`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestUnknownAccountLooksLikeAWrongPassword(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.person(t, "")
	_, wrong := p.do("POST", "/auth/login", map[string]string{"username": "ada", "password": "wrong password"})
	_, unknown := p.do("POST", "/auth/login", map[string]string{"username": "nobody", "password": "wrong password"})
	if !bytes.Equal(wrong, unknown) {
		t.Errorf("%s\n%s", wrong, unknown)
	}
}

func TestGuessingPasswordsIsSlowedDown(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.person(t, "")
	for range 12 {
		status, body, h := p.request("POST", "/auth/login", map[string]string{"username": "ada", "password": "guess guess"}, nil)
		if status == 429 {
			if h.Get("Retry-After") == "" {
				t.Errorf("no Retry-After: %s", body)
			}
			return
		}
	}
	t.Error("twelve guesses in a row were not limited")
}

// A page of another site makes the browser send the hub's sign-in form. The hub refuses the
// request.
func TestOtherSitesPageIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.person(t, "")
	form := "nick=ada&password=" + strings.ReplaceAll(hubtest.Password, " ", "+")
	for name, h := range map[string]map[string]string{
		"Sec-Fetch-Site": {"Sec-Fetch-Site": "cross-site", "Content-Type": "application/x-www-form-urlencoded"},
		"Origin":         {"Origin": "https://evil.example", "Content-Type": "application/x-www-form-urlencoded"},
	} {
		if status, body, _ := p.request("POST", "/sign-in", form, h); status != 403 {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	status, _, h := p.request("POST", "/sign-in", form, map[string]string{"Origin": s.URL, "Content-Type": "application/x-www-form-urlencoded"})
	cookie := h.Get("Set-Cookie")
	for _, attr := range []string{"__Host-", "Secure", "HttpOnly", "SameSite=Strict", "Path=/"} {
		if status != 303 || !strings.Contains(cookie, attr) {
			t.Errorf("%d, cookie %q lacks %s", status, cookie, attr)
		}
	}
}

// The hub answers bad input with a problem code, a reason and a hint, not with status 500.
func TestBadInputIsSaidToBe(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	id := s.deviceOf(t, s.victim)
	ada := s.person(t, "ada")
	big := strings.Repeat("x", 70<<10)
	for _, r := range []struct {
		method, path string
		in           any
		status       int
		code         string
	}{
		{"POST", "/devices/tokens", "{", 400, "body-malformed"},
		{"POST", "/devices/tokens", "{} {}", 400, "body-malformed"},
		{"POST", "/devices/tokens", api.NewJoinToken{ExpiresIn: "soon"}, 400, "expires-in"},
		{"POST", "/devices/tokens", api.NewJoinToken{ExpiresIn: "-1h"}, 400, "expires-in"},
		{"POST", "/devices/tokens", api.NewJoinToken{MaxUses: -1}, 400, "max-uses"},
		{"POST", "/devices/tokens", api.NewJoinToken{Nick: big[:65]}, 400, "nick-form"},
		{"POST", "/devices/tokens", `{"nick":"` + big + `"}`, 413, "body-too-large"},
		{"GET", "/devices?limit=0", nil, 400, "limit"},
		{"GET", "/devices?limit=many", nil, 400, "limit"},
		{"GET", "/devices/nothing", nil, 404, "not-found"},
		{"PATCH", "/devices/" + id, map[string]string{"nick": "a b"}, 400, "nick-form"},
		{"PATCH", "/devices/" + id, map[string]string{"nick": ""}, 400, "nick-form"},
		{"PATCH", "/devices/" + id + "/user-meta", "[]", 400, "body-malformed"},
		{"GET", "/events?before=x", nil, 400, "before"},
		{"GET", "/nothing/here", nil, 404, "no-such-route"},
		{"GET", "/aca/certs/zz.crt", nil, 404, "not-found"},
	} {
		p := want[api.Problem](ada, r.method, r.path, r.in, r.status)
		if p.Code != r.code || p.Message == "" || p.Hint == "" {
			t.Errorf("%s %s: %s, want %q", r.method, r.path, brief.Of(p), r.code)
		}
	}
}

// Repeated patches cannot grow a device's metadata without limit.
func TestMetaIsBounded(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	id := s.deviceOf(t, s.victim)
	ada := s.person(t, "ada")
	for i := range 10 {
		status, body := ada.do("PATCH", "/devices/"+id+"/user-meta", map[string]string{string(rune('a' + i)): strings.Repeat("x", 60<<10)})
		if status == 413 {
			return
		}
		if status != 200 {
			t.Fatalf("%d %s", status, body)
		}
	}
	t.Error("600 KiB of metadata were accepted")
}

func TestHealth(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.person(t, "")
	for _, path := range []string{"/healthz", "/readyz", "/openapi.json"} {
		want[map[string]any](p, "GET", path, nil, 200)
	}
	if status, body := p.do("GET", "/hub-ca.pem", nil); status != 200 || !bytes.Equal(body, s.CA.RootPEM()) {
		t.Errorf("%d %s", status, body)
	}
}

func TestAIKRegistryServesWhatWasProven(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	if len(c.IAK.URIs) != 1 {
		t.Fatalf("the IAK certificate names %d addresses", len(c.IAK.URIs))
	}
	path := strings.TrimPrefix(c.IAK.URIs[0].String(), s.URL)
	if status, body := s.person(t, "").do("GET", path, nil); status != 200 || !bytes.Equal(body, c.IAK.Raw) {
		t.Errorf("%s: %d", path, status)
	}
}
