package api_test

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/internal/race"
	"gangway/wire"
)

// The method `asks` sends the request in which a machine that displays a claim code asks whether
// somebody has claimed it.
func (s *scene) asks(t *testing.T, code string) {
	t.Helper()
	s.person(t, "").do("GET", "/claims/"+code, nil)
}

func TestClaimCodeIsTypedInItsShortForm(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	b := s.browser(t)
	b.signIn()
	code := claimCode(t)
	words := wire.ClaimWords(code)
	typed := func(text string) (int, string, string) {
		t.Helper()
		status, page, h := b.send("GET", "/ui/onboard/claim?code="+url.QueryEscape(text), "")
		return status, page, h.Get("Location")
	}
	if status, page, _ := b.send("GET", "/ui/onboard/claim", ""); status != 200 || strings.Contains(page, `aria-invalid`) {
		t.Fatalf("%d %s", status, brief.Of(page))
	}
	if status, page, _ := typed(words); status != 400 || !strings.Contains(page, "No machine with the code "+words) || !strings.Contains(page, `aria-describedby="h-code e-code"`) || !strings.Contains(page, `value="`+words+`"`) {
		t.Errorf("before the machine asks: %d %s", status, brief.Of(page))
	}
	s.asks(t, code)
	for _, text := range []string{words, strings.ToLower(words), strings.ReplaceAll(words, "-", " "), " " + strings.ReplaceAll(words, "O", "0") + " ", code, s.URL + "/claim/" + code} {
		if status, page, to := typed(text); status != 303 || to != "/claim/"+code {
			t.Errorf("%q: %d to %q: %s", text, status, to, brief.Of(page))
		}
	}
	for _, text := range []string{"", "x", "ABCD-EFGH", "<script>alert(1)</script>", "https://evil.example/claim/", "https://evil.example/ui/" + code, code[1:], strings.Repeat("A", 5000)} {
		if status, page, to := typed(text); status != 400 || to != "" || !strings.Contains(page, `id="e-code"`) || strings.Contains(page, "<script>alert") || len(page) > 20_000 {
			t.Errorf("%.40q: %d to %q: %s", text, status, to, brief.Of(page))
		}
	}
	s.Advance(2 * time.Minute)
	if status, _, _ := typed(words); status != 400 {
		t.Errorf("two minutes later: %d", status)
	}
}

// checkGuessesAreLimited checks that the hub limits how often a client can guess the short forms of
// claim codes.
func checkGuessesAreLimited(t *testing.T, b *browser) {
	t.Helper()
	limited := false
	for i := range 40 {
		status, _, _ := b.send("GET", fmt.Sprintf("/ui/onboard/claim?code=AAAA-AAAA-%04d", 2222+i), "")
		limited = limited || status == 429
	}
	if !limited {
		t.Error("forty guesses in a row were not limited")
	}
}

// The hub limits how often a client can guess the short forms of claim codes, and how many machines
// it remembers.
func TestShortFormsAreNotGuessedAndNotHoarded(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	checkGuessesAreLimited(t, b)
	if testing.Short() {
		return // the flood below sends 1100 requests
	}
	s.Server.Unlimited()
	for range 1100 {
		s.asks(t, claimCode(t))
	}
	if n := s.Server.Claimants(); n != 1024 {
		t.Errorf("the hub remembers %d machines", n)
	}
	code := claimCode(t)
	s.asks(t, code)
	if status, _, h := b.send("GET", "/ui/onboard/claim?code="+wire.ClaimWords(code), ""); status != 303 || h.Get("Location") != "/claim/"+code {
		t.Errorf("after the flood: %d", status)
	}
}

// After a person claims a machine, the page shows each step of the machine's onboarding.
func TestClaimedMachineIsSeenComingAboard(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	s.Account(t, "mallory")
	secret, id, code := ownToken(t)
	b := s.browser(t)

	// If nobody is signed in, the form redirects to the sign-in form. After the sign-in, the person
	// returns to the claim code.
	status, _, h := s.person(t, "").request("GET", "/ui/onboard/claim?code=ABCD", nil, map[string]string{"Accept": "text/html"})
	if status != 303 || h.Get("Location") != "/sign-in?next="+url.QueryEscape("/ui/onboard/claim?code=ABCD") {
		t.Errorf("signed out: %d to %q", status, h.Get("Location"))
	}
	s.asks(t, code)
	_, page, _ := b.send("GET", "/claim/"+code, "")
	if strings.Contains(page, "<dt>The machine</dt>") || !strings.Contains(page, `name="password"`) {
		t.Errorf("a stranger with the code sees the machine's address: %s", brief.Of(page))
	}
	b.signIn()
	if _, page, _ = b.send("GET", "/claim/"+code, ""); !strings.Contains(page, `<bdi class="mono">127.0.0.1</bdi>`) || !strings.Contains(page, wire.ClaimWords(code)) || !strings.Contains(page, `name="csrf"`) {
		t.Errorf("the claim page: %s", brief.Of(page))
	}
	header := map[string]string{"Content-Type": "application/x-www-form-urlencoded", "Origin": s.URL, "Cookie": b.cookie}
	if status, body, _ := b.request("POST", "/claim/"+code, "", header); status != 403 {
		t.Errorf("without a form token: %d %s", status, brief.Of(body))
	}
	at := "/ui/onboard/claim/" + id
	if status, page, h := b.send("POST", "/claim/"+code, ""); status != 303 || h.Get("Location") != at {
		t.Fatalf("%d to %q: %s", status, h.Get("Location"), brief.Of(page))
	}
	see := func(has ...string) {
		t.Helper()
		for _, path := range []string{at, at + "/steps"} {
			status, page, _ := b.send("GET", path, "")
			for _, want := range has {
				if status != 200 || !strings.Contains(page, want) {
					t.Errorf("%s: %d, and the page lacks %q: %s", path, status, want, brief.Of(page))
				}
			}
		}
	}
	see("Claimed", "The hub waits for the machine", "(in progress)")
	// If the owner opens the claim code's URL again, the page shows the onboarding and not the
	// claim form.
	if status, _, h := b.send("GET", "/claim/"+code, ""); status != 303 || h.Get("Location") != at {
		t.Errorf("the code again: %d", status)
	}
	tok := *s.tok
	tok.ID, tok.PRN, tok.Token = id, wire.TokenPRN+id, base64.StdEncoding.EncodeToString(secret)
	d := s.uncertified(t)
	d.Serial = "<script>alert(1)</script>\u202egnp"
	w := waits(t, s.post(t, must(d.Request(&tok, fleet.RequestChange{}))(t)), "ek-certificate-none")
	see("A question about its evidence", "/ui/onboard/waiting/"+w.DeviceID, "(needs your decision)", "&lt;script&gt;alert(1)")
	decide(s.person(t, "ada"), w.DeviceID, "approve", 200)
	must(d.Enrol(t.Context(), s.client, must(d.Request(&tok, fleet.RequestChange{}))(t)))(t)
	see("Only this TPM can decrypt them")
	must(d.Onboard(t.Context(), s.client, &tok))(t)
	devices := s.Devices(t, s.Owner)
	see("Approved by a person", "Onboarded as "+devices[0].Nick, `href="/ui/devices/`+devices[0].ID+`"`)

	// Another account cannot see the onboarding, even with the join token's id or the code.
	mallory := s.browser(t)
	mallory.send("POST", "/sign-in", "nick=mallory&password="+strings.ReplaceAll(hubtest.Password, " ", "+"))
	for _, path := range []string{at, at + "/steps", "/ui/onboard/claim/" + strings.Repeat("0", 24), "/ui/onboard/claim/x"} {
		if status, page, _ := mallory.send("GET", path, ""); status != 404 {
			t.Errorf("%s: %d %s", path, status, brief.Of(page))
		}
	}
}

// If the hub refuses a claimed machine, the page of its onboarding shows the reason.
func TestArrivalThatFailsSaysWhy(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	b := s.browser(t)
	b.signIn()
	secret, id, code := ownToken(t)
	b.send("POST", "/claim/"+code, "")
	at := "/ui/onboard/claim/" + id
	tok := *s.tok
	tok.ID, tok.PRN, tok.Token = id, wire.TokenPRN+id, base64.StdEncoding.EncodeToString(secret)
	d := s.uncertified(t)
	d.EKCert = s.victim.EKCert
	refused(t, s.post(t, must(d.Request(&tok, fleet.RequestChange{}))(t)), 403, "ek-key-mismatch")
	if _, page, _ := b.send("GET", at, ""); !strings.Contains(page, "(failed)") || !strings.Contains(page, "The machine retries by itself") {
		t.Errorf("a refusal: %s", brief.Of(page))
	}
	_, id, code = ownToken(t)
	b.send("POST", "/claim/"+code, "")
	s.Advance(wire.ClaimLife + time.Second)
	b.signIn()
	if _, page, _ := b.send("GET", "/ui/onboard/claim/"+id, ""); !strings.Contains(page, "The machine did not send its evidence in time") || !strings.Contains(page, "Claim again") {
		t.Errorf("too late: %s", brief.Of(page))
	}
}

// A person claims a device without a TPM on the page, by its id and challenge. After a wrong
// challenge, the page shows the typed text again. A device can be claimed only once.
func TestDeviceWithoutTPMIsClaimedOnThePage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	s.Policy(t, store.HubWide, hubtest.LabPolicy+"without_tpm: accept\n")
	b := s.browser(t)
	b.signIn()
	d := want[api.Registered](s.person(t, ""), "POST", "/devices", nil, 200)
	const path = "/ui/onboard/claim"
	for _, c := range [][2]string{{d.ID, "aaaa-bbbb-cccc"}, {"x", d.Challenge}, {strings.Repeat("0", 24), d.Challenge}, {d.ID, ""}, {"<script>alert(1)</script>", "<b>"}} {
		page := b.posts(path, 412, "device", c[0], "challenge", c[1])
		says(t, page, "No unclaimed device has this id and this challenge.")
		if strings.Contains(page, "<script>alert") || strings.Contains(page, "<b>") {
			t.Errorf("%q is markup", c)
		}
	}
	to := b.posts(path, 303, "device", " "+strings.ToUpper(d.ID)+" ", "challenge", strings.ToUpper(d.Challenge))
	if !strings.HasSuffix(to, "/ui/devices/"+d.ID) || must(s.Store.Device(t.Context(), d.ID))(t).Owner != s.Owner.ID {
		t.Errorf("to %q", to)
	}
	b.posts(path, 412, "device", d.ID, "challenge", d.Challenge)
	says(t, b.page("/ui/audit?kind=device."), "was claimed with its challenge")
}

// Guesses of a challenge on the page have the same rate limit as guesses through the API.
func TestChallengesAreNotGuessedOnThePage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	limited := false
	for range 20 {
		status, page, _ := b.form("/ui/onboard/claim", "device", wire.NewID(), "challenge", "aaaa-bbbb-cccc")
		limited = limited || status == 429 && strings.Contains(page, "Too many claims from this address.")
	}
	if !limited {
		t.Error("twenty guesses in a row were not limited")
	}
}
