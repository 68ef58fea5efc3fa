package api_test

import (
	"errors"
	"fmt"
	"html"
	"regexp"
	"strings"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/wire"
)

// operator returns a signed-in person whose account, olga, has the role operator.
func (s *scene) operator(t *testing.T) *person {
	t.Helper()
	a, err := s.Store.AccountByNickOrEmail(t.Context(), "olga")
	if errors.Is(err, store.ErrNotFound) {
		a = s.Account(t, "olga")
	} else if err != nil {
		t.Fatal(err)
	}
	s.setOperator(t, a.ID, true)
	return s.person(t, "olga")
}

func (s *scene) setOperator(t *testing.T, id string, operator bool) {
	t.Helper()
	e := store.Event{Time: time.Now(), Kind: "account.operator-given", Owner: id, Message: "The account got the role operator."}
	if err := s.Store.SetOperator(t.Context(), id, operator, e); err != nil {
		t.Fatal(err)
	}
}

// No request to the hub can give an account the role operator. The test tries it with the caller's
// own account and with a new account.
func TestNoRequestGivesARole(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	for _, body := range []string{
		`{"nick":"mallory","email":"m@example.org","password":"correct horse battery","operator":true}`,
		`{"nick":"mallory2","email":"m2@example.org","password":"correct horse battery","Operator":true,"role":"operator","roles":["operator"]}`,
	} {
		ada.do("POST", "/auth/accounts", body)
	}
	want[struct{ Token string }](ada, "POST", "/auth/login", `{"username":"ada","password":"correct horse battery","scope":"","operator":true,"roles":"operator"}`, 200)
	accounts, err := s.Store.Accounts(t.Context(), "", 0)
	if err != nil || len(accounts) == 0 {
		t.Fatal(err)
	}
	for _, a := range accounts {
		if a.Operator {
			t.Errorf("%s has the role", a.Nick)
		}
	}
}

// A change of the role operator takes effect at once, even in an open session: the session can see
// the operator's pages as soon as the account has the role, and no longer after the role is
// removed.
func TestRoleActsAtOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.signedIn(t, "ada")
	look := func(why string, want int) string {
		t.Helper()
		status, body, _ := b.send("GET", "/ui/operator", "")
		if status != want {
			t.Errorf("%s: %d", why, status)
		}
		return body
	}
	section := func() bool {
		_, body, _ := b.send("GET", "/ui/overview", "")
		return strings.Contains(body, `href="/ui/operator"`)
	}
	if body := look("without the role", 403); !strings.Contains(body, "gangway account operator") || section() {
		t.Errorf("without the role: section %v, %.300s", section(), body)
	}
	s.setOperator(t, s.Owner.ID, true)
	if look("with the role", 200); !section() {
		t.Error("the section is not shown")
	}
	s.setOperator(t, s.Owner.ID, false)
	if look("after the role was taken", 403); section() {
		t.Error("the section is still shown")
	}
}

// The operator's pages show counts and owners. The pages show no ids, nicks, metadata, models,
// serial numbers or addresses of an owner's devices, and no e-mail addresses.
func TestOperatorsPagesShowCountsAndOwnersOnly(t *testing.T) {
	t.Parallel()
	e := newEstate(t)
	e.operator(t)
	b := e.signedIn(t, "olga")
	device := must(e.Store.Device(t.Context(), e.boatID))(t)
	account := must(e.Store.Account(t.Context(), e.Owner.ID))(t)
	secrets := []string{canary, device.ID, device.Nick, device.ProdSerial, account.ID, account.Email, e.ids["token"], e.ids["waiting"], e.pirateID}
	pages := map[string]string{}
	for _, path := range []string{"/ui/operator", "/ui/operator/makers", "/ui/operator/health", "/ui/operator/versions", "/ui/operator/alarms", "/ui/operator?after=", "/ui/operator?after=a"} {
		status, body, _ := b.send("GET", path, "")
		if status != 200 {
			t.Errorf("%s: %d %.300s", path, status, body)
		}
		for _, secret := range secrets {
			if secret != "" && strings.Contains(body, secret) {
				t.Errorf("%s shows %q", path, secret)
			}
		}
		pages[path] = body
	}
	for path, wants := range map[string][]string{
		"/ui/operator":        {"ada", "mallory", "olga", "enabled", "64 GiB", "operator"},
		"/ui/operator/makers": {"FAKE", "Devices with other TPMs"},
		"/ui/operator/health": {"Free disk space", "renews the certificate by itself", "never expire", "Go"},
	} {
		for _, want := range wants {
			if !strings.Contains(pages[path], want) {
				t.Errorf("%s lacks %q", path, want)
			}
		}
	}
}

// The list of owners is split into pages. Each page begins after the last nick of the previous
// page.
func TestOwnersInPages(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for i := range 150 {
		s.Account(t, fmt.Sprintf("owner-%03d", i))
	}
	s.operator(t)
	b := s.signedIn(t, "olga")
	_, body, _ := b.send("GET", "/ui/operator", "")
	next := regexp.MustCompile(`rel="next" href="([^"]+)"`).FindStringSubmatch(body)
	if strings.Count(body, `data-label="Devices"`) != 100 || next == nil {
		t.Fatalf("%d rows, next %v", strings.Count(body, `data-label="Devices"`), next)
	}
	_, rest, _ := b.send("GET", html.UnescapeString(next[1]), "")
	if n := strings.Count(rest, `data-label="Devices"`); n != 52 || strings.Contains(rest, `rel="next"`) || !strings.Contains(rest, "owner-149") || strings.Contains(rest, "owner-000") {
		t.Errorf("%d rows on the second page", n)
	}
	if _, none, _ := b.send("GET", "/ui/operator?after=zzzz", ""); !strings.Contains(none, "after the end of the list") {
		t.Error("a page after the last says nothing")
	}
}

// The health page shows the number of refused requests for each error code.
func TestOperatorSeesRefusalsByCode(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.post(t, []byte("no request"))
	s.operator(t)
	b := s.signedIn(t, "olga")
	if _, body, _ := b.send("GET", "/ui/operator/health", ""); !regexp.MustCompile(`<code>csr[a-z-]*</code></td><td data-label="Request">onboarding</td><td data-label="Refused" class="num">1<`).MatchString(body) {
		t.Errorf("the refusal is not counted: %s", body[max(0, strings.Index(body, "refused-h")):])
	}
}

// If the TLS certificate of the web pages is missing or expires soon, the health page says so, and
// shows the remedy.
func TestOperatorSeesAnExpiredPageCertificate(t *testing.T) {
	t.Parallel()
	p := newPageScene(t)
	p.operator(t)
	b := p.signedIn(t, "olga")
	if _, body, _ := b.send("GET", "/ui/operator/health", ""); !strings.Contains(body, "For the web pages") || !strings.Contains(body, "expires soon") {
		t.Errorf("a day before the end: %.3000s", body)
	}
	p.Advance(25 * time.Hour)
	b = p.signedIn(t, "olga")
	if _, body, _ := b.send("GET", "/ui/operator/health", ""); !strings.Contains(body, "For the web pages: expired") {
		t.Errorf("after the end: %.3000s", body)
	}
}

// For each version of the agent, the operator sees how many devices of all owners run it. A device
// reports its version itself. If that text is not a version, the page counts the device but does
// not show the text.
func TestOperatorSeesVersionsAndNoOtherText(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.operator(t)
	for i, version := range []any{"1.4.0", "1.4.0", "1.5.0-rc1+abc", "my secret", "<script>alert(1)</script>", strings.Repeat("1.", 400), 7, nil} {
		d := store.Device{ID: wire.NewID(), Nick: fmt.Sprintf("v-%d", i), Owner: f.Owner.ID, Created: f.Now(), LastSeen: f.Now()}
		must(f.Store.CreateDevice(t.Context(), d, store.Hash{byte(i)}))(t)
		if version != nil {
			if err := f.Store.ReplaceDeviceMeta(t.Context(), d.ID, map[string]any{"gangway.version": version}); err != nil {
				t.Fatal(err)
			}
		}
	}
	b := f.signedIn(t, "olga")
	page := b.page("/ui/operator/versions")
	says(t, page, "10 devices", "1.4.0 2 20 %", "1.5.0-rc1+abc 1 10 %", "not a version the reported text is not shown 3", "no version another program than Gangway's agent, or no report yet 4")
	for _, hidden := range []string{"my secret", "alert(1)", "1.1.1"} {
		if strings.Contains(page, hidden) {
			t.Errorf("the page shows %q", hidden)
		}
	}
}

// On a hub with many devices, the page of versions counts only a sample of each owner's devices,
// and says so.
func TestVersionsAreCountedInASample(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.operator(t)
	small := s.Account(t, "grace")
	for i := range 260 {
		owner := s.Owner.ID
		if i < 5 {
			owner = small.ID
		}
		d := store.Device{ID: wire.NewID(), Nick: fmt.Sprintf("v-%d", i), Owner: owner, Created: s.Now(), LastSeen: s.Now()}
		must(s.Store.CreateDevice(t.Context(), d, store.Hash{byte(i), byte(i >> 8)}))(t)
	}
	b := s.signedIn(t, "olga")
	says(t, b.page("/ui/operator/versions"), "200 of 260 devices", "the shares are estimates")
}
