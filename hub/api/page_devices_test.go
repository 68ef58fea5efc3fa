package api_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
)

// The method `named` onboards a machine with this model and serial number, and returns its id.
func (s *scene) named(t *testing.T, model, serial string) string {
	t.Helper()
	d := must(fleet.New(s.maker, "H-2"))(t)
	d.Model, d.Serial = model, serial
	must(d.Onboard(t.Context(), s.client, s.tok))(t)
	return s.deviceOf(t, d)
}

func TestDevicesAreSearchedAndSortedByTheAddress(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	nuc, gate := s.named(t, "NUC", "A-1"), s.named(t, "Gate computer", "B-2")
	b := s.browser(t)
	b.signIn()
	see := func(query string, has, lacks []string) {
		t.Helper()
		b.sees("/ui/devices?"+query, has, lacks)
	}
	see("", []string{nuc, gate, "2 devices"}, nil)
	see("q=model:NUC", []string{nuc, "1 device"}, []string{gate})
	see("q=gate", []string{gate}, []string{nuc})
	see("q=state:quiet", []string{"No device matches"}, []string{nuc, gate})
	see("q=stat:quiet", []string{`role="alert"`, `aria-invalid="true"`, "stat:quiet"}, nil)
	see("q="+strings.Repeat("a", 600), []string{`role="alert"`}, nil)
	see("after=nonsense", []string{`role="alert"`}, nil)
	see("c=id&c=key", []string{"Id</th>", "ECDSA"}, []string{"Revision</th>"})
	see("sort=-model", []string{`aria-sort="descending"`}, nil)
	see("sort=evil&c=evil&x=evil", []string{nuc}, []string{"evil"})
	_, page, _ := b.send("GET", "/ui/devices?sort=model", "")
	_, down, _ := b.send("GET", "/ui/devices?sort=-model", "")
	if strings.Index(page, gate) > strings.Index(page, nuc) || strings.Index(down, gate) < strings.Index(down, nuc) {
		t.Error("the order does not follow the address")
	}
}

func TestDevicesOfOtherOwnersAreOnNoList(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Account(t, "mallory")
	theirs := s.Token(t, must(s.Store.AccountByNickOrEmail(t.Context(), "mallory"))(t), nil)
	must(s.victim.Onboard(t.Context(), s.client, theirs))(t)
	id := s.deviceOf(t, s.victim)
	mine := s.named(t, "NUC", "A-1")
	b := s.browser(t)
	b.signIn()
	for _, path := range []string{
		"/ui/devices", "/ui/devices?q=id:" + id, "/ui/devices.csv", "/ui/devices.json", "/ui/overview", "/ui/devices/row?id=" + id,
		"/ui/bulk?act=delete&id=" + id, "/ui/bulk?act=delete&all=1", "/ui/bulk?act=delete&id=" + id + "&id=" + mine,
	} {
		if _, page, _ := b.send("GET", path, ""); strings.Contains(strings.ReplaceAll(page, "q=id%3A"+id, ""), `"`+id+`"`) {
			t.Errorf("%s has mallory's device: %s", path, brief.Of(page))
		}
	}
	for _, act := range []string{"label&key=a&value=b", "boot", "delete&confirm=delete+1"} {
		b.send("POST", "/ui/bulk", "act="+act+"&id="+id)
	}
	if d := must(s.Store.Device(t.Context(), id))(t); d.Deleted || len(d.UserMeta) != 0 {
		t.Errorf("mallory's device was changed: %s", brief.Of(d))
	}
}

// A saved view of the device list has only the search, the order and the columns, and no other text
// of the request. The number of views is bounded.
func TestSavedViewsAreBoundedAndCarryNothingElse(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	s.named(t, "NUC", "A-1")
	b := s.browser(t)
	b.signIn()
	save := func(name, query string) (int, string) {
		status, page, _ := b.send("POST", "/ui/views", url.Values{"name": {name}, "query": {query}}.Encode())
		return status, page
	}
	if status, page := save("Quiet <b>ones</b>", "q=state%3Aquiet&sort=-seen&c=state&x=evil&after=evil"); status != 303 {
		t.Fatalf("%d %s", status, brief.Of(page))
	}
	_, page, _ := b.send("GET", "/ui/devices", "")
	if !strings.Contains(page, "/ui/devices?q=state%3Aquiet&amp;sort=-seen&amp;c=state") || strings.Contains(page, "evil") || strings.Contains(page, "<b>") {
		t.Errorf("the view is not on the page, or carries more: %s", brief.Of(page))
	}
	for name, problem := range map[string]string{"": "letters", "a\u202eb": "letters", strings.Repeat("n", 65): "64 bytes"} {
		if status, page := save(name, ""); status != 400 || !strings.Contains(page, problem) {
			t.Errorf("%q: %d %s", brief.Of(name), status, brief.Of(page))
		}
	}
	for i := range store.MaxSavedViews - 1 {
		save(fmt.Sprint("view ", i), "")
	}
	if status, page := save("one more", ""); status != 400 || !strings.Contains(page, "Delete one") {
		t.Errorf("the number of views is not bounded: %d %s", status, brief.Of(page))
	}
	if status, page, _ := b.send("POST", "/ui/views/delete", "name=view+3"); status != 303 {
		t.Errorf("%d %s", status, brief.Of(page))
	}
	if views := must(s.Store.SavedViews(t.Context(), s.Owner.ID))(t); len(views) != store.MaxSavedViews-1 {
		t.Errorf("%d views", len(views))
	}
}

// If a spreadsheet would read a cell as a formula, the hub writes the cell as text.
func TestExportedCSVHasNoFormulas(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.named(t, `=cmd|'/C calc'!A0`, "+1+1")
	s.named(t, `@SUM(A1)`, "-2+3")
	b := s.browser(t)
	b.signIn()
	status, text, h := b.send("GET", "/ui/devices.csv?c=model&c=revision", "")
	if status != 200 || !strings.HasPrefix(h.Get("Content-Type"), "text/csv") || !strings.Contains(h.Get("Content-Disposition"), "attachment") {
		t.Fatalf("%d %s", status, brief.Of(h))
	}
	rows := must(csv.NewReader(strings.NewReader(text)).ReadAll())(t)
	if len(rows) != 3 || strings.Join(rows[0], " ") != "nick id model serial revision revision-status progress" {
		t.Fatalf("%s", brief.Of(rows))
	}
	for _, row := range rows[1:] {
		for _, cell := range row {
			if cell != "" && strings.ContainsRune("=+@", rune(cell[0])) || strings.HasPrefix(cell, "-2") {
				t.Errorf("the cell %q is a formula", cell)
			}
		}
		if row[4] != "-1" {
			t.Errorf("a device without a trail has the revision %q", row[4])
		}
	}
	var devices []api.FleetDevice
	if _, text, _ := b.send("GET", "/ui/devices.json", ""); json.Unmarshal([]byte(text), &devices) != nil || len(devices) != 2 {
		t.Errorf("JSON: %s", brief.Of(text))
	}
	if _, text, _ := b.send("GET", "/ui/devices.json?q=model:none", ""); json.Unmarshal([]byte(text), &devices) != nil || len(devices) != 0 {
		t.Errorf("JSON of nothing: %s", brief.Of(text))
	}
}

func TestBulkLabelIsPreviewedAndTakenBack(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	one, two := s.named(t, "NUC", "A-1"), s.named(t, "NUC", "A-2")
	if err := s.Store.PatchUserMeta(t.Context(), s.Owner.ID, one, map[string]any{"site": "rome"}); err != nil {
		t.Fatal(err)
	}
	b := s.browser(t)
	b.signIn()
	site := func(id string) any {
		t.Helper()
		return must(s.Store.Device(t.Context(), id))(t).UserMeta["site"]
	}
	status, page, _ := b.send("GET", "/ui/bulk?act=label&id="+one+"&id="+two+"&id="+one, "")
	if status != 200 || !strings.Contains(page, "2 devices") || site(one) != "rome" {
		t.Fatalf("preview: %d %s", status, brief.Of(page))
	}
	if status, page, _ := b.send("POST", "/ui/bulk", "act=label&id="+one+"&value=x"); status != 400 || !strings.Contains(page, "Type a name") {
		t.Errorf("without a name: %d %s", status, brief.Of(page))
	}
	status, page, h := b.send("POST", "/ui/bulk", "act=label&key=site&value=oslo&id="+one+"&id="+two+"&back=q%3Dmodel%253ANUC")
	if status != 303 || h.Get("Location") != "/ui/devices?q=model%3ANUC" || site(one) != "oslo" || site(two) != "oslo" {
		t.Fatalf("label: %d to %q: %s", status, h.Get("Location"), brief.Of(page))
	}
	var notice string
	for _, c := range h.Values("Set-Cookie") {
		if strings.HasPrefix(c, "__Host-gangway-notice=") {
			notice, _, _ = strings.Cut(c, ";")
		}
	}
	_, body, _ := b.request("GET", "/ui/devices", nil, map[string]string{"Cookie": b.cookie + "; " + notice})
	_, rest, _ := strings.Cut(string(body), `name="undo" value="`)
	undo, _, ok := strings.Cut(rest, `"`)
	if !ok {
		t.Fatalf("the page offers no undo: %s", brief.Of(body))
	}
	// After the action on two devices, someone changes the second device. The undo does not change
	// the second device.
	if err := s.Store.PatchUserMeta(t.Context(), s.Owner.ID, two, map[string]any{"site": "bergen"}); err != nil {
		t.Fatal(err)
	}
	b.send("POST", "/ui/bulk/undo", "undo="+undo)
	if site(one) != "rome" || site(two) != "bergen" {
		t.Errorf("after the undo: %v and %v", site(one), site(two))
	}
	b.send("POST", "/ui/bulk", "act=label&key=site&value=oslo&id="+one)
	b.send("POST", "/ui/bulk/undo", "undo="+undo)
	if site(one) != "oslo" {
		t.Error("an undo worked twice")
	}
}

func TestBulkDeletionNeedsItsConfirmation(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	one, two := s.named(t, "NUC", "A-1"), s.named(t, "NUC", "A-2")
	b := s.browser(t)
	b.signIn()
	for _, confirm := range []string{"", "delete", "delete 1", "DELETE 2"} {
		form := url.Values{"act": {"delete"}, "id": {one, two}, "confirm": {confirm}}.Encode()
		if status, page, _ := b.send("POST", "/ui/bulk", form); status != 400 || !strings.Contains(page, "Nothing was deleted") {
			t.Errorf("%q: %d %s", confirm, status, brief.Of(page))
		}
	}
	if n := len(s.Devices(t, s.Owner)); n != 2 {
		t.Fatalf("%d devices are left", n)
	}
	form := url.Values{"act": {"delete"}, "id": {one, two}, "confirm": {"delete 2"}}.Encode()
	if status, page, _ := b.send("POST", "/ui/bulk", form); status != 303 {
		t.Errorf("%d %s", status, brief.Of(page))
	}
	if n := len(s.Devices(t, s.Owner)); n != 0 {
		t.Errorf("%d devices are left", n)
	}
}

// stream opens GET /ui/live and returns its lines.
func (b *browser) stream(ctx context.Context) (<-chan string, *http.Response) {
	b.t.Helper()
	req := must(http.NewRequestWithContext(ctx, "GET", b.s.URL+"/ui/live", nil))(b.t)
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Cookie", b.cookie)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: b.s.client.Roots}, ForceAttemptHTTP2: true}
	b.t.Cleanup(transport.CloseIdleConnections)
	resp := must(transport.RoundTrip(req))(b.t)
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		defer resp.Body.Close()
		for scan := bufio.NewScanner(resp.Body); scan.Scan(); {
			if line := scan.Text(); line != "" {
				lines <- line
			}
		}
	}()
	return lines, resp
}

func waitFor(t *testing.T, lines <-chan string, want string) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("the stream ended before %q", want)
			}
			if strings.Contains(line, want) {
				return
			}
		case <-timeout:
			t.Fatalf("no line with %q", want)
		}
	}
}

// The stream of live changes names the owner's own devices that changed, and no devices of other
// owners.
func TestLiveTellsOwnChangesOnly(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	b := s.browser(t)
	b.signIn()
	lines, resp := b.stream(t.Context())
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%d %s", resp.StatusCode, brief.Of(resp.Header))
	}
	waitFor(t, lines, "retry")
	s.Account(t, "mallory")
	theirs := s.Token(t, must(s.Store.AccountByNickOrEmail(t.Context(), "mallory"))(t), nil)
	must(s.victim.Onboard(t.Context(), s.client, theirs))(t)
	other := s.deviceOf(t, s.victim)
	id := s.named(t, "NUC", "A-1")
	for {
		line := <-lines
		if strings.Contains(line, other) {
			t.Fatalf("mallory's device is told: %s", line)
		}
		if strings.Contains(line, `"device.activated"`) && strings.Contains(line, id) {
			break
		}
	}
}

// When the session ends, its stream ends, and the hub sends no more changes on it.
func TestLiveEndsWithItsSession(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.LiveBeat(20 * time.Millisecond)
	b := s.browser(t)
	b.signIn()
	lines, _ := b.stream(t.Context())
	waitFor(t, lines, "retry")
	b.send("POST", "/sign-out", "")
	waitFor(t, lines, "event: signed-out")
	for range 2 {
		if _, open := <-lines; !open {
			return
		}
	}
	t.Error("the stream is open after the session")
}

// An account can have only 8 open streams of live changes. When the browser closes the streams,
// their goroutines end.
func TestLiveConnectionsAreBoundedAndLeaveNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	before := runtime.NumGoroutine()
	ctx, leave := context.WithCancel(t.Context())
	for range 8 {
		lines, _ := b.stream(ctx)
		waitFor(t, lines, "retry")
	}
	_, resp := b.stream(ctx)
	if resp.StatusCode != 429 {
		t.Errorf("the ninth connection: %d", resp.StatusCode)
	}
	if n := s.Server.Listeners(); n != 8 {
		t.Errorf("%d listeners", n)
	}
	leave()
	for deadline := time.Now().Add(20 * time.Second); s.Server.Listeners() > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d listeners are left of closed connections, and %d goroutines of %d", s.Server.Listeners(), runtime.NumGoroutine(), before)
		}
	}
	lines, _ := b.stream(t.Context())
	waitFor(t, lines, "retry")
}
