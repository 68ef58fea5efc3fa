package api_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
)

// The wall lists the devices that onboarded last and the machines that are onboarding. It has no
// controls, because it is for a screen that nobody operates.
func TestWallShowsArrivalsAndWhatIsUnderway(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	b := s.browser(t)
	b.signIn()
	status, page, _ := b.send("GET", "/ui/wall", "")
	if status != 200 || !strings.Contains(page, "No machine has onboarded yet") || !strings.Contains(page, `<noscript><meta http-equiv="refresh" content="20"></noscript>`) {
		t.Fatalf("empty: %d %s", status, brief.Of(page))
	}
	if strings.Contains(page, "<form") || strings.Contains(page, "<button") || strings.Contains(page, "<nav") || strings.Contains(page, "htmx.") {
		t.Errorf("the wall has controls: %s", brief.Of(page))
	}
	s.named(t, "NUC", "A-1")
	waiting, id := s.arrives(t, "Gate computer", "GC-1")
	lines, _ := b.stream(t.Context())
	waitFor(t, lines, "retry")
	pending := s.device(t)
	pending.Serial = "PEND-1"
	must(pending.Enrol(t.Context(), s.client, s.request(t, pending)))(t)
	waitFor(t, lines, `"enrolment.issued"`)
	part := func() string {
		t.Helper()
		status, page, _ := b.send("GET", "/ui/wall/part", "")
		if status != 200 || strings.Contains(page, "<html") {
			t.Fatalf("%d %s", status, brief.Of(page))
		}
		return page
	}
	page = part()
	for _, want := range []string{"<dt>devices</dt><dd>1</dd>", "<dt>waiting for you</dt><dd>1</dd>", "TPM verified", "GC-1", "PEND-1", "certificates sent", "NUC"} {
		if !strings.Contains(page, want) {
			t.Errorf("the wall lacks %q: %s", want, brief.Of(page))
		}
	}
	// The wall does not show the id of a device that has not activated its certificates yet,
	// because PendingEnrolments does not return it.
	if n := strings.Count(page, "data-id="); n != 1 {
		t.Errorf("%d ids", n)
	}
	decide(s.person(t, "ada"), id, "approve", 200)
	s.Advance(90 * time.Second)
	must(waiting.Onboard(t.Context(), s.client, s.tok))(t)
	if page = part(); !strings.Contains(page, "approved by a person") || !strings.Contains(page, "in 1 min 3") || strings.Contains(page, "waiting for you</span>") {
		t.Errorf("after the approval: %s", brief.Of(page))
	}
}

// The wall has a bounded number of rows, whatever happens, so that the page can stay open for
// weeks.
func TestWallIsBounded(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	for i := range 12 {
		s.named(t, "NUC", fmt.Sprint("A-", i))
		w := store.WaitingDevice{Owner: s.Owner.ID, EK: store.Hash{byte(i), 9}, DeviceID: fmt.Sprintf("%024x", i), Codes: []string{"policy"},
			Request: []byte{}, Verdict: []byte("{}"), Since: s.Now(), LastSeen: s.Now(), Expires: s.Now().Add(time.Hour)}
		must(s.Store.PutWaiting(t.Context(), w, onboard.MaxWaiting))(t)
	}
	b := s.browser(t)
	b.signIn()
	_, page, _ := b.send("GET", "/ui/wall", "")
	if n := strings.Count(page, "</li>"); n != 10 || !strings.Contains(page, "<dt>devices</dt><dd>12</dd>") {
		t.Errorf("%d rows: %s", n, brief.Of(page))
	}
	if !strings.Contains(page, "and 9 more waiting for you") { // 12 wait, and 3 have rows
		t.Errorf("the wall hides that more machines wait: %s", brief.Of(page))
	}
}

func TestWallShowsNothingOfOthersAndNoMarkup(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	s.Account(t, "mallory")
	theirs := s.Token(t, must(s.Store.AccountByNickOrEmail(t.Context(), "mallory"))(t), nil)
	s.victim.Model = "SECRET-MODEL"
	must(s.victim.Onboard(t.Context(), s.client, theirs))(t)
	other := s.uncertified(t)
	other.Serial = "SECRET-SERIAL"
	waits(t, s.post(t, must(other.Request(theirs, fleet.RequestChange{}))(t)), "ek-certificate-none")
	const evil = "<script>alert(1)</script>\u202egnp"
	s.named(t, evil, evil)
	s.arrives(t, evil, evil)
	b := s.browser(t)
	b.signIn()
	for _, path := range []string{"/ui/wall", "/ui/wall?scheme=system", "/ui/wall/part"} {
		status, page, _ := b.send("GET", path, "")
		if status != 200 || strings.Contains(page, "SECRET") || strings.Contains(page, "<script>alert") || strings.Contains(page, "\u202e") || strings.Count(page, "&lt;script&gt;alert(1)") < 3 {
			t.Errorf("%s: %d %s", path, status, brief.Of(page))
		}
	}
	// An open wall page requests its list again and again. Once nobody is signed in, the hub
	// answers 401, so that the page can say that the session has ended.
	nobody := s.person(t, "")
	if status, _, h := nobody.request("GET", "/ui/wall/part", nil, map[string]string{"Accept": "text/html", "HX-Request": "true"}); status != 401 || h.Get("HX-Redirect") != "/sign-in" {
		t.Errorf("signed out: %d", status)
	}
	// If a script on a page sends a request that needs a sign-in, the browser returns to that page
	// after the sign-in, but only if the page is on this hub.
	for from, to := range map[string]string{
		s.URL + "/ui/wall?scheme=system": "/sign-in?next=%2Fui%2Fwall%3Fscheme%3Dsystem",
		"https://evil.example/claim/x":   "/sign-in",
		"//evil.example":                 "/sign-in",
		"%zz":                            "/sign-in",
	} {
		_, _, h := nobody.request("GET", "/ui/wall/part", nil, map[string]string{"Accept": "text/html", "HX-Request": "true", "HX-Current-URL": from})
		if got := h.Get("HX-Redirect"); got != to {
			t.Errorf("from %q to %q", from, got)
		}
	}
}
