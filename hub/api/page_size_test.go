package api_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/policy"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/race"
	"gangway/wire"
	"gangway/wire/trail"
)

// pageBytes is the largest size of a page, in bytes. The static files take less than 36 kB, so the
// first page that a browser loads needs less than 100 kB.
const pageBytes = 64 << 10

// long returns n quotation marks. Each becomes five bytes on a page, because HTML escapes it.
func long(n int) string { return strings.Repeat(`"`, n) }

// numbered returns a text of n bytes that begins with a number, so that the texts differ.
func numbered(i, n int) string { return fmt.Sprintf("%04d", i) + long(n-4) }

// crowded fills Ada's account with the largest texts that the hub accepts.
func crowded(t *testing.T) *fleetScene {
	t.Helper()
	f := newFleet(t)
	f.Server.Unlimited()
	ctx, now, owner := t.Context(), f.Now(), f.Owner.ID
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 60 {
		d := store.Device{ID: wire.NewID(), Nick: fmt.Sprintf("%064d", i), Owner: owner, ProdModel: numbered(i%40, 256), ProdSerial: numbered(i, 256), Created: now, LastSeen: now,
			TPMMaker: numbered(i%40, 2000), TPMModel: long(2000), TPMFirmware: numbered(i%40, 2000), KeyAlgorithm: long(100)}
		must(f.Store.CreateDevice(ctx, d, store.Hash{byte(i)}))(t)
		check(f.Store.AppendEvent(ctx, store.Event{Time: now, Kind: "device.test", Owner: owner, Device: f.boatID, Message: long(4000), Addr: strings.Repeat("ffff:", 8), ActorName: strings.Repeat("%", 64), Means: store.ByAPIToken, Credential: long(64)}))
		check(f.Store.PutSavedView(ctx, store.SavedView{Owner: owner, Name: numbered(i%50, 64), Query: "q=" + numbered(i, 500)}))
		want[map[string]any](f.ada, "POST", "/devices/tokens", map[string]any{"nick": fmt.Sprintf("%04d", i) + long(60), "default-user-meta": map[string]any{"k": long(30 << 10)}}, 200)
		w := store.WaitingDevice{Owner: owner, EK: store.Hash{byte(i), 1}, DeviceID: wire.NewID(), State: store.Undecided, Codes: []string{evidence.CodeUntrusted}, RequestHash: store.Hash{byte(i)}, Request: []byte("{}"),
			Manufacturer: long(2000), Model: long(2000), Firmware: long(2000), ProdModel: long(256), ProdSerial: numbered(i, 256), Since: now, LastSeen: now, Expires: now.Add(time.Hour)}
		w.Verdict = must(json.Marshal(evidence.Verdict{Questions: []*evidence.Refusal{{Code: evidence.CodeUntrusted, Reason: numbered(i%20, 4000), Hint: long(4000)}}, Notes: []string{long(2000)}}))(t)
		must(f.Store.PutWaiting(ctx, w, 1000))(t)
	}
	// Metadata with many keys, and with one long key and one long value.
	many := map[string]any{}
	for i := range 4000 {
		many[numbered(i, 20)] = `"`
	}
	check(f.Store.ReplaceUserMeta(ctx, owner, f.boatID, many))
	check(f.Store.ReplaceDeviceMeta(ctx, f.boatID, map[string]any{long(50 << 10): long(50 << 10), "network": map[string]any{"interfaces": long(10 << 10)}}))
	// Revisions with thousands of files that all differ, and with long messages.
	for n := range 30 {
		var state strings.Builder
		state.WriteString(`{` + systemSpec)
		for i := range map[bool]int{true: 2000, false: 1}[n == 2 || n == 4 || n > 27] { // revisions 3, 5, 29 and 30 are compared
			fmt.Fprintf(&state, `,"%05d%s.json":{"n%d":"%s"}`, i, strings.Repeat("<", 100), n, strings.Repeat("<", 250))
		}
		state.WriteString(`}`)
		s := must(trail.ParseState([]byte(state.String())))(t)
		must(f.Store.AddRevision(ctx, store.Revision{Device: f.boatID, Owner: owner, Rev: -1, Status: trail.StatusNew, State: s.JSON, Meta: []byte("{}"), Posted: now, Modified: now,
			Progress: must(json.Marshal(map[string]any{"status": "NEW", "status-msg": long(8000)}))(t), CommitMsg: long(8 << 10), Committer: long(64)}, 1<<40))(t)
	}
	var lines []store.LogEntry
	for range 200 {
		lines = append(lines, store.LogEntry{Level: long(256), Source: long(256), Message: strings.Repeat("\x01", 16<<10)})
	}
	check(f.Store.AppendLogs(ctx, f.boatID, owner, lines, store.LogBounds{Rows: 20_000, Bytes: 8 << 20}, now))
	var eks []store.ListedEK
	for i := range 60 {
		eks = append(eks, store.ListedEK{Key: &store.Hash{byte(i)}, Note: long(200)})
	}
	check(f.Store.PutEKList(ctx, owner, eks))
	text := "version: 1\n# " + long(policy.MaxSize-100) + "\n"
	want[map[string]any](f.ada, "PUT", "/policy", text, 200)
	return f
}

// Every page stays small, whatever devices, programs and people have written: long names, thousands
// of keys and files, long log lines, and texts in which every character needs several bytes on the
// page.
func TestHostileDataMakesNoLargePage(t *testing.T) {
	race.Skip(t)
	if testing.Short() {
		t.Skip("fills an account with data")
	}
	t.Parallel()
	f := crowded(t)
	b := f.browser(t)
	b.signIn()
	device := "/ui/devices/" + f.boatID
	waiting := must(f.Store.WaitingDevices(t.Context(), f.Owner.ID, f.Now(), 1))(t)[0].DeviceID
	token := must(f.Store.JoinTokensPage(t.Context(), f.Owner.ID, "", 1))(t)[0].ID
	for _, path := range []string{
		"/ui/overview", "/ui/revisions", "/ui/devices", "/ui/devices?c=state&c=model&c=tpm&c=revision&c=boot&c=token&c=key&c=address&c=created&c=seen&c=id", "/ui/devices?q=" + strings.Repeat("%22", 500),
		"/ui/bulk?act=delete&all=1", "/ui/bulk?act=label&all=1",
		device, device + "?tab=trust", device + "?tab=boots", device + "?tab=metadata", device + "?tab=logs", device + "?tab=revisions", device + "?tab=revisions&rev=30",
		device + "?tab=revisions&post=3", device + "?tab=revisions&rev=30&from=3&post=5", device + "?tab=events", device + "?tab=settings",
		"/ui/onboard", "/ui/onboard/new", "/ui/onboard/image", "/ui/onboard/tokens/" + token, "/ui/onboard/waiting", "/ui/onboard/waiting/" + waiting, "/ui/onboard/claim", "/ui/wall",
		"/ui/audit", "/ui/audit?kind=" + strings.Repeat("%22", 128), "/ui/settings", "/ui/settings/sessions", "/ui/settings/api-tokens", "/ui/trust", "/ui/trust/eks", "/ui/trust/policy", "/ui/boots", "/ui/trust/judge", "/ui/devices/lost",
	} {
		status, page, _ := b.send("GET", path, "")
		t.Logf("%7d %s", len(page), path)
		if status != 200 && status != 400 || len(page) > pageBytes {
			t.Errorf("GET %.80s: %d, %d bytes", path, status, len(page))
		}
	}
}

// If a person sends texts that are as long as a form may be, the pages that report the problem stay
// small too.
func TestHostileFormMakesNoLargePage(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.Server.Unlimited()
	b := f.browser(t)
	b.signIn()
	device, text := "/ui/devices/"+f.boatID, long(12<<10)
	for _, c := range []struct {
		path   string
		fields []string
	}{
		{"/ui/onboard/new", []string{"nick", text, "max-uses", text, "expires-in", text, "meta", text}},
		{"/ui/onboard/image", []string{"nick", text, "max-uses", text, "expires-in", text}},
		{"/ui/trust", []string{"pem", text + text}},
		{"/ui/trust/eks/add", []string{"value", text, "note", text}},
		{"/ui/trust/policy", []string{"act", "preview", "text", "version: 1\n# " + text}},
		{"/ui/trust/policy", []string{"act", "preview", "text", text}},
		{"/ui/trust/policy/check", []string{"text", text}},
		{"/ui/views", []string{"name", text, "query", text}},
		{"/ui/settings/api-tokens", []string{"name", text}},
		{device + "/rename", []string{"nick", text}},
		{device + "/metadata", []string{"act", "set", "json", "yes", "key", text, "value", text}},
		{device + "/metadata", []string{"act", "replace", "was", text, "text", text}},
		{device + "/revisions", []string{"message", text, "state", text}},
		{device + "/revisions", []string{"message", "m", "state", `{` + systemSpec + `,"a.json":"` + strings.Repeat("<", 60<<10) + `"}`}},
		{"/sign-in", []string{"nick", text, "password", text, "next", text}},
	} {
		status, page, _ := b.send("POST", c.path, form(c.fields...))
		if status != 200 && (status < 400 || status >= 500) || len(page) > pageBytes {
			t.Errorf("POST %s with %.20q: %d, %d bytes", c.path, c.fields[0], status, len(page))
		}
	}
}

// A long state does not fit into the form on the page of its preview, so the person uploads the
// state's file again after the preview. The hub posts the state only if the file is the previewed
// one.
func TestLongStateIsPostedFromTheSameFile(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	path := "/ui/devices/" + f.boatID + "/revisions"
	state := []byte(`{` + systemSpec + `,"a.json":"` + strings.Repeat("<", 60<<10) + `"}`)
	_, page, _ := b.sendFile(path, "file", "state.json", state, "message", "long")
	says(t, page, "The same file again", "added")
	sum := regexp.MustCompile(`name="sum" value="([0-9a-f]{64})"`).FindStringSubmatch(page)
	newest := regexp.MustCompile(`name="newest" value="([0-9]+)"`).FindStringSubmatch(page)
	if sum == nil || newest == nil || len(page) > pageBytes {
		t.Fatalf("%d bytes, sum %v, newest %v", len(page), sum, newest)
	}
	confirm := []string{"confirm", "yes", "newest", newest[1], "sum", sum[1], "message", "long"}
	status, page, _ := b.sendFile(path, "file", "state.json", []byte(strings.Replace(string(state), "a.json", "b.json", 1)), confirm...)
	says(t, page, "The file differs from the file of the preview.")
	if status != 409 {
		t.Errorf("another file: %d", status)
	}
	if status, page, _ := b.sendFile(path, "file", "state.json", state, confirm...); status != 303 {
		t.Errorf("the same file: %d %s", status, brief.Of(page))
	}
	if rev := must(f.Store.Revision(t.Context(), f.boatID, -1))(t); rev.CommitMsg != "long" || len(rev.State) < 60<<10 {
		t.Errorf("%q, %d bytes", rev.CommitMsg, len(rev.State))
	}
}
