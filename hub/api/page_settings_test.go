package api_test

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
)

// form encodes the fields of a form.
func form(fields ...string) string {
	v := url.Values{}
	for i := 0; i+1 < len(fields); i += 2 {
		v.Add(fields[i], fields[i+1])
	}
	return v.Encode()
}

// posts sends a form to a page, and returns the text of the answer. It fails the test unless the
// answer's status is `want`.
func (b *browser) posts(path string, want int, fields ...string) string {
	b.t.Helper()
	status, page, h := b.send("POST", path, form(fields...))
	if status != want {
		b.t.Fatalf("POST %s: %d, not %d: %s", path, status, want, brief.Of(page))
	}
	return page + h.Get("Location")
}

func TestPasswordChangeOnThePageEndsOtherSessions(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	here, there := s.browser(t), s.browser(t)
	here.signIn()
	there.signIn()
	const next = "another passphrase here"
	for problem, fields := range map[string][]string{
		"The current password is wrong.":   {"current", "wrong", "password", next, "again", next},
		"The two new passwords differ.":    {"current", hubtest.Password, "password", next, "again", next + "x"},
		"The new password is not accepted": {"current", hubtest.Password, "password", "short", "again", "short"},
	} {
		status, page, _ := here.send("POST", "/ui/settings/password", form(fields...))
		if status < 400 || status > 403 {
			t.Errorf("%s: status %d", problem, status)
		}
		says(t, page, problem)
		if strings.Contains(page, next) || strings.Contains(page, hubtest.Password) {
			t.Errorf("%s: the page has a password", problem)
		}
	}
	if status, _, _ := there.send("GET", "/ui/settings", ""); status != 200 {
		t.Errorf("a refused change ended a session: %d", status)
	}
	here.posts("/ui/settings/password", 303, "current", hubtest.Password, "password", next, "again", next)
	here.page("/ui/settings")
	if status, _, _ := there.send("GET", "/ui/settings", ""); status == 200 {
		t.Error("the other session is still valid")
	}
	if status, _, _ := s.browser(t).send("POST", "/sign-in", form("nick", "ada", "password", hubtest.Password)); status != 401 {
		t.Errorf("the old password: %d", status)
	}
}

func TestSessionsTabEndsOtherSessions(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	s.Account(t, "mallory")
	here := s.browser(t)
	here.signIn()
	there, third, mallory := s.browser(t), s.browser(t), s.person(t, "mallory")
	there.signIn()
	page := here.page("/ui/settings/sessions")
	ids := regexp.MustCompile(`name="end" value="([0-9a-f]{32})"`).FindAllStringSubmatch(page, -1)
	if len(ids) != 1 || !strings.Contains(page, "this one") {
		t.Fatalf("%d other sessions: %.800s", len(ids), text(page))
	}
	// For another account's session, the answer is the same as for a session that does not exist.
	theirs := must(s.Store.Sessions(t.Context(), must(s.Store.AccountByNickOrEmail(t.Context(), "mallory"))(t).ID, s.Now()))(t)
	here.posts("/ui/settings/sessions", 404, "end", theirs[0].ID())
	mallory.status("GET", "/auth/auth_status", nil, 200)

	here.posts("/ui/settings/sessions", 303, "end", ids[0][1])
	if status, _, _ := there.send("GET", "/ui/settings", ""); status == 200 {
		t.Error("the ended session is still valid")
	}
	third.signIn()
	here.posts("/ui/settings/sessions", 303, "end", "others")
	if status, _, _ := third.send("GET", "/ui/settings", ""); status == 200 {
		t.Error("an ended session is still valid")
	}
	here.page("/ui/settings/sessions")
}

// The secret of an API token is only in the answer to the form that creates the token. No URL,
// cookie, event or later page contains it.
func TestAPITokensSecretIsInOneAnswerOnly(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	status, page, h := b.send("POST", "/ui/settings/api-tokens", form("name", "ci", "scope-devices", "devices.readonly", "scope-trails", "trails", "life", "168h"))
	secret := regexp.MustCompile(`gwt_[A-Z2-7]+`).FindString(page)
	if status != 200 || secret == "" || h.Get("Cache-Control") != "no-store" || strings.Contains(strings.Join(h.Values("Set-Cookie"), " ")+h.Get("Location"), secret) {
		t.Fatalf("%d %s %.800s", status, brief.Of(h), text(page))
	}
	program := s.person(t, "")
	program.token = secret
	program.status("GET", "/devices/", nil, 200)
	program.status("GET", "/trails/", nil, 200)
	program.status("POST", "/devices/tokens", nil, 403)

	for _, path := range []string{"/ui/settings/api-tokens", "/ui/settings", "/ui/settings/sessions", "/ui/audit", "/ui/audit.json", "/ui/audit.csv", "/ui/overview"} {
		if page := b.page(path); strings.Contains(page, secret) {
			t.Errorf("%s has the secret", path)
		}
	}
	// If the same form is sent again, the hub makes no second API token, and the answer does not
	// contain the secret.
	status, page, _ = b.send("POST", "/ui/settings/api-tokens", form("name", "ci", "scope-devices", "devices.readonly", "life", "168h"))
	if status != 409 || strings.Contains(page, "gwt_") || !strings.Contains(page, `value="ci"`) {
		t.Errorf("a second form: %d %.500s", status, text(page))
	}
	says(t, b.page("/ui/settings/api-tokens"), "ci", "devices (read), trails (read and change)", "in 6 days")
}

func TestAPITokenFormSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	says(t, b.posts("/ui/settings/api-tokens", 400, "name", "no blanks", "all", "yes", "life", "168h"), "characters that are not allowed")
	says(t, b.posts("/ui/settings/api-tokens", 400, "name", "ci", "life", "168h"), "Choose at least one resource.")
	says(t, b.posts("/ui/settings/api-tokens", 400, "name", "ci", "scope-devices", "nonsense", "life", "168h"), "unknown scope")
	b.posts("/ui/settings/api-tokens", 400, "name", "ci", "all", "yes", "life", "9999999h")
	if tokens := must(s.Store.APITokens(t.Context(), s.Owner.ID))(t); len(tokens) != 0 {
		t.Errorf("%d tokens were made", len(tokens))
	}
}

func TestAPITokenIsRevokedOnThePage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Account(t, "mallory")
	b, mallory := s.browser(t), s.person(t, "mallory")
	b.signIn()
	mine, theirs := s.person(t, "ada").apiToken("mine", "all"), mallory.apiToken("theirs", "all")
	if page := b.page("/ui/settings/api-tokens"); strings.Contains(page, "theirs") {
		t.Error("the page shows another account's token")
	}
	other := want[api.APITokens](mallory, "GET", "/tokens", nil, 200).Items[0]
	b.posts("/ui/settings/api-tokens/revoke", 404, "id", other.ID)
	theirs.status("GET", "/devices/", nil, 200)
	b.posts("/ui/settings/api-tokens/revoke", 303, "id", must(s.Store.APITokens(t.Context(), s.Owner.ID))(t)[0].ID)
	mine.status("GET", "/devices/", nil, 401)
}

// A person must type the password again to delete or disable the account, so that nobody can do
// this in a browser that was left open.
func TestAccountEndsOnThePageOnlyWithThePassword(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.Server.Unlimited()
	b := f.browser(t)
	b.signIn()
	for problem, fields := range map[string][]string{
		"This is not the nick of the account.": {"confirm", "mallory", "delete-password", hubtest.Password, "with-devices", "yes"},
		"The current password is wrong.":       {"confirm", "ada", "delete-password", "wrong", "with-devices", "yes"},
		"Tick the box":                         {"confirm", "ada", "delete-password", hubtest.Password},
	} {
		status, page, _ := b.send("POST", "/ui/settings/delete", form(fields...))
		if status < 400 || status > 409 {
			t.Errorf("%s: status %d", problem, status)
		}
		says(t, page, problem)
	}
	says(t, b.posts("/ui/settings/disable", 403, "disable-password", "wrong"), "The current password is wrong.")
	if a := must(f.Store.Account(t.Context(), f.Owner.ID))(t); a.Disabled {
		t.Fatal("the account is disabled")
	}
	to := b.posts("/ui/settings/delete", 303, "confirm", "ada", "delete-password", hubtest.Password, "with-devices", "yes")
	if !strings.HasSuffix(to, "/sign-in") {
		t.Errorf("to %s", to)
	}
	if _, err := f.Store.Account(t.Context(), f.Owner.ID); err != store.ErrNotFound {
		t.Errorf("the account is still there: %v", err)
	}
	if status, _, _ := b.send("GET", "/ui/settings", ""); status == 200 {
		t.Error("the session is still valid")
	}
}

func TestDisableOnThePageEndsEverySession(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	b.posts("/ui/settings/disable", 303, "disable-password", hubtest.Password)
	if a := must(s.Store.Account(t.Context(), s.Owner.ID))(t); !a.Disabled {
		t.Error("the account is not disabled")
	}
	if status, _, _ := b.send("GET", "/ui/settings", ""); status == 200 {
		t.Error("the session is still valid")
	}
}

func TestSettingsShowHostileTextAsText(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	const attack = "\"><script>alert(1)</script>\u202e"
	page := b.posts("/ui/settings/api-tokens", 400, "name", attack, "life", "168h", "scope-devices", attack)
	if strings.Contains(page, "<script>alert") {
		t.Error("the typed name became markup")
	}
	account := must(s.Store.Account(t.Context(), s.Owner.ID))(t)
	_, err := s.Store.EndSessions(t.Context(), account.ID, store.Hash{}, store.Event{Time: s.Now()})
	if err != nil {
		t.Fatal(err)
	}
	b.signIn()
	hostile := store.Session{TokenHash: store.Hash{7}, AccountID: account.ID, Created: s.Now(), Expires: s.Now().AddDate(0, 0, 1), Addr: attack, Means: attack}
	if err := s.Store.CreateSession(t.Context(), hostile, account.PasswordHash); err != nil {
		t.Fatal(err)
	}
	if page := b.page("/ui/settings/sessions"); strings.Contains(page, "<script>alert") || strings.ContainsRune(text(page), '\u202e') {
		t.Errorf("%.500s", text(page))
	}
}

// The settings tell an operator what the role operator allows, and do not mention the role to other
// accounts.
func TestSettingsSayWhatTheRoleIs(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	if page := text(b.page("/ui/settings")); strings.Contains(page, "owner and operator") {
		t.Error("ada is shown as an operator")
	}
	s.setOperator(t, s.Owner.ID, true)
	b.signIn()
	says(t, b.page("/ui/settings"), "owner and operator", "pages about the whole hub")
}
