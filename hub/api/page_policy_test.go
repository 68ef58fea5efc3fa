package api_test

import (
	"fmt"
	"html"
	"regexp"
	"strings"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/internal/race"
	"gangway/wire"
)

const policyPage = "/ui/trust/policy"

// hidden returns the value of a hidden field of a page.
func hidden(page, name string) string {
	m := regexp.MustCompile(`name="` + name + `" value="([^"]*)"`).FindStringSubmatch(page)
	if m == nil {
		return ""
	}
	return html.UnescapeString(m[1])
}

// previewed previews the policy in text, and returns the page with the preview.
func (b *browser) previewed(text string) string {
	b.t.Helper()
	return b.posts(policyPage, 200, "act", "preview", "text", text, "version", hidden(b.page(policyPage), "version"))
}

// put sends the form that puts the previewed policy into force.
func (b *browser) put(page, text string, want int) string {
	b.t.Helper()
	return b.posts(policyPage, want, "act", "put", "text", text, "version", hidden(page, "version"), "previewed", hidden(page, "previewed"))
}

func (s *scene) policyOf(t *testing.T) string {
	t.Helper()
	p, err := s.Store.Policy(t.Context(), s.Owner.ID)
	if err != nil && err != store.ErrNotFound {
		t.Fatal(err)
	}
	return p.Text
}

// The preview shows the devices and waiting machines that the new policy would affect. After the
// preview, the person puts the policy into force.
func TestPolicyPreviewShowsWhatItTouches(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	waits(t, f.post(t, f.request(t, f.uncertified(t))), "ek-certificate-none")
	boat := must(f.Store.Device(t.Context(), f.boatID))(t)
	const text = "version: 1\r\nno_ek_certificate: refuse\r\nrules: [{then: refuse, reason: none of them}]\r\n"
	page := b.previewed(text)
	says(t, page, "1 would be refused at the next onboarding", "1 waiting machine would get another result", boat.Nick, "none of them", "has no EK certificate", "Put it into force")
	if !strings.Contains(page, `href="/ui/devices/`+f.boatID+`"`) {
		t.Error("the device is not linked")
	}
	if p := f.policyOf(t); p != "" {
		t.Errorf("the preview put %q into force", p)
	}
	if pirate := must(f.Store.Device(t.Context(), f.pirateID))(t); strings.Contains(page, pirate.Nick) {
		t.Error("the preview shows another owner's device")
	}
	b.put(page, text, 303)
	if p := f.policyOf(t); p != strings.ReplaceAll(text, "\r\n", "\n") {
		t.Errorf("in force: %q", p)
	}
	says(t, b.page(policyPage), "All TPMs are refused (reason: none of them).", "rule 1 , your policy")
	// The preview shows that without the policy, the hub would accept the device again.
	page = b.posts(policyPage, 200, "act", "clear", "text", text, "version", hidden(b.page(policyPage), "version"))
	says(t, page, "1 would be accepted at the next onboarding", "Remove the policy")
	b.put(page, "", 303)
	if p := f.policyOf(t); p != "" {
		t.Errorf("in force: %q", p)
	}
	kinds := map[string]bool{}
	for _, e := range f.ada.events("?kind=policy.") {
		kinds[e.Kind+" "+e.ActorName+" "+e.Means] = true
	}
	if !kinds["policy.changed ada page"] || !kinds["policy.removed ada page"] {
		t.Errorf("events: %v", kinds)
	}
}

// A person can put only the previewed text into force: the hub refuses any other text. It also
// refuses the previewed text if the owner's policy or the hub's policy has changed since the
// preview. The typed text stays on the page.
func TestPolicyThatChangedSinceThePreviewIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	const text, other = "version: 1\nunknown_maker: refuse\n", "version: 1\nexpired_ek_certificate: ask\n"
	page := b.previewed(text)
	// If the text differs from the previewed text, the hub previews the new text and does not put
	// it into force.
	says(t, b.put(page, other, 200), "Effects of the change")
	if p := s.policyOf(t); p != "" {
		t.Fatalf("in force: %q", p)
	}
	page = b.previewed(text)
	s.Policy(t, s.Owner.ID, other)
	answer := b.put(page, text, 409)
	says(t, answer, "has changed since the preview", "unknown_maker: refuse", "The policy that is in force now", "expired_ek_certificate: ask")
	if p := s.policyOf(t); p != other {
		t.Errorf("in force: %q", p)
	}
	page = b.previewed(text)
	s.Policy(t, store.HubWide, hubtest.LabPolicy+"unknown_maker: refuse\n")
	b.put(page, text, 409)
	if p := s.policyOf(t); p != other {
		t.Errorf("in force: %q", p)
	}
	b.put(b.previewed(text), text, 303)
}

func TestPolicyTextIsCheckedWhileItIsTyped(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	for text, want := range map[string]string{
		"version: 1\nunknwon_maker: ask\n":                    "unknwon_maker not found",
		"version: 1\nno_ek_certificate: accept\n":             "only a person can vouch",
		"version: 1\nunknown_maker: refuse\n":                 "A TPM with an EK certificate that does not chain to a trusted maker is refused.",
		"version: 1\nrules: [{maker: Infineon, then: ask}]\n": "did you mean IFX",
		"version: 1\n": "changes nothing",
		"":             "You have no policy. The hub's policy applies, as before",
		"version: 1\nunknown_maker: \"<script>alert(1)</script>\"\n": "is not 'accept', 'ask' or 'refuse'",
	} {
		part := b.posts(policyPage+"/check", 200, "text", text)
		says(t, part, want)
		if strings.Contains(part, "<script>") || strings.Contains(part, "<html") {
			t.Errorf("%q: %s", text, part)
		}
		if p := s.policyOf(t); p != "" {
			t.Fatalf("the check put %q into force", p)
		}
	}
	answer := b.posts(policyPage, 400, "act", "preview", "text", "version: 2\n</textarea><script>alert(1)</script>")
	if strings.Contains(answer, "<script>alert") || !strings.Contains(answer, "version: 2") {
		t.Error("the typed text is gone, or is markup")
	}
	b.posts(policyPage, 413, "act", "preview", "text", strings.Repeat("#", 300<<10))
}

// A policy that requires a measured boot applies at once, so the preview lists the devices that
// would lose access.
func TestPolicyPreviewSaysWhomARequiredBootCutsOff(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	says(t, b.previewed("version: 1\nmeasured_boot: require\n"), "1 would lose access at once", "cut off")
}

// A preview can also judge a device that onboarded with a two-step enrolment, and a device that its
// owner approved. A preview of the policy in force has no effect on them.
func TestPolicyPreviewJudgesEveryKindOfEnrolment(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	tok := s.Token(t, s.Owner, func(t *store.JoinToken) { t.ForPantacor = true })
	d := s.device(t)
	hub := must(fleet.NewHub(tok))(t)
	defer hub.Close()
	must(d.OnboardTwoStep(t.Context(), hub, tok))(t)
	approved := s.uncertified(t)
	w := waits(t, s.post(t, s.request(t, approved)), "ek-certificate-none")
	s.person(t, "ada").status("POST", "/devices/"+w.DeviceID+"/approve", map[string]any{}, 200)
	must(approved.Onboard(t.Context(), s.client, s.tok))(t)
	page := b.previewed("version: 1\n")
	says(t, page, "2 devices and 0 waiting machines were judged", "The change has no effect on these devices and machines.")
	if strings.Contains(text(page), "could not be judged") {
		t.Errorf("%.1500s", text(page))
	}
	says(t, b.previewed("version: 1\nno_ek_certificate: refuse\n"), "1 would be refused at the next onboarding")
	says(t, b.previewed("version: 1\nrules: [{firmware_below: 65535, then: refuse}]\n"), "2 would be refused at the next onboarding")
}

// A preview judges a bounded number of devices, and the page shows how many it judged.
func TestPolicyPreviewIsBounded(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	s.Policy(t, store.HubWide, hubtest.LabPolicy+"without_tpm: accept\n")
	for i := range 230 {
		must(s.Store.CreateDevice(t.Context(), store.Device{ID: wire.NewID(), Nick: fmt.Sprintf("plain-%d", i), Owner: s.Owner.ID, Created: s.Now().Add(time.Duration(i) * time.Second)}, store.Hash{1}))(t)
	}
	page := b.previewed("version: 1\nwithout_tpm: refuse\n")
	says(t, page, "200 of your 230 devices, the newest,", "200 would be refused", "150 more are not shown.")
	if n := strings.Count(page, `class="row-link"`); n != 50 {
		t.Errorf("%d rows", n)
	}
}

// A preview verifies hundreds of signatures, so an account can run at most two previews at a time.
func TestPolicyPreviewsAtOnceAreBounded(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	first, second := s.Server.HoldPreview(s.Owner.ID), s.Server.HoldPreview(s.Owner.ID)
	says(t, b.posts(policyPage, 429, "act", "preview", "text", "version: 1\n"), "Two previews of your account are running already.")
	first()
	b.previewed("version: 1\n")
	second()
}
