package api_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/wire"
)

// page returns a page's HTML. It fails the test if the status is not 200.
func (b *browser) page(path string) string {
	b.t.Helper()
	status, page, _ := b.send("GET", path, "")
	if status != 200 {
		b.t.Fatalf("GET %s: %d %s", path, status, brief.Of(page))
	}
	return page
}

// The method `happened` appends an event to an account's audit trail.
func (f *fleetScene) happened(t *testing.T, e store.Event) {
	t.Helper()
	e.Time = f.Now()
	if err := f.Store.AppendEvent(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

func TestAuditLinksEverythingInARow(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	boat := must(f.Store.Device(t.Context(), f.boatID))(t)
	gone := wire.NewID()
	f.happened(t, store.Event{Kind: "device.test", Owner: f.Owner.ID, Device: f.boatID, Token: boat.TokenID, Actor: wire.DevicePRN + f.boatID, ActorName: boat.Nick, Message: "about both"})
	f.happened(t, store.Event{Kind: "device.test", Owner: f.Owner.ID, Device: gone, Message: "about a deleted one"})
	f.happened(t, store.Event{Kind: "policy.changed", Owner: f.Owner.ID, Actor: wire.AccountPRN + f.Owner.ID, ActorName: "ada", Message: "about the policy"})
	page := html.UnescapeString(b.page("/ui/audit"))
	for _, link := range []string{
		`href="/ui/devices/` + f.boatID + `"`, `href="/ui/onboard/tokens/` + boat.TokenID + `"`, `href="/ui/audit?device=` + f.boatID + `"`, `href="/ui/audit?token=` + boat.TokenID + `"`,
		`href="/ui/audit?device=` + gone + `"`, `href="/ui/audit?kind=device.test"`, `href="/ui/trust/policy"`, `href="/ui/audit?account=` + url.QueryEscape(wire.AccountPRN+f.Owner.ID) + `"`,
	} {
		if !strings.Contains(page, link) {
			t.Errorf("the page lacks %s", link)
		}
	}
	if strings.Contains(page, `href="/ui/devices/`+gone) {
		t.Error("the page leads to a deleted device")
	}
}

func TestAuditFiltersByTheAddress(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	boat := must(f.Store.Device(t.Context(), f.boatID))(t)
	token := must(f.Store.JoinToken(t.Context(), boat.TokenID))(t)
	f.happened(t, store.Event{Kind: "k.one", Owner: f.Owner.ID, Message: "first of all"})
	f.happened(t, store.Event{Kind: "k.two", Owner: f.Owner.ID, Device: f.boatID, Message: "by boat"})
	f.happened(t, store.Event{Kind: "k.two", Owner: f.Owner.ID, Token: token.ID, ActorName: "Grace", Message: "by token"})
	today := f.Now().UTC().Format(time.DateOnly)
	for query, want := range map[string]string{
		"kind=k.":                                   "first of all, by boat, by token",
		"kind=k.one":                                "first of all",
		"kind=k.&device=" + f.boatID:                "by boat",
		"kind=k.&device=" + boat.Nick:               "by boat",
		"kind=k.&token=" + token.ID:                 "by token",
		"kind=k.&account=grace":                     "by token",
		"kind=k.&since=" + today:                    "first of all, by boat, by token",
		"kind=k.&until=" + today:                    "first of all, by boat, by token",
		"kind=k.&since=2099-01-01":                  "",
		"kind=k.&until=1999-01-01":                  "",
		"kind=k.&device=nobody":                     "",
		"kind=k.&since=yesterday":                   "",
		"kind=k.&account=grace&device=" + boat.Nick: "",
	} {
		got := text(b.page("/ui/audit?" + query))
		for _, m := range []string{"first of all", "by boat", "by token"} {
			if strings.Contains(got, m) != strings.Contains(want, m) {
				t.Errorf("%s: %q is on the page: %v", query, m, strings.Contains(got, m))
			}
		}
	}
	says(t, b.page("/ui/audit?device=nobody&since=yesterday"), "You have no device with this nick.", "Write a day like 2026-11-28.", "No event matches")
}

// Each event is on exactly one page of the list, and each page has a bounded number of events.
func TestAuditPagesByKey(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	for i := range 120 {
		f.happened(t, store.Event{Kind: "k.many", Owner: f.Owner.ID, Message: fmt.Sprintf("event number %d.", i)})
	}
	seen, path := map[string]int{}, "/ui/audit?kind=k.many"
	for pages := 0; path != "" && pages < 9; pages++ {
		page := b.page(path)
		found := regexp.MustCompile(`event number \d+\.`).FindAllString(page, -1)
		if len(found) > 50 {
			t.Errorf("%s has %d events", path, len(found))
		}
		for _, one := range found {
			seen[one]++
		}
		_, rest, _ := strings.Cut(page, `rel="next" href="`)
		path, _, _ = strings.Cut(html.UnescapeString(rest), `"`)
	}
	if len(seen) != 120 {
		t.Errorf("%d of 120 events were shown", len(seen))
	}
	for one, n := range seen {
		if n != 1 {
			t.Errorf("%s was shown %d times", one, n)
		}
	}
}

// The page shows no event, device or token of another owner, whatever the filter in the URL is.
func TestAuditShowsNothingOfAnotherOwner(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	pirate := must(f.Store.Device(t.Context(), f.pirateID))(t)
	f.happened(t, store.Event{Kind: "k.secret", Owner: pirate.Owner, Device: f.pirateID, Token: pirate.TokenID, Message: "buried treasure"})
	// An event of Ada contains the ids of the other owner's device and token.
	f.happened(t, store.Event{Kind: "k.mine", Owner: f.Owner.ID, Device: f.pirateID, Token: pirate.TokenID, Message: "same chip"})
	token := must(f.Store.JoinToken(t.Context(), pirate.TokenID))(t)
	for _, path := range []string{"/ui/audit", "/ui/audit?device=" + f.pirateID, "/ui/audit?token=" + token.ID, "/ui/audit?kind=k.", "/ui/audit.csv", "/ui/audit.json?device=" + f.pirateID, "/ui/audit?device=" + pirate.Nick, "/ui/audit?account=mallory"} {
		page := b.page(path)
		if strings.Contains(page, "buried treasure") || strings.Contains(page, "/ui/devices/"+f.pirateID) || !strings.Contains(path, pirate.Nick) && strings.Contains(page, pirate.Nick) {
			t.Errorf("%s shows something of another owner", path)
		}
	}
}

func TestAuditAnnouncesNewEvents(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	f.happened(t, store.Event{Kind: "k.one", Owner: f.Owner.ID, Message: "old"})
	newsOf := func(page string) string {
		_, rest, _ := strings.Cut(page, `data-live="`)
		path, _, _ := strings.Cut(rest, `"`)
		return html.UnescapeString(path)
	}
	all, one, other := newsOf(b.page("/ui/audit")), newsOf(b.page("/ui/audit?kind=k.one")), newsOf(b.page("/ui/audit?kind=k.other"))
	if line := b.page(one); !strings.Contains(line, "hidden") {
		t.Errorf("news without a newer event: %s", line)
	}
	for range 2 {
		f.happened(t, store.Event{Kind: "k.one", Owner: f.Owner.ID, Message: "new"})
	}
	for path, want := range map[string]string{all: "2 newer events", one: "2 newer events", other: "hidden"} {
		if line := b.page(path); !strings.Contains(line, want) || want != "hidden" && strings.Contains(line, "hidden") {
			t.Errorf("%s lacks %q: %s", path, want, line)
		}
	}
	for range 120 {
		f.happened(t, store.Event{Kind: "k.one", Owner: f.Owner.ID, Message: "new"})
	}
	says(t, b.page(one), "More than 100 newer events")
	if status, _, _ := b.send("GET", "/ui/audit/news", ""); status != 400 {
		t.Errorf("news without a place: %d", status)
	}
}

// Texts from other people and from devices do not become markup on the page, or formulas in an
// exported spreadsheet.
func TestAuditShowsAndExportsHostileTextAsText(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	const attack = "=HYPERLINK(\"//x\")<script>alert(1)</script>\u202egnp.exe"
	f.happened(t, store.Event{Kind: "k.one", Code: attack, Owner: f.Owner.ID, Device: attack, Token: attack, Actor: attack, ActorName: attack, Means: attack, Credential: attack, Addr: attack, Message: attack})
	page := b.page("/ui/audit")
	if strings.Contains(page, "<script>alert") || strings.ContainsRune(text(page), '\u202e') || !strings.Contains(text(page), `\u202egnp.exe`) {
		t.Errorf("%.2000s", text(page))
	}
	query := "?kind=%3Cscript%3E&account=" + url.QueryEscape(attack) + "&device=" + url.QueryEscape(attack)
	if page := b.page("/ui/audit" + query); strings.Contains(page, "<script>") && !strings.Contains(page, `<script src="/assets/`) || strings.Contains(page, "<script>alert") {
		t.Errorf("the address became markup")
	}
	_, file, h := b.send("GET", "/ui/audit.csv?kind=k.", "")
	lines := must(csv.NewReader(strings.NewReader(file)).ReadAll())(t)
	if len(lines) != 2 || h.Get("Content-Type") != "text/csv; charset=utf-8" || h.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s %q", brief.Of(h), file)
	}
	for i, cell := range lines[1] {
		if strings.HasPrefix(cell, "=") {
			t.Errorf("%s is a formula: %q", lines[0][i], cell)
		}
	}
	_, file, _ = b.send("GET", "/ui/audit.json?kind=k.", "")
	var events []api.EventView
	if err := json.Unmarshal([]byte(file), &events); err != nil || len(events) != 1 || events[0].Message != attack {
		t.Errorf("%v %s", err, file)
	}
}
