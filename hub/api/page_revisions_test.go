package api_test

import (
	"encoding/json"
	"fmt"
	"html"
	"regexp"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/wire"
	"gangway/wire/trail"
)

// reportProgress sends a device's progress report about a revision.
func reportProgress(d *person, id string, rev int, status, message string, percent int) {
	d.t.Helper()
	want[json.RawMessage](d, "PUT", fmt.Sprintf("/trails/%s/steps/%d/progress", id, rev), map[string]any{"status": status, "progress": percent, "status-msg": message}, 200)
}

func TestRevisionsOfTheFleetAreListed(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.Server.Unlimited()
	second, secondID := f.onboarded(t, f.tok)
	want[api.TrailView](second, "POST", "/trails/", `{`+systemSpec+`}`, 200)
	b := f.browser(t)
	b.signIn()
	see := func(query string, has, lacks []string) {
		t.Helper()
		b.sees("/ui/revisions"+query, has, lacks)
	}
	see("", []string{"No revision yet", `aria-current="page"`}, []string{`data-id="` + f.boatID}) // the list does not have revision 0, because nobody posted revision 0
	post(f.ada, f.boatID, `{`+systemSpec+`}`)
	post(f.ada, secondID, `{`+systemSpec+`}`)
	reportProgress(f.boat, f.boatID, 1, "DOWNLOADING", "3 of 5 objects", 60)
	reportProgress(second, secondID, 1, "ERROR", "<script>alert(1)</script>\u202egnp", 0)
	row := func(id string) string { return `data-id="` + id + `"` }
	see("", []string{row(f.boatID), "3 of 5 objects", "60 %", "downloading", "tab=revisions&amp;rev=1"}, []string{row(secondID)})
	see("?show=failed", []string{row(secondID), "failed", "&lt;script&gt;alert(1)"}, []string{row(f.boatID), "<script>alert", "\u202e"})
	see("?show=recent", []string{row(f.boatID + ".1"), row(secondID + ".1")}, []string{f.boatID + ".0", f.pirateID})
	see("?show=evil&x=evil", []string{row(f.boatID)}, []string{"evil"})
	if _, page, _ := b.send("GET", "/ui/overview", ""); !strings.Contains(page, `href="/ui/revisions?show=failed"`) {
		t.Errorf("the overview does not lead to the failed one: %s", brief.Of(page))
	}
	nick := must(f.Store.Device(t.Context(), f.boatID))(t).Nick
	see("?q="+nick, []string{row(f.boatID)}, nil)
	see("?q=nothing", []string{"No device matches"}, []string{row(f.boatID)})
	if status, page, _ := b.send("GET", "/ui/revisions?q=stat:quiet", ""); status != 400 || !strings.Contains(page, `aria-invalid="true"`) || !strings.Contains(page, "stat:quiet") {
		t.Errorf("a wrong search: %d %s", status, brief.Of(page))
	}
	if status, _, _ := b.send("GET", "/ui/revisions?show=recent&after=evil", ""); status != 400 {
		t.Errorf("a made-up place: %d", status)
	}

	// The route for one row of the list answers only for the caller's own revisions.
	for id, want := range map[string]int{f.boatID: 200, f.boatID + ".1": 200, f.boatID + ".0": 200, f.boatID + ".7": 404, f.boatID + ".x": 404, f.pirateID: 404, f.pirateID + ".0": 404, "x": 404, "": 404} {
		if status, page, _ := b.send("GET", "/ui/revisions/row?id="+id, ""); status != want || want == 200 && !strings.Contains(page, `data-id="`+id+`"`) {
			t.Errorf("row %q: %d %s", id, status, brief.Of(page))
		}
	}
	// After a device is deleted, the list of recent revisions still has its revisions, without the
	// device's nick, until the hub removes the device's trail.
	want[api.DeviceView](f.ada, "DELETE", "/devices/"+f.boatID, nil, 200)
	see("?show=recent", []string{"deleted"}, []string{nick, `href="/ui/devices/` + f.boatID})
	see("", nil, []string{f.boatID})
}

func TestRevisionsOfOthersAreOnNoList(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	post(f.mallory, f.pirateID, `{`+systemSpec+`}`)
	reportProgress(f.pirate, f.pirateID, 1, "ERROR", "SECRET", 0)
	b := f.browser(t)
	b.signIn()
	for _, path := range []string{"/ui/revisions", "/ui/revisions?show=failed", "/ui/revisions?show=recent", "/ui/revisions?show=failed&q=id:" + f.pirateID, "/ui/revisions/row?id=" + f.pirateID + ".1"} {
		if _, page, _ := b.send("GET", path, ""); strings.Contains(page, "SECRET") || strings.Contains(page, `"`+f.pirateID) {
			t.Errorf("%s shows mallory's revision: %s", path, brief.Of(page))
		}
	}
}

func TestRecentRevisionsHavePages(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	state := must(trail.ParseState([]byte(`{` + systemSpec + `}`)))(t)
	for range 120 {
		must(f.Store.AddRevision(t.Context(), store.Revision{Device: f.boatID, Owner: f.Owner.ID, Rev: -1, Committer: wire.AccountPRN + f.Owner.ID, Status: trail.StatusNew,
			StateSum: state.Sum(), State: state.JSON, Meta: []byte("{}"), Progress: trail.NewProgress(trail.StatusNew, 0, ""), Posted: f.Now(), Modified: f.Now()}, 1<<40))(t)
	}
	b := f.browser(t)
	b.signIn()
	seen, path := map[string]bool{}, "/ui/revisions?show=recent"
	for pages := 0; path != "" && pages < 5; pages++ {
		_, page, _ := b.send("GET", path, "")
		rows := regexp.MustCompile(`data-id="([^"]+)"`).FindAllStringSubmatch(page, -1)
		if len(rows) > 50 {
			t.Errorf("%d rows", len(rows))
		}
		for _, m := range rows {
			seen[m[1]] = true
		}
		next := regexp.MustCompile(`rel="next" href="([^"]+)"`).FindStringSubmatch(page)
		if path = ""; next != nil {
			path = html.UnescapeString(next[1])
		}
	}
	if len(seen) != 120 {
		t.Errorf("%d of 120 revisions are on the pages", len(seen))
	}
}

// The hub notifies open pages of each progress report, although progress reports are not in the
// audit trail.
func TestProgressIsToldToOpenPages(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	post(f.ada, f.boatID, `{`+systemSpec+`}`)
	post(f.mallory, f.pirateID, `{`+systemSpec+`}`)
	lines, _ := b.stream(t.Context())
	waitFor(t, lines, "retry")
	reportProgress(f.pirate, f.pirateID, 1, "DOWNLOADING", "", 10)
	reportProgress(f.boat, f.boatID, 1, "DOWNLOADING", "", 10)
	for line := range lines {
		if strings.Contains(line, f.pirateID) {
			t.Fatalf("mallory's device is told: %s", line)
		}
		if strings.Contains(line, `"step.progress"`) && strings.Contains(line, f.boatID) {
			break
		}
	}
	if events := must(f.Store.Events(t.Context(), store.EventFilter{Owner: f.Owner.ID, Kind: "step.progress"}))(t); len(events) != 0 {
		t.Errorf("%d events of reports", len(events))
	}
}
