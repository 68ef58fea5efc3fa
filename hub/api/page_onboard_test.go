package api_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"html"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/locked"
	"gangway/wire"
)

// form posts a form of the hub's pages.
func (b *browser) form(path string, fields ...string) (int, string, http.Header) {
	b.t.Helper()
	values := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		values.Add(fields[i], fields[i+1])
	}
	return b.send("POST", path, values.Encode())
}

// secretIn finds the secret of a new join token in the page that shows it.
func secretIn(t *testing.T, page string) string {
	t.Helper()
	m := regexp.MustCompile(`name="secret" value="([^"]+)"`).FindStringSubmatch(page)
	if m == nil {
		t.Fatalf("the page has no secret: %s", brief.Of(text(page)))
	}
	return html.UnescapeString(m[1])
}

func (s *scene) newestToken(t *testing.T, owner store.Account) store.JoinToken {
	t.Helper()
	return must(s.Store.JoinTokens(t.Context(), owner.ID))(t)[0]
}

// A person creates a join token on the page and downloads its token file. A machine onboards with
// that file.
func TestTokenOfThePageOnboardsAMachine(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	_, form, _ := b.send("GET", "/ui/onboard/new", "")
	says(t, form, "New join token", "Maximum number of devices", "Your policy refuses such devices now")
	status, page, h := b.form("/ui/onboard/new", "nick", "spring batch", "max-uses", "2", "expires-in", "8w", "meta", "site=oslo\r\n\r\n hall = 3=b \n", "for-pantacor", "1")
	if status != 200 || h.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %s: %s", status, brief.Of(h), brief.Of(page))
	}
	says(t, page, "Join token created", "gangway-agent onboard --token-file device_autojointoken.json", "gangway image build x64-uefi-installer --token-file device_autojointoken.json -o installer.img", "0 of 2", "Pantacor's ownership proofs")
	tok := s.newestToken(t, s.Owner)
	if life := tok.Expires.Sub(tok.Created); tok.Nick != "spring batch" || tok.MaxUses != 2 || life != 8*7*24*time.Hour || !tok.ForPantacor || tok.WithoutTPM ||
		len(tok.DefaultUserMeta) != 2 || tok.DefaultUserMeta["site"] != "oslo" || tok.DefaultUserMeta["hall"] != "3=b" {
		t.Errorf("%s", brief.Of(tok))
	}
	status, file, h := b.form("/ui/onboard/tokens/"+tok.ID+"/file", "secret", secretIn(t, page))
	if status != 200 || h.Get("Content-Disposition") != `attachment; filename="device_autojointoken.json"` || h.Get("Cache-Control") != "no-store" || h.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %s: %s", status, brief.Of(h), file)
	}
	if shown := html.UnescapeString(page); !strings.Contains(shown, strings.TrimSpace(file)) {
		t.Error("the page shows another file than it offers")
	}
	parsed := must(wire.ParseTokenFile([]byte(file)))(t)
	must(s.victim.Onboard(t.Context(), s.client, parsed))(t)
	d := must(s.Store.Device(t.Context(), s.deviceOf(t, s.victim)))(t)
	if d.TokenID != tok.ID || d.UserMeta["site"] != "oslo" {
		t.Errorf("the device has token %s and %v", d.TokenID, d.UserMeta)
	}
	_, page, _ = b.send("GET", "/ui/onboard/tokens/"+tok.ID, "")
	says(t, page, "spring batch", "1 of 2", "1 device that joined with the token", "site", "oslo")
	if !strings.Contains(page, "/ui/devices?q=token%3A"+tok.ID) {
		t.Error("the page does not lead to the token's devices")
	}
	_, list, _ := b.send("GET", "/ui/devices?q=token%3A"+tok.ID, "")
	says(t, list, d.Nick, "1 device")
	if n := len(must(s.Store.Events(t.Context(), store.EventFilter{Owner: s.Owner.ID, Kind: "token.created"}))(t)); n != 1 {
		t.Errorf("%d events about the new token", n)
	}
}

// The secret of a join token is only on the page that answers its creation, and in the download of
// the token file. It is not on any other page, and not in a URL, a cookie, a header, the log or the
// database's files.
func TestTokenSecretIsNowhereElse(t *testing.T) {
	t.Parallel()
	var log locked.Buffer
	s := newSceneWith(t, func(c *api.Config) {
		c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	b := s.browser(t)
	b.signIn()
	_, page, h := b.form("/ui/onboard/new", "nick", "once", "without-tpm", "1", "for-pantacor", "1")
	secret := secretIn(t, page)
	tok := s.newestToken(t, s.Owner)
	absent := func(where, text string) {
		t.Helper()
		for _, form := range []string{secret, url.QueryEscape(secret), html.EscapeString(secret)} {
			if strings.Contains(text, form) {
				t.Errorf("the secret is in %s", where)
			}
		}
	}
	for _, address := range regexp.MustCompile(`(?:href|action|src)="[^"]*"`).FindAllString(page, -1) {
		absent("the address "+address, address)
	}
	absent("the headers", fmt.Sprint(h))
	_, _, h = b.form("/ui/onboard/tokens/"+tok.ID+"/file", "secret", secret)
	absent("the headers of the download", fmt.Sprint(h))
	b.form("/ui/onboard/tokens/"+tok.ID+"/file", "secret", "A"+secret[1:])
	for _, path := range []string{"/ui/onboard", "/ui/onboard/new", "/ui/onboard/tokens/" + tok.ID, "/ui/overview", "/ui/devices"} {
		_, page, h := b.send("GET", path, "")
		absent(path, page+fmt.Sprint(h))
	}
	absent("the cookie", b.cookie)
	absent("the log", log.String())
	absent("the events", fmt.Sprint(must(s.Store.Events(t.Context(), store.EventFilter{Owner: s.Owner.ID}))(t)))
	tokens := must(s.Store.JoinTokens(t.Context(), s.Owner.ID))(t)
	absent("the store", fmt.Sprintf("%+v", tokens))
	absentInFiles(t, s.Data(), secret)
}

// absentInFiles fails the test if any file in the folder dir contains the secret.
func absentInFiles(t *testing.T, dir, secret string) {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if files++; bytes.Contains(b, []byte(secret)) || bytes.Contains(b, raw) {
			t.Errorf("the secret is in %s", path)
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files were read, %v", files, err)
	}
}

// The hub refuses to send a token file unless the request contains the secret of the join token.
// The refusal repeats nothing from the request.
func TestTokenFileNeedsItsSecret(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	_, first, _ := b.form("/ui/onboard/new", "nick", "first")
	_, second, _ := b.form("/ui/onboard/new", "nick", "second")
	tok := s.newestToken(t, s.Owner)
	for name, secret := range map[string]string{"none": "", "of another token": secretIn(t, first), "short": secretIn(t, second)[:28], "not base64": "<script>alert(1)</script>", "long": strings.Repeat("A", 4000)} {
		status, page, h := b.form("/ui/onboard/tokens/"+tok.ID+"/file", "secret", secret)
		if status != 400 || !strings.Contains(page, "token-secret") || h.Get("Content-Disposition") != "" || strings.Contains(page, "<script>alert") {
			t.Errorf("%s: %d %s", name, status, brief.Of(page))
		}
	}
	if status, _, _ := b.form("/ui/onboard/tokens/"+tok.ID+"/file", "secret", secretIn(t, second)); status != 200 {
		t.Errorf("the token's own secret: %d", status)
	}
}

// If a form for a new join token has errors, the answer shows each problem next to its field, and
// still has the text that the person typed.
func TestTokenFormKeepsWhatWasTyped(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	before := len(must(s.Store.JoinTokens(t.Context(), s.Owner.ID))(t))
	for _, c := range []struct{ field, typed, says string }{
		{"nick", strings.Repeat("x", 65), "at most 64"},
		{"nick", "a\u202eb", "invisible character"},
		{"max-uses", "many", "Type a number"},
		{"max-uses", "-1", "Type a number"},
		{"max-uses", "1000001", "Type a number"},
		{"expires-in", "30", "has no unit"},
		{"expires-in", "soon", "is not a duration"},
		{"expires-in", "-1d", "from 1s to ten years"},
		{"expires-in", "11000d", "from 1s to ten years"},
		{"meta", "site", "Line 1 is not KEY=VALUE"},
		{"meta", "a=1\n=2", "Line 2 is not KEY=VALUE"},
		{"meta", "a=1\na=2", "repeats the key"},
		{"meta", "a=\u202e", "invisible character"},
		{"meta", strings.Repeat("a=1\n", 101), "at most 100"},
	} {
		fields := map[string]string{"nick": "kept nick", "max-uses": "7", "expires-in": "3w", "meta": "kept=meta"}
		fields[c.field] = c.typed
		status, page, _ := b.form("/ui/onboard/new", "nick", fields["nick"], "max-uses", fields["max-uses"], "expires-in", fields["expires-in"], "meta", fields["meta"], "without-tpm", "1")
		says(t, page, c.says)
		if status != 400 || !strings.Contains(page, `aria-describedby="h-`+c.field+` e-`+c.field) {
			t.Errorf("%s %.20q: %d, the error is not beside the field: %s", c.field, c.typed, status, brief.Of(text(page)))
		}
		for name, value := range fields {
			if value = html.EscapeString(strings.TrimSpace(value)); !strings.Contains(strings.ReplaceAll(page, "&#43;", "+"), value) {
				t.Errorf("%s %.20q: the text of %s is gone", c.field, c.typed, name)
			}
		}
		if !strings.Contains(page, `name="without-tpm" value="1" checked`) {
			t.Errorf("%s: the choice is gone", c.field)
		}
	}
	if after := len(must(s.Store.JoinTokens(t.Context(), s.Owner.ID))(t)); after != before {
		t.Errorf("%d join tokens were created", after-before)
	}
	if status, _, _ := b.form("/ui/onboard/new"); status != 200 {
		t.Errorf("an empty form: %d", status)
	}
	if tok := s.newestToken(t, s.Owner); tok.MaxUses != 0 || tok.Nick != "" || tok.Expires.Sub(tok.Created) != 30*24*time.Hour {
		t.Errorf("%s", brief.Of(tok))
	}
}

// If an owner opens a page or sends a form with the id of another owner's join token, the answer is
// the same as for an id that does not exist.
func TestOtherOwnersTokenHasNoPage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	theirs := s.Token(t, s.Account(t, "mallory"), func(j *store.JoinToken) { j.Nick = "theirs" })
	b := s.browser(t)
	b.signIn()
	tried := 0
	for _, r := range api.Routes() {
		if !strings.HasPrefix(r.Path, "/ui/onboard/tokens/{id}") {
			continue
		}
		tried++
		path := func(id string) string { return strings.ReplaceAll(r.Path, "{id}", id) }
		form := url.Values{"secret": {theirs.Token}, "confirm": {"theirs"}}.Encode()
		status, page, _ := b.send(r.Method, path(theirs.ID), form)
		none, other, _ := b.send(r.Method, path("00112233445566778899aabb"), form)
		if status != 404 || none != 404 || page != other {
			t.Errorf("%s %s: %d and %d: %s", r.Method, r.Path, status, none, brief.Of(page))
		}
		if status, _, _ := b.send(r.Method, path("x"), form); status != 404 {
			t.Errorf("%s %s with no id: %d", r.Method, r.Path, status)
		}
	}
	if tried < 4 {
		t.Errorf("only %d routes were tried", tried)
	}
	if _, list, _ := b.send("GET", "/ui/onboard", ""); strings.Contains(list, theirs.ID) || strings.Contains(list, "theirs") {
		t.Error("the list has mallory's token")
	}
	if status, _, _ := b.send("GET", "/ui/onboard?after="+theirs.ID, ""); status != 404 {
		t.Errorf("a page after mallory's token: %d", status)
	}
	if tok := must(s.Store.JoinToken(t.Context(), theirs.ID))(t); tok.Disabled {
		t.Error("ada disabled mallory's token")
	}
}

// The pages show a join token's nick as plain text: its markup has no effect, and none of its
// characters can reorder the text around it.
func TestTokenPagesShowHostileTextAsText(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	const attack = "\"><script>alert(1)</script>\u202egnp.exe"
	b := s.browser(t)
	b.signIn()
	tok := s.Token(t, s.Owner, func(j *store.JoinToken) {
		j.Nick, j.DefaultUserMeta = attack, map[string]any{attack: attack}
		j.Expires = s.Now().Add(time.Hour)
	})
	_, wrong, _ := b.form("/ui/onboard/tokens/"+tok.ID+"/disable", "confirm", attack)
	_, typed, _ := b.form("/ui/onboard/new", "nick", attack, "meta", attack, "expires-in", attack, "max-uses", attack)
	pages := map[string]string{"wrong confirmation": wrong, "form": typed}
	for _, path := range []string{"/ui/onboard", "/ui/onboard?soon=1", "/ui/onboard/tokens/" + tok.ID} {
		_, pages[path], _ = b.send("GET", path, "")
	}
	for name, page := range pages {
		if strings.Contains(page, "<script>alert") {
			t.Errorf("%s has the markup", name)
		}
		if name != "form" && strings.ContainsRune(page, '\u202e') {
			t.Errorf("%s has a character that reorders text", name)
		}
		if !strings.Contains(html.UnescapeString(page), `\u202egnp.exe`) && name != "form" {
			t.Errorf("%s does not show the nick: %s", name, brief.Of(text(page)))
		}
	}
}

// To disable a join token, which cannot be undone, a person must type the token's nick. Only a
// disabled token can be deleted.
func TestTokenIsDisabledAndDeletedOnThePage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	for nick, confirm := range map[string]string{"spring": "spring", "": "disable"} {
		tok := s.Token(t, s.Owner, func(j *store.JoinToken) { j.Nick = nick })
		path := "/ui/onboard/tokens/" + tok.ID
		if status, page, _ := b.form(path+"/disable", "confirm", "summer"); status != 400 || must(s.Store.JoinToken(t.Context(), tok.ID))(t).Disabled {
			t.Errorf("the wrong nick: %d %s", status, brief.Of(text(page)))
		}
		if status, page, _ := b.form(path + "/delete"); status != 409 || !strings.Contains(page, "token-not-disabled") {
			t.Errorf("deleting a valid token: %d %s", status, brief.Of(text(page)))
		}
		if status, _, h := b.form(path+"/disable", "confirm", confirm); status != 303 || h.Get("Location") != path {
			t.Errorf("%q: %d", nick, status)
		}
		if !must(s.Store.JoinToken(t.Context(), tok.ID))(t).Disabled {
			t.Error("the token is not disabled")
		}
		_, page, _ := b.send("GET", path, "")
		says(t, page, "disabled", "Delete the join token")
		if status, _, h := b.form(path + "/delete"); status != 303 || h.Get("Location") != "/ui/onboard" {
			t.Errorf("delete: %d", status)
		}
		if status, _, _ := b.send("GET", path, ""); status != 404 {
			t.Errorf("the deleted token: %d", status)
		}
	}
}

// The list of join tokens is split into pages and shows each token's state. The overview links to a
// separate list of the tokens that expire soon.
func TestTokenListHasPagesAndStates(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	for i := range 55 {
		s.Token(t, s.Owner, func(j *store.JoinToken) {
			j.Nick, j.Expires = fmt.Sprintf("batch-%02d", i), s.Now().Add(30*24*time.Hour)
		})
	}
	s.Token(t, s.Owner, func(j *store.JoinToken) { j.Nick, j.Expires = "ends-soon", s.Now().Add(time.Hour) })
	s.Token(t, s.Owner, func(j *store.JoinToken) { j.Nick, j.Expires = "ended", s.Now().Add(-time.Hour) })
	s.Token(t, s.Owner, func(j *store.JoinToken) { j.Nick, j.MaxUses, j.Expires = "full", 3, s.Now().Add(8*24*time.Hour) })
	off := s.Token(t, s.Owner, func(j *store.JoinToken) { j.Nick = "off" })
	if err := s.Store.DisableJoinToken(t.Context(), s.Owner.ID, off.ID); err != nil {
		t.Fatal(err)
	}
	_, first, _ := b.send("GET", "/ui/onboard", "")
	says(t, first, "50 on this page", "2 expire within a week", "expires soon", "expired", "disabled", "valid")
	next := regexp.MustCompile(`rel="next" href="([^"]+)"`).FindStringSubmatch(first)
	if next == nil {
		t.Fatal("there is no next page")
	}
	_, second, _ := b.send("GET", html.UnescapeString(next[1]), "")
	rows := func(page string) int { return strings.Count(page, "row-link") }
	if total := len(must(s.Store.JoinTokens(t.Context(), s.Owner.ID))(t)); rows(first) != 50 || rows(first)+rows(second) != total || strings.Contains(second, `rel="next"`) {
		t.Errorf("%d and %d rows of %d", rows(first), rows(second), total)
	}
	_, soon, _ := b.send("GET", "/ui/onboard?soon=1", "")
	says(t, soon, "ends-soon", "Show all join tokens")
	if rows(soon) != 2 { // the token ends-soon, and the token of the scene
		t.Errorf("%d tokens expire soon", rows(soon))
	}
	if _, overview, _ := b.send("GET", "/ui/overview", ""); !strings.Contains(overview, `href="/ui/onboard"`) {
		t.Errorf("the overview without devices does not lead to the tokens: %s", brief.Of(text(overview)))
	}
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	if _, overview, _ := b.send("GET", "/ui/overview", ""); !strings.Contains(overview, `href="/ui/onboard?soon=1"`) {
		t.Errorf("the overview does not lead to the tokens that expire: %s", brief.Of(text(overview)))
	}
}

// If an account has no join token, the overview has a link to the list of join tokens. The empty
// list explains the next step.
func TestEmptyTokenListTeaches(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Account(t, "newcomer")
	b := s.browser(t)
	if status, _, _ := b.form("/sign-in", "nick", "newcomer", "password", hubtest.Password); status != 303 {
		t.Fatalf("sign-in: %d", status)
	}
	_, page, _ := b.send("GET", "/ui/onboard", "")
	says(t, page, "No join token yet", "a machine needs only the token file", "gangway token create")
	if !strings.Contains(page, `href="/ui/onboard/new"`) {
		t.Error("the page does not lead to the form")
	}
	for _, path := range []string{"/ui/overview", "/ui/devices"} {
		_, page, _ := b.send("GET", path, "")
		says(t, page, "Onboard the first machine", "gangway token create")
		if !strings.Contains(page, `<a class="button primary" href="/ui/onboard">`) {
			t.Errorf("%s does not lead to the section", path)
		}
	}
}

// fullOfTokens is a store in which every owner has the maximum number of join tokens.
type fullOfTokens struct{ api.Store }

func (fullOfTokens) CreateJoinToken(context.Context, store.JoinToken) error { return store.ErrFull }

func TestTooManyTokensAreRefusedOnThePage(t *testing.T) {
	t.Parallel()
	s := newSceneWith(t, func(c *api.Config) { c.Store = fullOfTokens{c.Store} })
	b := s.browser(t)
	b.signIn()
	status, page, _ := b.form("/ui/onboard/new", "nick", "one more")
	says(t, page, "join tokens, which is the maximum")
	if status != 409 || !strings.Contains(page, `value="one more"`) {
		t.Errorf("%d %s", status, brief.Of(text(page)))
	}
}
