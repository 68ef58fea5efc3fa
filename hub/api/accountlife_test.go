package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
)

// accountAnswers calls each route about accounts, sessions and API tokens, with good and bad
// input.
func accountAnswers(t *testing.T, s *scene, call func(p *person, method, route, id string, in any, want int) []byte) {
	t.Helper()
	a := s.Account(t, "zoe")
	zoe, stranger := s.person(t, "zoe"), s.person(t, "")
	large := `{"name":"` + strings.Repeat("a", 70<<10) + `"}`
	password := map[string]any{"password": hubtest.Password}

	call(zoe, "GET", "/profiles?nick=^z", "", nil, 200)
	call(stranger, "GET", "/profiles", "", nil, 401)
	call(stranger, "POST", "/auth/recover", "", map[string]string{"email": "zoe@example.org"}, 412)

	var token struct{ ID, Secret string }
	if err := json.Unmarshal(call(zoe, "POST", "/tokens", "", map[string]any{"name": "ci", "scopes": []string{"devices.readonly"}}, 200), &token); err != nil {
		t.Fatal(err)
	}
	program := s.person(t, "")
	program.token = token.Secret
	call(zoe, "POST", "/tokens", "", map[string]any{"name": "ci", "scopes": []string{"devices"}}, 409)
	call(zoe, "POST", "/tokens", "", map[string]any{"name": "ci"}, 400)
	call(zoe, "POST", "/tokens", "", large, 413)
	call(stranger, "POST", "/tokens", "", "{}", 401)
	call(program, "GET", "/devices", "", nil, 200)
	call(zoe, "GET", "/tokens", "", nil, 200)
	call(zoe, "GET", "/tokens/{id}", token.ID, nil, 200)
	call(program, "POST", "/auth/logout", "", nil, 403)
	call(program, "GET", "/auth/login", "", nil, 200)
	call(program, "GET", "/auth/auth_status", "", nil, 200)
	call(program, "GET", "/devices/tokens", "", nil, 403)
	call(stranger, "POST", "/auth/login", "", map[string]string{"username": "ci", "password": token.Secret}, 200)
	call(stranger, "POST", "/auth/login", "", map[string]string{"username": "ci", "password": token.Secret, "scope": "trails"}, 403)
	for _, p := range []*person{stranger, program} {
		want := 401
		if p == program {
			want = 403
		}
		call(p, "POST", "/tokens", "", map[string]any{"name": "more", "scopes": []string{"all"}}, want)
		call(p, "GET", "/tokens", "", nil, want)
		call(p, "GET", "/tokens/{id}", token.ID, nil, want)
		call(p, "DELETE", "/tokens/{id}", token.ID, nil, want)
		call(p, "POST", "/auth/password", "", map[string]string{"current": hubtest.Password, "password": "another password"}, want)
		call(p, "GET", "/auth/sessions", "", nil, want)
		call(p, "DELETE", "/auth/sessions", "", nil, want)
		call(p, "DELETE", "/auth/sessions/{id}", strings.Repeat("0", 32), nil, want)
		call(p, "POST", "/auth/accounts/{id}/disable", a.ID, password, want)
		call(p, "POST", "/auth/accounts/{id}/delete", a.ID, password, want)
	}
	call(zoe, "DELETE", "/tokens/{id}", "nothing", nil, 404)
	call(zoe, "DELETE", "/tokens/{id}", token.ID, nil, 200)
	call(zoe, "GET", "/tokens/{id}", token.ID, nil, 404)

	var sessions []api.SessionView
	if err := json.Unmarshal(call(zoe, "GET", "/auth/sessions", "", nil, 200), &sessions); err != nil || len(sessions) != 1 {
		t.Fatalf("%s %v", brief.Of(sessions), err)
	}
	call(zoe, "DELETE", "/auth/sessions/{id}", "nothing", nil, 404)
	call(zoe, "DELETE", "/auth/sessions", "", nil, 200)
	call(zoe, "DELETE", "/auth/sessions?all=x", "", nil, 400)
	call(zoe, "DELETE", "/auth/sessions/{id}", sessions[0].ID, nil, 200)
	call(zoe, "GET", "/auth/sessions", "", nil, 401)

	zoe = s.person(t, "zoe")
	call(zoe, "POST", "/auth/password", "", map[string]string{"current": "wrong", "password": "another password"}, 403)
	call(zoe, "POST", "/auth/password", "", map[string]string{"current": hubtest.Password, "password": "short"}, 400)
	call(zoe, "POST", "/auth/password", "", map[string]string{"token": "a", "password": "another password"}, 412)
	call(zoe, "POST", "/auth/password", "", large, 413)
	call(zoe, "POST", "/auth/password", "", map[string]string{"current": hubtest.Password, "password": hubtest.Password}, 200)
	for _, route := range []string{"/auth/accounts/{id}/disable", "/auth/accounts/{id}/delete"} {
		call(zoe, "POST", route, s.Owner.ID, password, 404)
		call(zoe, "POST", route, a.ID, "[]", 400)
		call(zoe, "POST", route, a.ID, large, 413)
		call(zoe, "POST", route, a.ID, map[string]string{"password": "wrong"}, 403)
	}
	call(s.person(t, "ada"), "POST", "/auth/accounts/{id}/delete", s.Owner.ID, password, 409)
	call(zoe, "POST", "/auth/accounts/{id}/disable", a.ID, password, 200)
	call(stranger, "POST", "/auth/login", "", map[string]string{"username": "zoe", "password": hubtest.Password}, 403)
	call(stranger, "POST", "/sign-in", "", "nick=zoe&password="+strings.ReplaceAll(hubtest.Password, " ", "+"), 403)
	if err := s.Store.EnableAccount(t.Context(), a.ID, store.Event{Time: s.Now(), Kind: "account.enabled"}); err != nil {
		t.Fatal(err)
	}
	call(s.person(t, "zoe"), "POST", "/auth/accounts/{id}/delete", a.ID, password, 200)
	call(stranger, "POST", "/auth/login", "", map[string]string{"username": "zoe", "password": hubtest.Password}, 401)
}

// events returns the person's own events that match a query.
func (p *person) events(query string) []api.EventView {
	p.t.Helper()
	return want[[]api.EventView](p, "GET", "/events"+query, nil, 200)
}

// apiToken makes an API token and returns a client that authenticates with it.
func (p *person) apiToken(name string, scopes ...string) *person {
	p.t.Helper()
	made := want[api.APITokenCreated](p, "POST", "/tokens", api.NewAPIToken{Name: name, Scopes: scopes}, 200)
	program := p.s.person(p.t, "")
	program.token = made.Secret
	return program
}

func (p *person) status(method, path string, in any, want int) {
	p.t.Helper()
	if got, body := p.do(method, path, in); got != want {
		p.t.Errorf("%s %s: %d %s, want %d", method, path, got, body, want)
	}
}

func (s *scene) disable(t *testing.T, id string) {
	t.Helper()
	if err := s.Store.DisableAccount(t.Context(), id, store.Event{Time: s.Now(), Kind: "account.disabled", Owner: id}); err != nil {
		t.Fatal(err)
	}
}

// When an account is disabled, its sessions, API tokens, access tokens, object URLs and join tokens
// end at once. The account's devices keep working.
func TestDisabledAccountIsShutOutAtOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	ada := s.person(t, "ada")
	program := ada.apiToken("ci", "all")
	access := s.person(t, "")
	access.token = want[struct{ Token string }](access, "POST", "/auth/login", map[string]string{"username": "ada", "password": program.token}, 200).Token
	object := want[struct {
		Put string `json:"signed-puturl"`
	}](ada, "POST", "/objects/", map[string]any{"objectname": "a", "size": "1", "sha256sum": strings.Repeat("ab", 32), "mime-type": "text/plain"}, 200)
	people := []*person{ada, program, access}
	for _, p := range people {
		p.status("GET", "/devices/", nil, 200)
	}
	s.disable(t, s.Owner.ID)
	for _, p := range people {
		p.status("GET", "/devices/", nil, 401)
		p.status("GET", "/auth/login", nil, 401)
		p.status("POST", "/devices/tokens", nil, 401)
	}
	stranger := s.person(t, "")
	stranger.status("PUT", strings.TrimPrefix(object.Put, s.URL), "x", http.StatusGone)
	stranger.status("POST", "/auth/login", map[string]string{"username": "ada", "password": hubtest.Password}, 403)
	stranger.status("POST", "/auth/login", map[string]string{"username": "ada", "password": "a wrong password"}, 401) // the answer does not reveal that the account is disabled
	another := s.device(t)
	if _, err := another.Onboard(t.Context(), s.client, s.tok); err == nil {
		t.Error("a new device onboarded to a disabled account")
	}
	d := s.Devices(t, s.Owner)
	if len(d) != 1 {
		t.Fatalf("%d devices", len(d))
	}
	if err := s.Store.EnableAccount(t.Context(), s.Owner.ID, store.Event{Time: s.Now(), Kind: "account.enabled"}); err != nil {
		t.Fatal(err)
	}
	for _, p := range people {
		p.status("GET", "/devices/", nil, 401) // sessions that ended do not come back
	}
	s.person(t, "ada").status("GET", "/devices/", nil, 200)
}

// If an owner's account is disabled, other accounts cannot see the owner's public device.
func TestDisabledOwnersPublicDeviceIsHidden(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	s.Account(t, "bob")
	d := s.Devices(t, s.Owner)[0]
	ada, bob := s.person(t, "ada"), s.person(t, "bob")
	ada.status("PUT", "/devices/"+d.ID+"/public", nil, 200)
	paths := []string{"/devices/" + d.ID, "/devices/np/ada/" + d.Nick}
	for _, path := range paths {
		bob.status("GET", path, nil, 200)
	}
	if nicks := want[[]api.Profile](bob, "GET", "/profiles/?nick=^A", nil, 200); len(nicks) != 1 || nicks[0].Nick != "ada" {
		t.Errorf("profiles: %s", brief.Of(nicks))
	}
	s.disable(t, s.Owner.ID)
	for _, path := range paths {
		bob.status("GET", path, nil, 404)
	}
	for _, query := range []string{"?owner-nick=ada", "?owner=" + s.Owner.ID} {
		if list := want[[]api.DeviceView](bob, "GET", "/devices/"+query, nil, 200); len(list) != 0 {
			t.Errorf("%s: %s", query, brief.Of(list))
		}
	}
	if nicks := want[[]api.Profile](bob, "GET", "/profiles/?nick=^a", nil, 200); len(nicks) != 0 {
		t.Errorf("profiles: %s", brief.Of(nicks))
	}
}

// GET /profiles lists the caller's account, and the accounts that have a public device.
func TestProfilesShowOnlyWhatIsPublic(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Account(t, "adam")
	ada := s.person(t, "ada")
	for query, nicks := range map[string]string{"?nick=^ad": "ada", "?nick=ada": "ada", "?nick=ad": "", "?nick=^": "ada", "?nick=adam": ""} {
		var got []string
		for _, p := range want[[]api.Profile](ada, "GET", "/profiles/"+query, nil, 200) {
			got = append(got, p.Nick)
		}
		if strings.Join(got, " ") != nicks {
			t.Errorf("%s: %s, want %q", query, brief.Of(got), nicks)
		}
	}
}

// A thief with a stolen session cannot change the password without the current password. A change
// of the password ends every other session. Nobody can sign in with the old password afterwards.
func TestPasswordChangeEndsOtherSessions(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	thief, ada := s.person(t, "ada"), s.person(t, "ada")
	program := ada.apiToken("ci", "devices.readonly")
	thief.status("POST", "/auth/password", map[string]string{"password": "the thief's own"}, 403)
	thief.status("POST", "/auth/password", map[string]string{"current": "a guess", "password": "the thief's own"}, 403)
	changed := want[api.PasswordChanged](ada, "POST", "/auth/password", map[string]string{"current": hubtest.Password, "password": "another password"}, 200)
	if changed.APITokens != 1 {
		t.Errorf("%s", brief.Of(changed))
	}
	ada.status("GET", "/devices/", nil, 200)
	thief.status("GET", "/devices/", nil, 401)
	program.status("GET", "/devices/", nil, 200)
	stranger := s.person(t, "")
	stranger.status("POST", "/auth/login", map[string]string{"username": "ada", "password": hubtest.Password}, 401)
	stranger.status("POST", "/auth/login", map[string]string{"username": "ada", "password": "another password"}, 200)
	want[api.PasswordChanged](ada, "POST", "/auth/password", map[string]any{"current": "another password", "password": "a third password", "end-api-tokens": true}, 200)
	program.status("GET", "/devices/", nil, 401)
	if kinds := ada.events("?kind=account.password-changed"); len(kinds) != 2 || kinds[0].Means != "api" || kinds[0].ActorName != "ada" {
		t.Errorf("%s", brief.Of(kinds))
	}
}

// A sign-in that runs while its account is being disabled leaves no session.
func TestSignInRacingDisableLeavesNoSession(t *testing.T) {
	t.Parallel()
	s := newSceneOnDisk(t)
	s.Server.Unlimited()
	var racers sync.WaitGroup
	tokens := make([]string, 6)
	for i := range tokens {
		p := s.person(t, "")
		racers.Go(func() {
			_, body := p.do("POST", "/auth/login", map[string]string{"username": "ada", "password": hubtest.Password})
			var answer struct{ Token string }
			_ = json.Unmarshal(body, &answer) // a refused sign-in has no token
			tokens[i] = answer.Token
		})
	}
	s.disable(t, s.Owner.ID)
	racers.Wait()
	for _, token := range tokens {
		p := s.person(t, "")
		p.token = token
		p.status("GET", "/devices/", nil, 401)
	}
	if sessions := must(s.Store.Sessions(t.Context(), s.Owner.ID, s.Now()))(t); len(sessions) != 0 {
		t.Errorf("%d sessions", len(sessions))
	}
}

// An API token allows the actions of its scopes until it expires. It never allows the actions that
// are reserved for a person: making API tokens, changing the password, and ending sessions.
func TestAPITokenIsNoPerson(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	ada := s.person(t, "ada")
	reader, all := ada.apiToken("reader", "devices.readonly"), ada.apiToken("everything", "all")
	reader.status("GET", "/devices/", nil, 200)
	reader.status("POST", "/devices/tokens", nil, 403)
	reader.status("GET", "/ui/overview", nil, 403)
	all.status("POST", "/devices/tokens", nil, 200)
	// When a program signs in with an API token, it gets an access token that has no more scopes
	// than the API token.
	access := s.person(t, "")
	access.token = want[struct{ Token string }](access, "POST", "/auth/login", map[string]string{"username": "everything", "password": all.token}, 200).Token
	narrow := s.person(t, "")
	narrow.token = want[struct{ Token string }](narrow, "POST", "/auth/login", map[string]string{"username": "ada", "password": all.token, "scope": "devices.readonly"}, 200).Token
	narrow.status("POST", "/devices/tokens", nil, 403)
	narrow.token = want[struct{ Token string }](narrow, "GET", "/auth/login", nil, 200).Token
	narrow.status("POST", "/devices/tokens", nil, 403)
	for _, p := range []*person{reader, all, access} {
		for _, route := range []string{"POST /tokens", "GET /tokens", "POST /auth/password", "GET /auth/sessions", "DELETE /auth/sessions", "POST /auth/logout", "POST /auth/accounts/" + s.Owner.ID + "/delete"} {
			method, path, _ := strings.Cut(route, " ")
			p.status(method, path, map[string]any{"name": "x", "scopes": []string{"all"}, "password": hubtest.Password, "current": hubtest.Password}, 403)
		}
	}
	// A session's access token cannot make an API token either if it has only some of the scopes.
	scoped := s.person(t, "")
	scoped.token = want[struct{ Token string }](scoped, "POST", "/auth/login", map[string]string{"username": "ada", "password": hubtest.Password, "scope": "devices user"}, 200).Token
	scoped.status("POST", "/tokens", map[string]any{"name": "x", "scopes": []string{"all"}}, 403)

	stranger := s.person(t, "")
	stranger.status("POST", "/auth/login", map[string]string{"username": "bob", "password": all.token}, 401)
	stranger.status("POST", "/auth/login", map[string]string{"username": "", "password": all.token}, 401)
	stranger.token = all.token[:len(all.token)-1]
	stranger.status("GET", "/devices/", nil, 401)
	stranger.token = ""
	if status, _, _ := stranger.request("GET", "/devices/", nil, map[string]string{"Cookie": "__Host-gangway=" + all.token}); status != 401 {
		t.Errorf("an API token in the cookie: status %d", status)
	}

	list := want[api.APITokens](ada, "GET", "/tokens/", nil, 200)
	i := slices.IndexFunc(list.Items, func(v api.APITokenView) bool { return v.Name == "everything" })
	if i < 0 || list.Items[i].LastUsed == nil || list.Items[i].LastAddr != "127.0.0.1" {
		t.Fatalf("%s", brief.Of(list))
	}
	ada.status("DELETE", "/tokens/"+list.Items[i].ID, nil, 200)
	all.status("GET", "/devices/", nil, 401)
	access.status("GET", "/devices/", nil, 401)
	reader.status("GET", "/devices/", nil, 200)
	s.Advance(91 * 24 * time.Hour)
	reader.status("GET", "/devices/", nil, 401)
}

// A stolen database contains no usable API token.
func TestAPITokenIsKeptAsAHash(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	program := ada.apiToken("ci", "all")
	tokens := must(s.Store.APITokens(t.Context(), s.Owner.ID))(t)
	_, listed := ada.do("GET", "/tokens", nil)
	if text := fmt.Sprintf("%+v %s", tokens, listed); len(tokens) != 1 || strings.Contains(text, strings.TrimPrefix(program.token, "gwt_")) {
		t.Errorf("%s", brief.Of(text))
	}
}

// When an account is deleted, no other account gets the deleted account's devices or nick.
func TestDeletedAccountLeavesNothingToOthers(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	d := s.Devices(t, s.Owner)[0]
	ada := s.person(t, "ada")
	path := "/auth/accounts/" + s.Owner.ID + "/delete"
	ada.status("POST", path, map[string]any{"password": hubtest.Password}, 409)
	ada.status("GET", "/devices/"+d.ID, nil, 200)
	ada.status("POST", path, map[string]any{"password": "a guess", "with-devices": true}, 403)
	ada.status("POST", path, map[string]any{"password": hubtest.Password, "with-devices": true}, 200)
	ada.status("GET", "/devices/", nil, 401)
	if _, err := s.Store.Device(t.Context(), d.ID); err == nil {
		t.Error("the device is still there")
	}
	if _, err := s.device(t).Onboard(t.Context(), s.client, s.tok); err == nil {
		t.Error("a device onboarded with a deleted account's join token")
	}
	stranger := s.person(t, "")
	stranger.status("POST", "/auth/accounts", map[string]string{"nick": "ADA", "email": "eve@example.org", "password": "correct horse"}, 412)
	kinds := map[string]int{}
	for _, e := range must(s.Store.Events(t.Context(), store.EventFilter{Owner: s.Owner.ID}))(t) {
		kinds[e.Kind]++
		if strings.HasPrefix(e.Kind, "account.d") && (e.ActorName != "ada" || e.Addr == "") {
			t.Errorf("%s", brief.Of(e))
		}
	}
	if kinds["account.deleted"] != 1 || kinds["device.deleted"] != 1 || kinds["account.disabled"] != 1 {
		t.Errorf("%s", brief.Of(kinds))
	}
}

// The authentication scheme "Bearer" is accepted in upper and lower case (RFC 9110, 11.1).
func TestBearerInAnyCase(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	program := ada.apiToken("ci", "devices")
	for _, token := range []string{ada.token, program.token} {
		for _, scheme := range []string{"bearer ", "BEARER ", "Bearer  "} {
			if status, body, _ := s.person(t, "").request("GET", "/devices/", nil, map[string]string{"Authorization": scheme + token}); status != 200 {
				t.Errorf("%q: %d %s", scheme, status, body)
			}
		}
		for _, scheme := range []string{"", "Bearer", "Basic ", "Bearer\t"} {
			if status, _, _ := s.person(t, "").request("GET", "/devices/", nil, map[string]string{"Authorization": scheme + token}); status != 401 {
				t.Errorf("%q: %d", scheme, status)
			}
		}
	}
}

// The event that records a change names the actor, with the actor's address and credential.
func TestEventsSayWho(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	d := s.Devices(t, s.Owner)[0]
	ada := s.person(t, "ada")
	program := ada.apiToken("ci", "devices")
	program.status("PATCH", "/devices/"+d.ID, map[string]string{"nick": "flagship"}, 200)
	program.status("PATCH", "/devices/"+d.ID, map[string]string{"nick": "flagship"}, 200) // changes nothing
	ada.status("PUT", "/devices/"+d.ID+"/public", nil, 200)
	ada.status("PUT", "/devices/"+d.ID+"/public", nil, 200)
	ada.status("DELETE", "/devices/"+d.ID+"/public", nil, 200)
	ada.status("PATCH", "/devices/"+d.ID+"/user-meta", map[string]any{"a": 1}, 200)
	ada.status("GET", "/auth/login", nil, 200)
	page := s.person(t, "")
	status, _, header := page.request("POST", "/sign-in", "nick=ada&password="+strings.ReplaceAll(hubtest.Password, " ", "+"), map[string]string{"Content-Type": "application/x-www-form-urlencoded"})
	cookie, _, _ := strings.Cut(header.Get("Set-Cookie"), ";")
	if status != 303 || cookie == "" {
		t.Fatalf("sign-in: %d %s", status, brief.Of(header))
	}
	_, overview, _ := page.request("GET", "/ui/overview", nil, map[string]string{"Cookie": cookie})
	page.request("POST", "/sign-out", nil, map[string]string{"Cookie": cookie, "X-CSRF-Token": formTokenIn(string(overview))})

	prn := "prn:::accounts:/" + s.Owner.ID
	for kind, wants := range map[string][]string{
		"device.renamed":           {prn + " ada api-token ci"},
		"device.published":         {prn + " ada api "},
		"device.unpublished":       {prn + " ada api "},
		"device.user-meta-changed": {prn + " ada api "},
		"account.token-renewed":    {prn + " ada api "},
		"account.signed-in":        {prn + " ada page ", prn + " ada api "},
		"account.signed-out":       {prn + " ada page "},
		"api-token.created":        {prn + " ada api "},
		"device.activated":         {"prn:::devices:/" + d.ID + " " + d.Nick + " certificate "},
	} {
		var got []string
		for _, e := range ada.events("?kind=" + kind) {
			got = append(got, fmt.Sprint(e.Actor, " ", e.ActorName, " ", e.Means, " ", e.Credential))
			if e.Addr != "127.0.0.1" || e.Owner != prn {
				t.Errorf("%s: address %q, owner %q", kind, e.Addr, e.Owner)
			}
		}
		if !slices.Equal(got, wants) {
			t.Errorf("%s: got %s, want %s", kind, brief.Of(got), brief.Of(wants))
		}
	}
	if all, accounts := len(ada.events("")), len(ada.events("?kind=account.")); accounts == 0 || accounts >= all {
		t.Errorf("%d of %d events are of the account", accounts, all)
	}
	if n := len(ada.events("?limit=3")); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
	later := s.Now().Add(time.Minute).UTC().Format(time.RFC3339)
	if n := len(ada.events("?since=" + later)); n != 0 {
		t.Errorf("%d events since a time in the future", n)
	}
	if n := len(ada.events("?until=" + later)); n == 0 {
		t.Error("no events until a time in the future")
	}
}

// The hub stores frequent events of a device, such as sign-ins and reports, in one row a day for
// each kind of event.
func TestFrequentEventsAreOneLineADay(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	device := s.asDevice(t, s.victim, must(s.victim.Onboard(t.Context(), s.client, s.tok))(t))
	var secret struct{ PRN, Secret string }
	_, body := device.do("POST", "/device/secret", nil)
	if err := json.Unmarshal(body, &secret); err != nil {
		t.Fatal(err)
	}
	stranger, ada := s.person(t, ""), s.person(t, "ada")
	begin := s.Now()
	for range 20 {
		stranger.status("POST", "/auth/login", map[string]string{"username": secret.PRN, "password": secret.Secret}, 200)
		stranger.status("POST", "/auth/login", map[string]string{"username": secret.PRN, "password": "a guess"}, 401)
		stranger.status("POST", "/auth/login", map[string]string{"username": "prn:::devices:/000000000000000000000000", "password": "a guess"}, 401)
		device.status("PATCH", "/device/meta", `{"a":1}`, 200)
	}
	s.Server.FlushCounters(t.Context())
	for kind, means := range map[string]string{"device.signed-in": "secret", "device.sign-in-refused": "secret", "device.meta-reported": "certificate"} {
		events := ada.events("?kind=" + kind)
		if len(events) == 2 && s.Now().Truncate(time.Hour).After(begin) { // refusals have a row for each hour
			events[1].Count += events[0].Count
			events[1].Last = events[0].Last
			events = events[1:]
		}
		if len(events) != 1 || events[0].Count != 20 || events[0].Means != means || events[0].Last == nil || !events[0].Last.After(events[0].Time) {
			t.Errorf("%s: %s", kind, brief.Of(events))
		}
	}
	// Frequent events do not hide other events, because the audit page, and a query with
	// ?routine=false, leave out the frequent events.
	for _, e := range ada.events("?routine=false") {
		if e.Count > 0 && e.Code == "" {
			t.Errorf("%s", brief.Of(e))
		}
	}
	if _, page := ada.do("GET", "/ui/overview", nil); strings.Contains(string(page), "reported its device-meta") || !strings.Contains(string(page), "onboarded") || !strings.Contains(string(page), "the secret is wrong") {
		t.Errorf("the page shows routine events, or lacks others: %s", brief.Of(page))
	}
	ada.status("GET", "/events?routine=x", nil, 400)
	s.Advance(24 * time.Hour)
	device.status("PATCH", "/device/meta", `{"a":1}`, 200)
	if events := s.person(t, "ada").events("?kind=device.meta-reported"); len(events) != 2 || events[0].Count != 1 {
		t.Errorf("%s", brief.Of(events))
	}
}

// A client that reads the list of join tokens page by page, until it gets an empty page, gets each
// token once.
func TestJoinTokensByPage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	for range 4 {
		ada.status("POST", "/devices/tokens", nil, 200)
	}
	all := want[[]api.JoinTokenView](ada, "GET", "/devices/tokens", nil, 200)
	var paged []string
	for after := ""; ; after = paged[len(paged)-1] {
		page := want[[]api.JoinTokenView](ada, "GET", "/devices/tokens?limit=2&after="+after, nil, 200)
		for _, v := range page {
			paged = append(paged, v.ID)
		}
		if len(page) == 0 {
			break
		}
	}
	if len(all) != 5 || len(paged) != 5 {
		t.Errorf("%d tokens, %d in pages, want 5 of each", len(all), len(paged))
	}
}

// The hub sends no Strict-Transport-Security header, because its certificate is from its own CA:
// see docs/security.md.
func TestNoStrictTransportSecurity(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for _, path := range []string{"/", "/devices/", "/readyz"} {
		if _, _, h := s.person(t, "").request("GET", path, nil, nil); h.Get("Strict-Transport-Security") != "" {
			t.Errorf("%s: %q", path, h.Get("Strict-Transport-Security"))
		}
	}
}
