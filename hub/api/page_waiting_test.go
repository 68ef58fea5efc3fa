package api_test

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/tcg"
)

// The method `arrives` sends the request of a machine without an EK certificate, and returns its
// waiting id.
func (s *scene) arrives(t *testing.T, model, serial string) (*fleet.Device, string) {
	t.Helper()
	d := s.uncertified(t)
	d.Model, d.Serial = model, serial
	return d, waits(t, s.post(t, s.request(t, d)), "ek-certificate-none").DeviceID
}

var machineField = regexp.MustCompile(`name="machine" value="([0-9a-f]{24}\.[0-9a-f]{64})"`)

// machinesOn returns the values of the page's fields "machine", by waiting id.
func machinesOn(page string) map[string]string {
	seen := map[string]string{}
	for _, m := range machineField.FindAllStringSubmatch(page, -1) {
		seen[m[1][:24]] = m[1]
	}
	return seen
}

// group opens the preview of the only group on the page of waiting devices.
func (b *browser) group() (path, page string) {
	b.t.Helper()
	_, room, _ := b.send("GET", "/ui/onboard/waiting", "")
	found := regexp.MustCompile(`href="(/ui/onboard/waiting/group\?alike=[0-9a-f]+)"`).FindAllStringSubmatch(room, -1)
	if len(found) != 1 {
		b.t.Fatalf("%d groups: %s", len(found), brief.Of(room))
	}
	status, page, _ := b.send("GET", found[0][1], "")
	if status != 200 {
		b.t.Fatalf("%d %s", status, brief.Of(page))
	}
	return found[0][1], page
}

func (s *scene) stateOf(t *testing.T, id string) store.WaitingState {
	t.Helper()
	return must(s.Store.WaitingByID(t.Context(), s.Owner.ID, id, s.Now()))(t).State
}

func (s *scene) eventsOf(t *testing.T, kind string) int {
	t.Helper()
	return len(must(s.Store.Events(t.Context(), store.EventFilter{Owner: s.Owner.ID, Kind: kind}))(t))
}

// The page of waiting devices shows the facts about each machine, the questions about its evidence,
// and what an approval means.
func TestWaitingRoomShowsAllThatIsKnown(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	d, id := s.arrives(t, "Gate computer", "GC-1")
	evil := must(fleet.New(must(impostorMaker())(t), "H-2"))(t)
	waits(t, s.post(t, s.request(t, evil)), "ek-chain-untrusted")
	b := s.browser(t)
	b.signIn()
	if _, page, _ := b.send("GET", "/ui/overview", ""); !strings.Contains(page, `href="/ui/onboard/waiting"`) || !strings.Contains(page, "2 machines wait for your decision") {
		t.Errorf("the overview does not lead to the room: %s", brief.Of(page))
	}
	status, page, _ := b.send("GET", "/ui/onboard/waiting", "")
	ek := must(tcg.KeyHash(must(d.EK.Public.Key())(t)))(t)
	for _, want := range []string{"Gate computer", "GC-1", fmt.Sprintf("%x", ek), id, "127.0.0.1",
		"The request has no EK certificate", "You confirm that this EK belongs to a real TPM", "You trust this TPM although the hub does not trust the CA"} {
		if status != 200 || !strings.Contains(page, want) {
			t.Errorf("%d: the page lacks %q", status, want)
		}
	}
	// The machine's own page also has the facts that the list does not show. A person can open that
	// page's content within the list, too.
	other := waits(t, s.post(t, s.request(t, evil)), "ek-chain-untrusted").DeviceID
	for of, more := range map[string][]string{
		id:    {"The machine sent no EK certificate.", fmt.Sprintf("%x", must(d.EK.Public.Name())(t))},
		other: {"EK certificate, as the machine sent it", "<dt>Issuer</dt>", "<dt>Valid</dt>"},
	} {
		_, whole, _ := b.send("GET", "/ui/onboard/waiting/"+of, "")
		_, part, _ := b.request("GET", "/ui/onboard/waiting/"+of, nil, map[string]string{"Cookie": b.cookie, "HX-Request": "true"})
		if strings.Contains(string(part), "<html") || !strings.Contains(whole, "<html") || len(machinesOn(whole)) != 1 {
			t.Errorf("the part or the page: %s", brief.Of(whole))
		}
		for _, want := range append(more, of, s.tok.ID, "1 start since the TPM was last cleared", "<code>certify</code>", "ECDSA P-256") {
			if !strings.Contains(whole, want) || !strings.Contains(string(part), want) {
				t.Errorf("the page of %s, or its part, lacks %q: %s", of, want, brief.Of(part))
			}
		}
	}
	if status, _, _ := b.send("GET", "/ui/onboard/waiting/"+strings.Repeat("0", 24), ""); status != 404 {
		t.Errorf("a machine that does not wait: %d", status)
	}
	seen := machinesOn(page)
	if len(seen) != 2 {
		t.Fatalf("%d machines: %s", len(seen), brief.Of(page))
	}
	if status, page, h := b.send("POST", "/ui/waiting/decide", "decision=deny&next=/ui/onboard/waiting&machine="+seen[id]); status != 303 || h.Get("Location") != "/ui/onboard/waiting" {
		t.Fatalf("deny: %d %s", status, brief.Of(page))
	}
	_, page, _ = b.send("GET", "/ui/onboard/waiting?show=denied", "")
	if seen = machinesOn(page); len(seen) != 1 || seen[id] == "" || strings.Contains(page, `value="deny"`) {
		t.Errorf("denied: %s", brief.Of(page))
	}
	if status, page, _ := b.send("POST", "/ui/waiting/decide", "decision=approve&machine="+seen[id]); status != 303 {
		t.Errorf("a denied machine cannot be approved: %d %s", status, brief.Of(page))
	}
	if status, _, h := b.send("GET", "/ui/onboard/waiting/"+id, ""); status != 303 || h.Get("Location") != "/ui/onboard/waiting" {
		t.Errorf("an approved machine: %d", status)
	}
	must(d.Onboard(t.Context(), s.client, s.tok))(t)
}

// After the preview of a group, a new machine with the same questions arrives, and one of the shown
// machines changes its evidence. The decision about the group covers neither of them.
func TestGroupDecisionSweepsInNoMachineThatWasNotShown(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	_, one := s.arrives(t, "Gate computer", "GC-1")
	changing, two := s.arrives(t, "Gate computer", "GC-2")
	_, three := s.arrives(t, "Gate computer", "GC-3")
	b := s.browser(t)
	b.signIn()
	path, page := b.group()
	seen := machinesOn(page)
	if len(seen) != 3 || !strings.Contains(page, "The request has no EK certificate") || strings.Count(page, "<li><p><bdi>") != 1 {
		t.Fatalf("the preview: %s", brief.Of(page))
	}
	late, four := s.arrives(t, "Gate computer", "GC-4")
	changing.Serial = "GC-2 of somebody else"
	waits(t, s.post(t, s.request(t, changing)), "ek-certificate-none")

	form := url.Values{"decision": {"approve"}, "machine": {seen[one], seen[two], seen[three]}}
	status, page, _ := b.send("POST", "/ui/waiting/decide", form.Encode())
	if status != 409 || !strings.Contains(page, "2 of 3 machines were approved") || strings.Count(page, "have changed since") != 1 || !strings.Contains(page, "GC-2 of somebody else") {
		t.Errorf("%d %s", status, brief.Of(page))
	}
	for id, want := range map[string]store.WaitingState{one: store.Approved, two: store.Undecided, three: store.Approved, four: store.Undecided} {
		if is := s.stateOf(t, id); is != want {
			t.Errorf("%s is %s, not %s", id, is, want)
		}
	}
	if n := s.eventsOf(t, "device.approved"); n != 2 {
		t.Errorf("%d events of 2 approvals", n)
	}
	// If a person sends the same form again, the hub stores no decision, because the first decision
	// changed the machines' records.
	if status, page, _ := b.send("POST", "/ui/waiting/decide", form.Encode()); status != 409 || !strings.Contains(page, "0 of 3") {
		t.Errorf("again: %d %s", status, brief.Of(page))
	}
	if n := s.eventsOf(t, "device.approved"); n != 2 {
		t.Errorf("%d events after a repeated form", n)
	}
	waits(t, s.post(t, s.request(t, late)), "ek-certificate-none")
	_, page, _ = b.send("GET", path, "")
	if seen = machinesOn(page); len(seen) != 2 || seen[four] == "" || seen[two] == "" {
		t.Errorf("the next preview: %s", brief.Of(page))
	}
}

// If a machine repeats its request while a person looks at its evidence, even from another address,
// the person's decision about the shown evidence is still valid.
func TestRepeatedRequestDoesNotSpoilADecision(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	d := s.uncertified(t)
	body := s.request(t, d)
	id := waits(t, s.post(t, body), "ek-certificate-none").DeviceID
	b := s.browser(t)
	b.signIn()
	_, page, _ := b.send("GET", "/ui/onboard/waiting", "")
	s.Advance(2 * time.Minute)
	waits(t, s.post(t, body), "ek-certificate-none")
	if status, page, _ := b.send("POST", "/ui/waiting/decide", "decision=approve&machine="+machinesOn(page)[id]); status != 303 {
		t.Errorf("%d %s", status, brief.Of(page))
	}
}

// A group has only machines with the same questions. For some questions, the TPM's maker and model,
// or the reason in the question, must be equal too.
func TestOnlyMachinesWithTheSameQuestionsAreAlike(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	put := func(i int, maker, model string, questions ...string) {
		t.Helper()
		var codes, parts []string
		for _, q := range questions {
			code, reason, _ := strings.Cut(q, ":")
			codes = append(codes, code)
			parts = append(parts, fmt.Sprintf(`{"code":%q,"reason":%q,"hint":"h","ask":true}`, code, reason))
		}
		w := store.WaitingDevice{Owner: s.Owner.ID, EK: store.Hash{byte(i), 7}, DeviceID: fmt.Sprintf("%024x", i), Codes: codes, Manufacturer: maker, Model: model,
			Request: []byte("x"), Verdict: []byte(`{"questions":[` + strings.Join(parts, ",") + `]}`), Since: s.Now(), LastSeen: s.Now(), Expires: s.Now().Add(time.Hour)}
		must(s.Store.PutWaiting(t.Context(), w, onboard.MaxWaiting))(t)
	}
	put(1, "IFX", "9670", "ek-certificate-none:no certificate")
	put(2, "STM", "x", "ek-certificate-none:no certificate")
	put(3, "IFX", "9670", "policy:rule one")
	put(4, "IFX", "9672", "policy:rule one")
	put(5, "IFX", "9670", "policy:rule two")
	put(6, "IFX", "9670", "policy:rule one", "ek-certificate-none:no certificate")
	b := s.browser(t)
	b.signIn()
	_, page := b.group()
	seen := machinesOn(page)
	if len(seen) != 2 || seen[fmt.Sprintf("%024x", 1)] == "" || seen[fmt.Sprintf("%024x", 2)] == "" {
		t.Errorf("the group: %s", brief.Of(seen))
	}
	if status, _, h := b.send("GET", "/ui/onboard/waiting/group?alike=0011223344556677", ""); status != 303 || h.Get("Location") != "/ui/onboard/waiting" {
		t.Errorf("a group that is gone: %d", status)
	}
}

func TestWaitingRoomHasPages(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for i := range 45 {
		w := store.WaitingDevice{Owner: s.Owner.ID, EK: store.Hash{byte(i), 1}, DeviceID: fmt.Sprintf("%024x", i), Codes: []string{"policy"}, ProdModel: "NUC",
			Request: []byte{}, Verdict: []byte(`{"questions":[{"code":"policy","reason":"r","hint":"h","ask":true}]}`), Since: s.Now().Add(-time.Duration(i) * time.Second), LastSeen: s.Now(), Expires: s.Now().Add(time.Hour)}
		must(s.Store.PutWaiting(t.Context(), w, onboard.MaxWaiting))(t)
	}
	b := s.browser(t)
	b.signIn()
	all, path := map[string]bool{}, "/ui/onboard/waiting"
	for pages := 0; path != "" && pages < 5; pages++ {
		_, page, _ := b.send("GET", path, "")
		if len(page) > 70_000 {
			t.Errorf("a page of %d bytes", len(page))
		}
		for id := range machinesOn(page) {
			all[id] = true
		}
		next := regexp.MustCompile(`rel="next" href="([^"]+)"`).FindStringSubmatch(page)
		if path = ""; next != nil {
			path = strings.ReplaceAll(next[1], "&amp;", "&")
		}
	}
	if len(all) != 45 {
		t.Errorf("%d of 45 machines are on the pages", len(all))
	}
	if status, _, _ := b.send("GET", "/ui/onboard/waiting?after=evil", ""); status != 400 {
		t.Errorf("a made-up place: %d", status)
	}
	// The number of machines in one decision is bounded.
	_, page := b.group()
	if n := len(machinesOn(page)); n != 45 {
		t.Errorf("%d machines in the preview", n)
	}
	form := url.Values{"decision": {"approve"}}
	for i := range 101 {
		form.Add("machine", fmt.Sprintf("%024x.%064x", i, i))
	}
	if status, page, _ := b.send("POST", "/ui/waiting/decide", form.Encode()); status != 400 {
		t.Errorf("101 machines: %d %s", status, brief.Of(page))
	}
}

func TestWaitingMachinesOfOtherOwnersAreInNoRoom(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	s.Account(t, "mallory")
	_, id := s.arrives(t, "Gate computer", "GC-1")
	_, other := s.arrives(t, "Gate computer", "GC-2")
	ada, mallory := s.browser(t), s.browser(t)
	ada.signIn()
	path, page := ada.group()
	seen := machinesOn(page)
	mallory.send("POST", "/sign-in", "nick=mallory&password="+strings.ReplaceAll(hubtest.Password, " ", "+"))
	mallory.send("GET", "/ui/overview", "")
	for _, where := range []string{"/ui/onboard/waiting", "/ui/onboard/waiting?show=denied", "/ui/onboard/waiting/" + id, path, "/ui/overview"} {
		if _, page, _ := mallory.send("GET", where, ""); strings.Contains(page, id) || strings.Contains(page, "GC-1") {
			t.Errorf("%s shows ada's machine: %s", where, brief.Of(page))
		}
	}
	// Mallory cannot decide about Ada's waiting machines, even with Ada's digests.
	for _, decision := range []string{"approve", "deny"} {
		form := url.Values{"decision": {decision}, "machine": {seen[id], seen[other]}}
		if status, page, _ := mallory.send("POST", "/ui/waiting/decide", form.Encode()); status != 409 || strings.Contains(page, "GC-") {
			t.Errorf("%s: %d %s", decision, status, brief.Of(page))
		}
	}
	if is := s.stateOf(t, id); is != store.Undecided {
		t.Errorf("mallory decided: %s", is)
	}
}

// The hub refuses a decision about a waiting machine without the session's form token, or with a
// malformed form.
func TestDecisionNeedsTheFormOfThePage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	_, id := s.arrives(t, "Gate computer", "GC-1")
	b := s.browser(t)
	b.signIn()
	_, page, _ := b.send("GET", "/ui/onboard/waiting", "")
	machine := machinesOn(page)[id]
	header := map[string]string{"Content-Type": "application/x-www-form-urlencoded", "Origin": s.URL, "Cookie": b.cookie}
	for _, form := range []string{"decision=approve&machine=" + machine, "decision=approve&csrf=AAAA&machine=" + machine} {
		if status, body, _ := b.request("POST", "/ui/waiting/decide", form, header); status != 403 {
			t.Errorf("without a form token: %d %s", status, brief.Of(body))
		}
	}
	for _, form := range []string{"machine=" + machine, "decision=perhaps&machine=" + machine, "decision=approve&machine=" + id, "decision=approve&machine=" + machine + "00", "decision=approve&machine=x." + machine[25:]} {
		if status, page, _ := b.send("POST", "/ui/waiting/decide", form); status != 400 {
			t.Errorf("%s: %d %s", brief.Of(form), status, brief.Of(page))
		}
	}
	for next, want := range map[string]string{"https://evil.example/ui/": "/ui/onboard/waiting", "//evil.example/ui/": "/ui/onboard/waiting", "/ui/overview?x=1": "/ui/overview?x=1"} {
		form := url.Values{"decision": {"approve"}, "next": {next}}
		if status, _, h := b.send("POST", "/ui/waiting/decide", form.Encode()); status != 303 || h.Get("Location") != want {
			t.Errorf("back to %q: %d %q", next, status, h.Get("Location"))
		}
	}
	if is := s.stateOf(t, id); is != store.Undecided {
		t.Errorf("it was decided: %s", is)
	}
}

// If a machine sends text with markup, the pages of waiting devices, previews and decisions show
// the text and do not interpret the markup.
func TestWaitingMachineIsNoMarkup(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	const evil = "<script>alert(1)</script>\u202egnp"
	one, id := s.arrives(t, evil, evil)
	_, two := s.arrives(t, evil, "2")
	b := s.browser(t)
	b.signIn()
	_, room, _ := b.send("GET", "/ui/onboard/waiting", "")
	_, preview := b.group()
	seen := machinesOn(preview)
	one.Serial += "x"
	waits(t, s.post(t, s.request(t, one)), "ek-certificate-none")
	_, report, _ := b.send("POST", "/ui/waiting/decide", url.Values{"decision": {"deny"}, "machine": {seen[id], seen[two]}}.Encode())
	_, denied, _ := b.send("GET", "/ui/onboard/waiting?show=denied", "")
	_, whole, _ := b.send("GET", "/ui/onboard/waiting/"+id, "")
	for name, page := range map[string]string{"room": room, "one machine": whole, "preview": preview, "report": report, "denied": denied} {
		if strings.Contains(page, "<script>alert") || strings.Contains(page, "\u202e") || !strings.Contains(page, "&lt;script&gt;alert(1)") {
			t.Errorf("%s: %s", name, brief.Of(page))
		}
	}
}
