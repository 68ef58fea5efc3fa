package api_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"gangway/internal/brief"
	"gangway/internal/hubtest"
)

func signInFor(p *person, scope string) string {
	p.t.Helper()
	status, body := p.do("POST", "/auth/login", map[string]string{"username": "ada", "password": hubtest.Password, "scope": scope})
	var answer struct{ Token string }
	if err := json.Unmarshal(body, &answer); err != nil || status != 200 {
		p.t.Fatalf("%d %s", status, body)
	}
	return answer.Token
}

func TestTokensScopesAreCheckedOnEachRoute(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.person(t, "")
	p.token = signInFor(p, "devices.readonly")
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/devices", 200}, {"GET", "/auth/auth_status", 200}, {"GET", "/auth/login", 200},
		{"DELETE", "/devices/0123456789abcdef01234567", 403}, {"POST", "/devices/0123456789abcdef01234567/approve", 403},
		// A caller who may make join tokens or policies could admit devices. So the scope
		// devices.readonly does not allow requests about join tokens and policies.
		{"GET", "/devices/tokens", 403}, {"POST", "/devices/tokens", 403}, {"PUT", "/policy", 403}, {"GET", "/events", 403}, {"GET", "/auth/accounts", 403},
	} {
		if got, body := p.do(c.method, c.path, "{}"); got != c.want {
			t.Errorf("%s %s: %d %s", c.method, c.path, got, body)
		}
	}
	// A renewed access token has no more scopes than the old access token.
	again := want[struct{ Token string }](p, "GET", "/auth/login", nil, 200)
	p.token = again.Token
	if got, _ := p.do("GET", "/events", nil); got != 403 {
		t.Errorf("renewal added scopes: status %d", got)
	}
}

func TestSignOutEndsAllTokensOfTheSession(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.person(t, "ada")
	other := s.person(t, "ada") // another session
	first := p.token
	renewed := want[struct{ Token string }](p, "GET", "/auth/login", nil, 200).Token
	want[map[string]string](p, "POST", "/auth/logout", nil, 200)
	for _, token := range []string{first, renewed} {
		p.token = token
		if got, _ := p.do("GET", "/devices", nil); got != 401 {
			t.Errorf("a token of the ended session: status %d", got)
		}
	}
	if got, _ := other.do("GET", "/devices", nil); got != 200 {
		t.Errorf("another session ended too: status %d", got)
	}
}

func TestTokenExpiresAndSessionsEnd(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.person(t, "ada")
	for range 20 { // renewed every 11 hours, for more than a week
		s.Advance(11 * time.Hour)
		status, body := p.do("GET", "/auth/login", nil)
		if status == 401 {
			break
		}
		var answer struct{ Token string }
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Fatal(err)
		}
		p.token = answer.Token
	}
	if got, _ := p.do("GET", "/devices", nil); got != 401 {
		t.Errorf("the session does not expire: status %d", got)
	}
	p = s.person(t, "ada")
	s.Advance(13 * time.Hour)
	if got, _ := p.do("GET", "/devices", nil); got != 401 {
		t.Errorf("the token does not expire: status %d", got)
	}
}

// If Pantacor's client has no credentials, it signs in as "anon". It would store the token of
// "anon" in place of the person's token. So the hub refuses "anon". It also refuses Pantacor's
// built-in accounts, and logins with two account names, such as "ada==>eve".
func TestNobodySignsInAsAnon(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.person(t, "")
	const anon = "prn:pantahub.com:auth:/anon"
	status, body, header := p.request("POST", "/auth/login", map[string]string{"username": anon, "password": anon, "scope": "devices.readonly objects.readonly trails.readonly"}, nil)
	if status != 401 || !json.Valid(body) || header.Get("WWW-Authenticate") != `JWT realm="pantahub services", ph-aeps="`+s.URL+`/auth"` {
		t.Errorf("%d %s %s", status, body, brief.Of(header))
	}
	for _, login := range []string{"admin", "user1", "prn:pantahub.com:auth:/admin", "ada==>eve", "admin==>ada"} {
		if status, body := p.do("POST", "/auth/login", map[string]string{"username": login, "password": login}); status != 401 {
			t.Errorf("%s: %d %s", login, status, body)
		}
	}
}

func TestRegistrationIsTheOperatorsChoice(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.person(t, "")
	for _, c := range []struct {
		nick, email, password string
		want                  int
	}{
		{"grace", "grace@example.org", "correct horse", 200},
		{"GRACE", "", "correct horse", 412}, {"hedy", "Grace@example.org", "correct horse", 412},
		{"ab", "", "correct horse", 412}, {"not a nick", "", "correct horse", 412}, {"hedy", "no address", "correct horse", 412}, {"hedy", "", "short", 412},
	} {
		status, body := p.do("POST", "/auth/accounts/", map[string]string{"nick": c.nick, "email": c.email, "password": c.password})
		if status != c.want || strings.Contains(string(body), "argon2") {
			t.Errorf("%s: %d %s", brief.Of(c), status, body)
		}
	}
}
