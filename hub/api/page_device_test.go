package api_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"html"
	"mime/multipart"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/eventlog"
)

// tabs are the tabs of a device's page.
var tabs = []string{"", "trust", "boots", "revisions", "metadata", "logs", "events", "settings"}

// tab returns a tab of a device's page.
func (b *browser) tab(id, query string) string {
	b.t.Helper()
	path := "/ui/devices/" + id
	if query != "" {
		path += "?tab=" + query
	}
	status, page, _ := b.send("GET", path, "")
	if status != 200 {
		b.t.Fatalf("GET %s: %d %.600s", path, status, page)
	}
	return page
}

// act posts a form of a device's page, checks that the hub answers with a redirect, and returns the
// address to which it redirects.
func (b *browser) act(id, path string, form ...string) string {
	b.t.Helper()
	status, page, h := b.post(id, path, form...)
	if status != 303 {
		b.t.Fatalf("POST %s: %d %s", path, status, brief.Of(page))
	}
	return h.Get("Location")
}

func (b *browser) post(id, path string, form ...string) (int, string, http.Header) {
	b.t.Helper()
	values := url.Values{}
	for i := 0; i < len(form); i += 2 {
		values.Add(form[i], form[i+1])
	}
	return b.send("POST", "/ui/devices/"+id+"/"+path, values.Encode())
}

// text returns the visible text of a page.
func text(page string) string {
	page = regexp.MustCompile(`(?s)<(script|style|svg).*?</(script|style|svg)>`).ReplaceAllString(page, "")
	return strings.Join(strings.Fields(html.UnescapeString(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(page, " "))), " ")
}

func says(t *testing.T, page string, words ...string) {
	t.Helper()
	got := text(page)
	for _, w := range words {
		if !strings.Contains(got, w) {
			t.Errorf("the page lacks %q: %.1500s", w, got)
		}
	}
}

func TestDevicePageHasEachTab(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	for _, name := range tabs {
		if page := b.tab(f.boatID, name); !strings.Contains(page, `aria-current="page"`) {
			t.Errorf("%s: no tab is the current one", name)
		}
	}
	if status, _, _ := b.send("GET", "/ui/devices/"+f.boatID+"?tab=other", ""); status != 404 {
		t.Errorf("an unknown tab: %d", status)
	}
	nick := must(f.Store.Device(t.Context(), f.boatID))(t).Nick
	says(t, b.tab(nick, ""), nick, "Chain of trust", "Condition", "Location", "Software", "Activated: the TPM opened the certificates", " ms")
}

// If an owner opens a page or sends a form with the id of another owner's device, the answer is the
// same as for an id that does not exist.
func TestOtherOwnersDeviceHasNoPage(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	device := must(f.Store.Device(t.Context(), f.pirateID))(t)
	if err := f.Store.SetPublic(t.Context(), device.Owner, f.pirateID, true); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, r := range api.Routes() {
		if !strings.HasPrefix(r.Path, "/ui/devices/{id}") {
			continue
		}
		for _, query := range append([]string{""}, tabs[1:]...) {
			n++
			path := func(id string) string {
				return strings.NewReplacer("{id}", id, "{rev}", "0", "{file}", "chain.pem").Replace(r.Path) + "?tab=" + query
			}
			form := "act=set&key=a&value=b&nick=mine&public=no&confirm=" + device.Nick + "&from=0&measurement=1"
			status, page, _ := b.send(r.Method, path(f.pirateID), form)
			other, none, _ := b.send(r.Method, path("00112233445566778899aabb"), form)
			if status != 404 || other != 404 || page != none {
				t.Errorf("%s %s: %d %s; an unknown device: %d", r.Method, r.Path, status, brief.Of(page), other)
			}
		}
	}
	if n < 8*11 {
		t.Errorf("only %d pages were tried", n)
	}
	now := must(f.Store.Device(t.Context(), f.pirateID))(t)
	if now.Nick != device.Nick || len(now.UserMeta) != 0 || now.Deleted || !now.Public {
		t.Errorf("ada changed mallory's device: %s", brief.Of(now))
	}
}

// A form without the session's token changes nothing.
func TestDevicePageNeedsTheFormToken(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	b.token = ""
	for _, r := range api.Routes() {
		if r.Method != "POST" || !strings.HasPrefix(r.Path, "/ui/devices/{id}") {
			continue
		}
		path := strings.NewReplacer("{id}", f.boatID, "{rev}", "0").Replace(r.Path)
		status, page, _ := b.request("POST", path, "act=set&key=a&value=b", map[string]string{"Cookie": b.cookie, "Content-Type": "application/x-www-form-urlencoded", "Origin": b.s.URL})
		if status != 403 || !strings.Contains(string(page), "form-token") {
			t.Errorf("POST %s: %d %s", path, status, page)
		}
	}
}

// Text from a device or a person never becomes markup, and cannot reorder the text around it. The
// test sends hostile texts in every field that a device or its owner can write.
func TestDevicePageShowsHostileTextAsText(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	const attack = "\"><script>alert(1)</script><img src=x onerror=alert(2)>\u202egnp.exe\u2066\x1b[31m"
	want[map[string]any](f.boat, "PATCH", "/device/meta", map[string]any{
		"gangway.version": attack, "gangway.hostname": attack, attack: attack, "interfaces": map[string]any{attack + ".ipv4": []string{attack}},
	}, 200)
	want[map[string]any](f.ada, "PATCH", "/devices/"+f.boatID+"/user-meta", map[string]any{attack: attack, "site": attack}, 200)
	want[map[string]any](f.boat, "POST", "/logs", []map[string]any{{"msg": attack, "src": attack, "lvl": attack}}, 200)
	rev := want[api.RevisionView](f.ada, "POST", "/trails/"+f.boatID+"/steps", map[string]any{
		"state": map[string]any{"#spec": "pantavisor-service-system@1", attack + ".json": attack}, "commit-msg": attack,
	}, 200).Rev
	want[map[string]any](f.boat, "PUT", fmt.Sprintf("/trails/%s/steps/%d/progress", f.boatID, rev), map[string]any{"status": "ERROR", "status-msg": attack}, 200)
	b := f.browser(t)
	b.signIn()
	shown := 0
	for _, name := range append(tabs, fmt.Sprintf("revisions&rev=%d", rev), fmt.Sprintf("revisions&post=%d", rev), "logs&text=%3Cscript", "logs&live=1&part=lines", "events&routine=1") {
		page := b.tab(f.boatID, name)
		if strings.Contains(strings.ReplaceAll(page, `<script src="/assets/`, ""), "<script>") || strings.Contains(page, "<img") {
			t.Errorf("%s has the markup", name)
		}
		if strings.ContainsAny(html.UnescapeString(page), "\u202e\u2066\x1b") && name != "metadata" {
			t.Errorf("%s has a character that reorders text", name)
		}
		if i := strings.IndexAny(text(page), "\u202e\u2066\x1b"); i >= 0 {
			t.Errorf("%s shows a character that reorders text: %.100q", name, text(page)[max(0, i-50):])
		}
		if strings.Contains(text(page), `gnp.exe`) {
			shown++
			if !strings.Contains(text(page), `\u202egnp.exe`) {
				t.Errorf("%s does not show the character as an escape", name)
			}
		}
	}
	if shown < 6 {
		t.Errorf("only %d pages showed the text", shown)
	}
	_, log, h := b.send("GET", "/ui/devices/"+f.boatID+"/log.txt", "")
	if strings.ContainsAny(log, "\u202e\u2066\x1b") || !strings.Contains(log, `\u202egnp.exe`) || h.Get("Content-Type") != "text/plain; charset=utf-8" || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment") {
		t.Errorf("%s %q", brief.Of(h), log)
	}
}

func TestTrustTabShowsWhatWasVerified(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.connected(t)
	id := s.deviceOf(t, s.victim)
	b := s.browser(t)
	b.signIn()
	page := b.tab(id, "trust")
	for _, link := range []string{"maker", "ek", "aik", "idevid", "connection"} {
		if !strings.Contains(page, `link=`+link) {
			t.Errorf("no link %s", link)
		}
	}
	if n := strings.Count(page, `<li class="verified`); n != 5 {
		t.Errorf("%d of 5 links are verified: %s", n, text(page))
	}
	says(t, b.tab(id, "trust&link=ek"), "ek-certificate", "ek-key", "EK certificate, by the TPM's maker", "SHA-256", "not examined") // the EK list
	says(t, b.tab(id, "trust&link=idevid"), "certify", "The IAK certifies that the IDevID key is in the same TPM.")
	if status, _, _ := b.send("GET", "/ui/devices/"+id+"?tab=trust&link=other", ""); status != 404 {
		t.Errorf("an unknown link: %d", status)
	}
	row := must(s.Store.Enrolment(t.Context(), must(s.Store.Device(t.Context(), id))(t).Enrolment))(t)
	for name, der := range map[string][]byte{"ek": row.EKCertificate, "aik": row.IAKCert, "idevid": row.IDevIDCert, "maker-1": s.maker.Root.Raw, "maker-2": s.maker.Intermediate.Raw} {
		status, body, h := b.send("GET", "/ui/devices/"+id+"/certificates/"+name+".pem", "")
		block, _ := pem.Decode([]byte(body))
		if status != 200 || block == nil || !bytes.Equal(block.Bytes, der) || !strings.Contains(h.Get("Content-Disposition"), id+"-"+name+".pem") {
			t.Errorf("%s: %d %s", name, status, brief.Of(body))
		}
	}
	if status, _, _ := b.send("GET", "/ui/devices/"+id+"/certificates/other.pem", ""); status != 404 {
		t.Errorf("an unknown certificate: %d", status)
	}
	if _, body, _ := b.send("GET", "/ui/devices/"+id+"/certificates/chain.pem", ""); strings.Count(body, "BEGIN CERTIFICATE") < 7 {
		t.Errorf("%s", body)
	}
	// If the operator distrusts the TPM's maker, the page shows this, although the hub accepted the
	// device at onboarding.
	if err := s.Store.ChangeTrust(t.Context(), store.TrustChange{Put: []store.TrustedCertificate{{
		Fingerprint: sum(s.maker.Root), DER: s.maker.Root.Raw, Kind: store.Distrusted, Source: "test", Added: s.Now(),
	}}}); err != nil {
		t.Fatal(err)
	}
	says(t, b.tab(id, "trust"), "this hub no longer trusts that maker's root", "root-today")
	// The policy requires a measured boot, but the device never sent a boot measurement.
	s.Policy(t, store.HubWide, "version: 1\nsoftware_tpms: [swtpm, FAKE]\nmeasured_boot: require\n")
	says(t, b.tab(id, "trust&link=connection"), "The hub refuses its requests", "The boot was never measured.")
}

// For a device without a TPM, the tab "Trust" says that the hub examined nothing, and offers no
// certificate to download.
func TestTrustTabOfADeviceWithoutATPM(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, store.HubWide, "version: 1\nsoftware_tpms: [swtpm, FAKE]\nwithout_tpm: accept\n")
	d := want[api.Registered](s.person(t, "ada"), "POST", "/devices", "{}", 200)
	b := s.browser(t)
	b.signIn()
	page := b.tab(d.ID, "trust")
	if n := strings.Count(page, `<li class="unexamined`); n != 5 {
		t.Errorf("%d of 5 links are not examined: %s", n, text(page))
	}
	says(t, page, "registered without a TPM", "The hub cannot verify which machine has the password")
	for _, name := range tabs {
		b.tab(d.ID, name)
	}
	if status, _, _ := b.send("GET", "/ui/devices/"+d.ID+"/certificates/chain.pem", ""); status != 404 {
		t.Errorf("certificates: %d", status)
	}
}

func TestBootIsAcceptedOnThePage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c, _, id := s.connected(t)
	b := s.browser(t)
	b.signIn()
	says(t, b.tab(id, "boots"), "The boot was never measured")
	b.act(id, "boot/request")
	says(t, b.tab(id, "boots"), "A measurement is requested")
	booted(t, c, s.victim, usual, 1)
	booted(t, c, s.victim, another, 2)
	page := b.tab(id, "boots")
	says(t, page, "At least one part of the newest boot has changed.", "The kernel's hash differs from the reference of ", "the Secure Boot settings and keys", "differs")
	says(t, b.tab(id, ""), "boot changed", "See what changed")
	number := regexp.MustCompile(`name="measurement" value="(\d+)"`).FindStringSubmatch(page)
	if number == nil {
		t.Fatalf("no form: %s", text(page))
	}
	// The device measures another boot while the person reads the page.
	booted(t, c, s.victim, eventlog.Boot(false, "linux 3", "quiet"), 3)
	if status, page, _ := b.post(id, "boot/reference", "act", "accept", "measurement", number[1]); status != 409 || !strings.Contains(text(page), "measured again, or another decision") {
		t.Errorf("%d %s", status, text(page))
	}
	if status, _, _ := b.post(id, "boot/reference", "act", "accept"); status != 400 {
		t.Errorf("no measurement named: %d", status)
	}
	number = regexp.MustCompile(`name="measurement" value="(\d+)"`).FindStringSubmatch(b.tab(id, "boots"))
	b.act(id, "boot/reference", "act", "accept", "measurement", number[1])
	says(t, b.tab(id, "boots"), "Every part of the newest boot is expected or known.")
	b.act(id, "boot/reference", "act", "lock")
	says(t, b.tab(id, "boots"), "locked", "Unlock the reference")
}

func TestMetadataIsEditedOnThePage(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	id := f.boatID
	meta := func() string {
		return string(must(json.Marshal(must(f.Store.Device(t.Context(), id))(t).UserMeta))(t))
	}
	b.act(id, "metadata", "act", "set", "key", "site", "value", "oslo")
	b.act(id, "metadata", "act", "set", "key", "rack", "value", "7", "json", "yes")
	b.act(id, "metadata", "act", "set", "key", "n", "value", "007")
	if got := meta(); got != `{"n":"007","rack":7,"site":"oslo"}` {
		t.Error(got)
	}
	b.act(id, "metadata", "act", "remove", "key", "n")
	b.act(id, "metadata", "act", "merge", "text", `{"site":null,"a":["b"]}`)
	if got := meta(); got != `{"a":["b"],"rack":7}` {
		t.Error(got)
	}
	was := regexp.MustCompile(`name="was" value="(\w+)"`).FindStringSubmatch(b.tab(id, "metadata"))[1]
	// After any error, the form has the text that the person typed, and the error beside the text.
	for _, c := range []struct {
		form   []string
		status int
		words  string
	}{
		{[]string{"act", "replace", "was", was, "text", `{"typed": `}, 400, "The text cannot be read"},
		{[]string{"act", "merge", "text", `["typed"]`}, 400, "The text cannot be read"},
		{[]string{"act", "merge", "text", `{"typed":1,"typed":2}`}, 400, "The text cannot be read"},
		{[]string{"act", "replace", "was", "other", "text", `{"typed":1}`}, 409, "Somebody changed the metadata"},
		{[]string{"act", "set", "key", "typed", "value", "x y", "json", "yes"}, 400, "The value is not JSON."},
		{[]string{"act", "set", "key", "typed", "value", "1}, {", "json", "yes"}, 400, "The value is not JSON."},
		{[]string{"act", "set", "key", "", "value", "typed"}, 400, "The key is empty."},
		{[]string{"act", "perhaps", "key", "typed"}, 400, "does not say what to do"},
	} {
		status, page, _ := b.post(id, "metadata", c.form...)
		if status != c.status || !strings.Contains(text(page), c.words) || !strings.Contains(page, "typed") || !strings.Contains(page, `aria-invalid="true"`) {
			t.Errorf("%.60s: %d %.300s", c.form, status, text(page))
		}
	}
	// A text that is too long for the page is not shown again.
	status, page, _ := b.post(id, "metadata", "act", "merge", "text", `{"typed":"`+strings.Repeat("x", store.MaxMeta)+`"}`)
	says(t, page, "The metadata would have more than", "too long to be edited on this page")
	if status != 413 || len(page) > pageBytes {
		t.Errorf("%d, %d bytes", status, len(page))
	}
	if got := meta(); got != `{"a":["b"],"rack":7}` {
		t.Errorf("an invalid form changed %s", got)
	}
	b.act(id, "metadata", "act", "replace", "was", was, "text", `{"z":{"deep":true},"gone":null}`)
	if got := meta(); got != `{"z":{"deep":true}}` {
		t.Error(got)
	}
	// If a body is larger than the largest allowed metadata, the hub does not read the body.
	if status, _, _ := b.post(id, "metadata", "act", "merge", "text", strings.Repeat("x", 4*store.MaxMeta)); status != 413 {
		t.Errorf("a huge form: %d", status)
	}
}

// The notice after an action has a form that undoes the action.
func TestActsOnThePageAreUndone(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	id := f.boatID
	nick := must(f.Store.Device(t.Context(), id))(t).Nick
	want[map[string]any](f.ada, "PUT", "/devices/"+id+"/user-meta", map[string]any{"site": "oslo"}, 200)
	before := brief.Of(must(f.Store.Device(t.Context(), id))(t))
	for _, act := range [][]string{
		{"rename", "nick", "flagship"}, {"public", "public", "yes"}, {"metadata", "act", "set", "key", "site", "value", "bergen"},
		{"metadata", "act", "remove", "key", "site"}, {"metadata", "act", "set", "key", "new", "value", "x"},
	} {
		values := url.Values{}
		for i := 1; i < len(act); i += 2 {
			values.Set(act[i], act[i+1])
		}
		_, _, h := b.send("POST", "/ui/devices/"+id+"/"+act[0], values.Encode())
		cookie := ""
		for _, line := range h.Values("Set-Cookie") {
			if one, _, _ := strings.Cut(line, ";"); strings.HasPrefix(one, "__Host-gangway-notice=") {
				cookie = one
			}
		}
		_, page, _ := b.request("GET", h.Get("Location"), nil, map[string]string{"Cookie": b.cookie + "; " + cookie})
		form := regexp.MustCompile(`action="(/ui/devices/[^"]+)"><input type="hidden" name="csrf" value="[^"]+"><input type="hidden" name="undo" value="([^"]*)">`).FindStringSubmatch(string(page))
		if form == nil {
			t.Fatalf("%s: no undo: %s", act, text(string(page)))
		}
		if status, page, _ := b.send("POST", form[1], url.Values{"undo": {html.UnescapeString(form[2])}}.Encode()); status != 303 {
			t.Errorf("%s: undo: %d %s", act, status, text(page))
		}
		now := must(f.Store.Device(t.Context(), id))(t)
		if now.Nick != nick || now.Public || fmt.Sprint(now.UserMeta) != "map[site:oslo]" {
			t.Errorf("%s is not undone: %s, before %s", act, brief.Of(now), before)
		}
	}
}

// If a person opens the metadata as JSON and saves the JSON unchanged, the metadata stays the same,
// even if it has unusual characters.
func TestMetadataSurvivesTheEditor(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	before := map[string]any{"rtl\u202e": "\u2066 \x1b \U000E0041 \u00a0", "n": json.Number("12345678901234567890"), "m": "<b>&amp;\n\r\n\"\\"}
	want[map[string]any](f.ada, "PUT", "/devices/"+f.boatID+"/user-meta", before, 200)
	stored := must(f.Store.Device(t.Context(), f.boatID))(t).UserMeta
	page := b.tab(f.boatID, "metadata")
	area := regexp.MustCompile(`(?s)<textarea[^>]*>\n?(.*?)</textarea>`).FindStringSubmatch(page)[1]
	was := regexp.MustCompile(`name="was" value="(\w+)"`).FindStringSubmatch(page)[1]
	b.act(f.boatID, "metadata", "act", "replace", "was", was, "text", strings.ReplaceAll(html.UnescapeString(area), "\n", "\r\n"))
	after := must(f.Store.Device(t.Context(), f.boatID))(t).UserMeta
	if got, expected := fmt.Sprintf("%q", after), fmt.Sprintf("%q", stored); got != expected {
		t.Errorf("%s, not %s", got, expected)
	}
}

func TestRevisionsArePostedRolledBackAndCancelledOnThePage(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	id := f.boatID
	post(f.ada, id, `{`+systemSpec+`,"kernel":"`+f.contentSum+`","app.json":{"v":1}}`)
	page := b.tab(id, "revisions&rev=1")
	says(t, page, "Changes since revision 0", "kernel", "app.json", "added", "waiting for the device", "Cancel the revision")
	says(t, b.tab(id, "revisions&rev=0&from=1"), "removed")
	// Before a rollback, the page shows what the rollback changes.
	page = b.tab(id, "revisions&post=0")
	says(t, page, "Roll back to revision 0", "This becomes the next revision after 1.", "removed")
	if list := must(f.Store.RevisionHeads(t.Context(), id, -1, 0))(t); len(list) != 2 {
		t.Fatalf("the preview posted a revision: %d", len(list))
	}
	if to := b.act(id, "revisions", "from", "0", "newest", "1", "message", "back", "confirm", "yes"); !strings.HasSuffix(to, "rev=2&tab=revisions") {
		t.Errorf("redirected to %s", to)
	}
	two := must(f.Store.Revision(t.Context(), id, 2))(t)
	if string(two.State) != `{`+systemSpec+`}` || two.CommitMsg != "back" {
		t.Errorf("%s %q", two.State, two.CommitMsg)
	}
	// Another revision was posted after the preview. The preview does not show that revision's
	// changes, so the hub does not post the state.
	if status, page, _ := b.post(id, "revisions", "from", "1", "newest", "1", "message", "typed words", "confirm", "yes"); status != 409 || !strings.Contains(text(page), "After you looked, another revision was posted.") || !strings.Contains(page, "typed words") {
		t.Errorf("%d %s", status, text(page))
	}
	// The person uploads a new state as a file. The page first shows the changes; a second form
	// posts the revision.
	state := `{` + systemSpec + `,"new.json":{"a":"b"}}`
	status, page := b.upload(id, state, nil)
	if status != 200 || !strings.Contains(text(page), "Post the state") || !strings.Contains(text(page), "new.json") {
		t.Errorf("%d %s", status, text(page))
	}
	for _, bad := range []string{"no JSON", `{"#spec":"other"}`, `{` + systemSpec + `,"k":"` + strings.Repeat("0", 64) + `"}`} {
		status, page := b.upload(id, bad, map[string]string{"confirm": "yes", "newest": "2"})
		if status != 400 || !strings.Contains(page, "circle-alert") && !strings.Contains(page, `class="error"`) {
			t.Errorf("%s: %d %s", bad, status, text(page))
		}
	}
	if status, _ := b.upload(id, state, map[string]string{"confirm": "yes", "newest": "2"}); status != 303 {
		t.Errorf("%d", status)
	}
	b.act(id, "revisions/3/cancel", "act", "cancel")
	if three := must(f.Store.Revision(t.Context(), id, 3))(t); three.Status != "CANCEL" {
		t.Errorf("%s", three.Status)
	}
	b.act(id, "revisions/3/cancel", "act", "cancel") // the hub redirects to the page, which shows the reason
	says(t, b.tab(id, "revisions&rev=3"), "cancelled")
	// The list of the revisions before the first revision is empty. An earlier version of the hub
	// failed to show this empty list.
	if status, body, _ := b.send("GET", "/ui/devices/"+id+"?tab=revisions&before=0", ""); status != 200 || !strings.Contains(string(body), "There is no older revision") || !strings.Contains(string(body), "?tab=revisions\"") {
		t.Errorf("before the first revision: %d %s", status, brief.Of(body))
	}
	if status, _, _ := b.send("GET", "/ui/devices/"+id+"?tab=revisions&rev=99", ""); status != 404 {
		t.Errorf("an unknown revision: %d", status)
	}
	says(t, b.tab(f.secondDevice(t), "revisions"), "No revision yet")
}

// secondDevice onboards a device of ada's that has no trail.
func (f *fleetScene) secondDevice(t *testing.T) string {
	t.Helper()
	_, id := f.onboarded(t, f.tok)
	return id
}

// upload posts a state as a file.
func (b *browser) upload(id, state string, more map[string]string) (int, string) {
	b.t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	w.WriteField("csrf", b.token)
	for k, v := range more {
		w.WriteField(k, v)
	}
	file := must(w.CreateFormFile("file", "state.json"))(b.t)
	file.Write([]byte(state))
	w.Close()
	status, page, _ := b.request("POST", "/ui/devices/"+id+"/revisions", body.String(), map[string]string{"Cookie": b.cookie, "Content-Type": w.FormDataContentType(), "Origin": b.s.URL})
	return status, string(page)
}

func TestLogIsFilteredAndDownloaded(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	says(t, b.tab(f.boatID, "logs"), "No log yet")
	var lines []map[string]any
	for i := range 900 {
		lines = append(lines, map[string]any{"msg": fmt.Sprintf("line-%04d.", i), "src": "agent", "lvl": "INFO"})
	}
	want[map[string]any](f.boat, "POST", "/logs", lines, 200)
	want[map[string]any](f.boat, "POST", "/logs", append(lines[:899:899], map[string]any{"msg": "Disk FULL", "src": "kernel", "lvl": "ERROR"}), 200)
	page := b.tab(f.boatID, "logs")
	says(t, page, "Disk FULL", "Next page")
	if n := strings.Count(page, `class="message"`); n != 100 {
		t.Errorf("%d lines", n)
	}
	for query, n := range map[string]int{"logs&level=error": 1, "logs&source=kernel": 1, "logs&text=disk+full": 1, "logs&text=line-0001.": 2, "logs&text=%25": 0, "logs&source=kernel&level=INFO": 0} {
		if got := strings.Count(b.tab(f.boatID, query), `class="message"`); got != n {
			t.Errorf("%s: %d lines, want %d", query, got, n)
		}
	}
	// All pages together show each line once.
	seen := map[string]int{}
	path := "/ui/devices/" + f.boatID + "?tab=logs&source=agent"
	for path != "" {
		_, page, _ := b.send("GET", path, "")
		for _, m := range regexp.MustCompile(`line-\d{4}`).FindAllString(page, -1) {
			seen[m]++
		}
		next := regexp.MustCompile(`rel="next" href="([^"]+)"`).FindStringSubmatch(page)
		if path = ""; next != nil {
			path = html.UnescapeString(next[1])
		}
	}
	for line, n := range seen {
		if line != "line-0899" && n != 2 {
			t.Errorf("%s is shown %d times, not 2", line, n)
		}
	}
	if len(seen) != 900 {
		t.Errorf("%d lines were shown", len(seen))
	}
	if status, _, _ := b.send("GET", "/ui/devices/"+f.boatID+"?tab=logs&before=x", ""); status != 400 {
		t.Errorf("a bad place: %d", status)
	}
	_, log, _ := b.send("GET", "/ui/devices/"+f.boatID+"/log.txt", "")
	if n := strings.Count(log, "\n"); n != 1800 {
		t.Errorf("%d lines were downloaded", n)
	}
	if _, log, _ := b.send("GET", "/ui/devices/"+f.boatID+"/log.txt?source=kernel", ""); strings.Count(log, "\n") != 1 || !strings.Contains(log, "ERROR kernel Disk FULL") {
		t.Errorf("%s", log)
	}
	// A page that shows new log lines by itself fetches only the lines, without the page's layout.
	if part := b.tab(f.boatID, "logs&live=1&part=lines"); strings.Contains(part, "<html") || !strings.Contains(part, "Disk FULL") {
		t.Errorf("%.300s", part)
	}
}

func TestDeviceIsRenamedPublishedAndDeletedOnThePage(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	id := f.boatID
	b.act(id, "rename", "nick", "flagship")
	if status, page, _ := b.post(id, "rename", "nick", "a b"); status != 400 || !strings.Contains(page, `value="a b"`) || !strings.Contains(text(page), "characters that are not allowed") {
		t.Errorf("%d %s", status, text(page))
	}
	other := f.secondDevice(t)
	if status, page, _ := b.post(other, "rename", "nick", "flagship"); status != 409 || !strings.Contains(text(page), "The name is in use.") {
		t.Errorf("%d %s", status, text(page))
	}
	b.act(id, "public", "public", "yes")
	if !must(f.Store.Device(t.Context(), id))(t).Public {
		t.Error("not public")
	}
	b.act(id, "public", "public", "no")
	says(t, b.tab(id, "settings"), "certificates are revoked at once", "trail with 1 revision", "Type flagship to confirm")
	for _, typed := range []string{"", "Flagship", "flagship "} {
		if status, page, _ := b.post(id, "delete", "confirm", typed); status != 400 || !strings.Contains(text(page), "The device was not deleted.") {
			t.Errorf("%q: %d %s", typed, status, text(page))
		}
	}
	b.act(id, "delete", "confirm", "flagship")
	if status, _, _ := b.send("GET", "/ui/devices/"+id, ""); status != 404 {
		t.Errorf("the deleted device: %d", status)
	}
	want[api.Problem](f.boat, "GET", "/device", nil, 403)
}

// sum returns the fingerprint of a certificate.
func sum(c *x509.Certificate) store.Hash { return sha256.Sum256(c.Raw) }
