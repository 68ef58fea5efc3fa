package browser_test

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/browser"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/internal/race"
	"gangway/wire"
)

func TestMain(m *testing.M) { browser.Main(m) }

// page is a page of the hub that TestPages opens in every size and colour scheme.
type page struct {
	name, path string
	// If `empty` is true, the hub has no devices.
	empty bool
	// If signedOut is true, nobody is signed in.
	signedOut bool
	// If `waiting` is true, the hub has waiting devices. In the path, {alike} is replaced by the
	// name of a group of waiting devices.
	waiting bool
	// If `operator` is true, an account with the role operator is signed in.
	operator bool
	// `want` is a text that the page must contain.
	want string
	// If `wall` is true, the test also opens the page on a very large screen, such as one on a
	// wall.
	wall bool
}

// pages lists every page of the hub. If you add a page to the hub, add it here too: no other test
// checks the page. In a path, {id} is replaced by a device's id, {token} by the id of a join token,
// {maker} by the SHA-256 of a TPM maker's root, and {manifest-key} and {manifest} by the ids of a
// key and of a manifest.
var pages = []page{
	{name: "sign-in", path: "/sign-in", signedOut: true, want: "Nick or e-mail"},
	{name: "overview", path: "/ui/overview", want: "Overview", wall: true},
	{name: "overview-empty", path: "/ui/overview", empty: true, want: "No device yet"},
	{name: "devices", path: "/ui/devices", want: "6 devices", wall: true},
	{name: "devices-all-columns", path: "/ui/devices?c=state&c=model&c=tpm&c=revision&c=boot&c=token&c=key&c=address&c=created&c=seen&c=id", want: "6 devices"},
	{name: "devices-search", path: "/ui/devices?q=model:NUC12WSHi5+state:active&sort=-seen", want: "2 devices"},
	{name: "devices-none", path: "/ui/devices?q=nothing", want: "No device matches"},
	{name: "devices-error", path: "/ui/devices?q=stat:quiet", want: "stat"},
	{name: "devices-empty", path: "/ui/devices", empty: true, want: "No device yet"},
	{name: "bulk-label", path: "/ui/bulk?act=label&id={id}", want: "Set the label"},
	{name: "bulk-delete", path: "/ui/bulk?act=delete&all=1", want: "delete 6"},
	{name: "tokens", path: "/ui/onboard", want: "New token"},
	{name: "tokens-soon", path: "/ui/onboard?soon=1", want: "Show all join tokens"},
	{name: "tokens-empty", path: "/ui/onboard", empty: true, want: "No join token yet"},
	{name: "token-new", path: "/ui/onboard/new", want: "Maximum number of devices"},
	{name: "token", path: "/ui/onboard/tokens/{token}", want: "Disable the join token"},
	{name: "image", path: "/ui/onboard/image", want: "Build and download"},
	{name: "image-missing", path: "/ui/onboard/image", empty: true, want: "cannot build an image now"},
	{name: "waiting", path: "/ui/onboard/waiting", waiting: true, want: "Machines with the same questions"},
	{name: "waiting-machine", path: "/ui/onboard/waiting/{machine}", waiting: true, want: "What was checked"},
	{name: "waiting-empty", path: "/ui/onboard/waiting", empty: true, want: "No machine waits"},
	{name: "waiting-denied", path: "/ui/onboard/waiting?show=denied", waiting: true, want: "Machines that you denied"},
	{name: "waiting-alike", path: "/ui/onboard/waiting/group?alike={alike}", waiting: true, want: "Machines that the decision covers"},
	{name: "overview-waiting", path: "/ui/overview", waiting: true, want: "machines wait for your decision"},
	{name: "audit", path: "/ui/audit", want: "newest first"},
	{name: "audit-filter", path: "/ui/audit?kind=device.&device=nobody&since=2026-11-01", want: "You have no device with this nick."},
	{name: "trust", path: "/ui/trust", want: "Check a certificate"},
	{name: "eks-empty", path: "/ui/trust/eks", want: "No EK list"},
	{name: "boots", path: "/ui/boots", want: "Changes in common"},
	{name: "boots-empty", path: "/ui/boots", empty: true, want: "Nothing to decide"},
	{name: "boots-cohort", path: "/ui/boots/firmware-code/" + updatedFirmware, want: "3 devices have this value"},
	{name: "boots-key", path: "/ui/boots/key/{manifest-key}", want: "The hub will no longer use these manifests"},
	{name: "boots-manifest", path: "/ui/boots/manifest/{manifest}", want: "The hub will no longer expect this system"},
	{name: "policy", path: "/ui/trust/policy", want: "Rules in force for your devices"},
	{name: "policy-example", path: "/ui/trust/policy?example=1", want: "An example, which is not in force"},
	{name: "judge", path: "/ui/trust/judge", want: "the hub would accept"},
	{name: "judge-empty", path: "/ui/trust/judge", empty: true, want: "No device to judge"},
	{name: "lost", path: "/ui/devices/lost", want: "No lost device"},
	{name: "settings", path: "/ui/settings", want: "Change the password"},
	{name: "settings-sessions", path: "/ui/settings/sessions", want: "this one"},
	{name: "settings-api-tokens", path: "/ui/settings/api-tokens", want: "Create an API token"},
	{name: "claim-form", path: "/ui/onboard/claim", want: "Code on the machine's screen"},
	{name: "claim-wrong", path: "/ui/onboard/claim?code=ABCD-EFGH-2345", want: "No machine with the code ABCD-EFGH-2345"},
	{name: "claim", path: "/claim/{code}", want: "Claim this machine?"},
	{name: "claim-signed-out", path: "/claim/{code}", signedOut: true, want: "Claim this machine?"},
	{name: "revisions", path: "/ui/revisions", want: "No revision yet"},
	{name: "revisions-failed", path: "/ui/revisions?show=failed", want: "Revisions"},
	{name: "revisions-recent", path: "/ui/revisions?show=recent", want: "Revisions"},
	{name: "wall", path: "/ui/wall", want: "Onboarded last", wall: true},
	{name: "wall-waiting", path: "/ui/wall", waiting: true, want: "Onboarding now", wall: true},
	{name: "operator", path: "/ui/operator", operator: true, want: "The whole hub"},
	{name: "operator-makers", path: "/ui/operator/makers", operator: true, want: "Devices with other TPMs"},
	{name: "operator-makers-add", path: "/ui/operator/makers/add", operator: true, want: "The next page shows the certificates"},
	{name: "operator-maker", path: "/ui/operator/makers/{maker}", operator: true, want: "Each button first shows the effect"},
	{name: "operator-maker-effect", path: "/ui/operator/makers/{maker}?act=distrust", operator: true, want: "have a certificate chain through this certificate"},
	{name: "operator-versions", path: "/ui/operator/versions", operator: true, want: "Versions of the agents"},
	{name: "operator-health", path: "/ui/operator/health", operator: true, want: "Certificates of the hub"},
	{name: "operator-alarms", path: "/ui/operator/alarms", operator: true, want: "docs/runbook.md"},
	{name: "operator-refused", path: "/ui/operator", want: "only for accounts with the role operator"},
	{name: "problem", path: "/ui/nothing", want: "This page does not exist."},
}

// hubWithDevices is a hub with the account ada, which owns several devices or none.
type hubWithDevices struct {
	*hubtest.Hub
	maker  *fleet.Maker
	images *slowBuilder // nil: the hub builds no images

	cookie string
	first  string // id of one of the devices
	// manifestKey and manifest are the ids of a key and of its manifest. They are empty if the
	// account has no key and no manifest.
	manifestKey, manifest string
	client                *http.Client
}

// loopback returns a client that accepts the certificate of any hub on loopback.
func loopback(t testing.TB) *http.Client {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // safe: the hub is in this test
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// skipShort skips a test in short mode, because Chromium needs more time than all other short tests
// of the hub's pages together.
func skipShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("it opens a browser")
	}
}

// goodMaker is the TPM maker that the hubs of most tests trust. Its RSA keys take a tenth of a
// second of computing, and more under the race detector.
var goodMaker = sync.OnceValues(func() (*fleet.Maker, error) { return fleet.NewMaker("good", fleet.MakerOptions{}) })

func newHub(t *testing.T, devices int) *hubWithDevices {
	t.Helper()
	skipShort(t)
	maker, err := goodMaker()
	if err != nil {
		t.Fatal(err)
	}
	h := &hubWithDevices{maker: maker}
	h.Hub = hubtest.NewWith(t, func(c *api.Config) {
		if devices > 0 {
			h.images = newSlowBuilder()
			c.Images, c.ImageLimits.Size = h.images, 64<<20
		}
	}, maker.Roots(), maker.Intermediates())
	h.client = loopback(t)
	for i := range devices {
		d := h.onboard(t, []string{"L-1", "H-2", "H-3"}[i%3], []string{"NUC12WSHi5", "Gate computer", "OptiPlex 7010"}[i%3], "SN-000"+string(rune('1'+i)))
		if h.first == "" {
			h.first = d.ID
		}
	}
	h.cookie = browser.SignIn(t, h.client, h.URL, "ada", hubtest.Password)
	return h
}

// operator makes some owners, and an account with the role operator. It returns the session cookie
// of the operator's account. It also makes the hub refuse some requests, because the operator's
// pages count refused requests.
func (h *hubWithDevices) operator(t *testing.T) string {
	t.Helper()
	for _, nick := range []string{"harbour-north", "harbour-south", "workshop", "an-owner-with-a-long-nick"[:23]} {
		a := h.Account(t, nick)
		if nick == "workshop" {
			if err := h.Store.DisableAccount(t.Context(), a.ID, store.Event{Time: h.Now(), Kind: "account.disabled", Owner: a.ID, Message: "Disabled."}); err != nil {
				t.Fatal(err)
			}
		}
	}
	olga := h.Account(t, "olga")
	if err := h.Store.SetOperator(t.Context(), olga.ID, true, store.Event{Time: h.Now(), Kind: "account.operator-given", Owner: olga.ID, Message: "The account got the role operator."}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		resp, err := h.client.Post(h.URL+"/onboard", "application/octet-stream", strings.NewReader("no request"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	return browser.SignIn(t, h.client, h.URL, "olga", hubtest.Password)
}

// onboard onboards an emulated machine.
func (h *hubWithDevices) onboard(t *testing.T, ek, model, serial string) store.Device {
	t.Helper()
	tok := h.Token(t, h.Owner, nil)
	client, err := fleet.NewHub(tok)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	d, err := fleet.New(h.maker, ek)
	if err != nil {
		t.Fatal(err)
	}
	d.Model, d.Serial = model, serial
	if _, err := d.Onboard(t.Context(), client, tok); err != nil {
		t.Fatal(err)
	}
	newest := store.Device{}
	for _, one := range h.Devices(t, h.Owner) {
		if one.Created.After(newest.Created) {
			newest = one
		}
	}
	return newest
}

// screens returns the screens on which a test opens each page: a large light one and a small dark
// one. With GANGWAY_E2E_FULL or GANGWAY_SCREENSHOTS, it returns each size in both colour schemes.
func screens() []browser.Options {
	all := []browser.Options{{Size: browser.Desk}, {Size: browser.Phone, Dark: true}}
	if os.Getenv("GANGWAY_E2E_FULL") != "" || os.Getenv("GANGWAY_SCREENSHOTS") != "" {
		all = append(all, browser.Options{Size: browser.Desk, Dark: true}, browser.Options{Size: browser.Phone})
	}
	return all
}

// Every page, in every size and colour scheme, contains the text in its field `want`. The page
// violates neither an accessibility rule nor the content security policy, and prints no message on
// the console. The first load of the page takes fewer than 100 kB and fewer than ten requests.
func TestPages(t *testing.T) {
	race.Skip(t)
	if testing.Short() {
		t.Skipf("opens each of %d pages in Chromium, in two sizes: run the test without -short. TestPageInBrowser makes the same checks of one page only", len(pages))
	}
	full, none, room := newHub(t, 6), newHub(t, 0), newRoom(t)
	operator := full.operator(t)
	full.updateFirmware(t)
	full.addManifest(t)
	for _, p := range pages {
		t.Run(p.name, func(t *testing.T) {
			h, cookie := full, full.cookie
			if p.empty {
				h, cookie = none, none.cookie
			}
			if p.waiting {
				h, cookie = room.hubWithDevices, room.cookie
				p.path = strings.NewReplacer("{alike}", room.alike, "{machine}", room.machine).Replace(p.path)
			}
			if p.signedOut {
				cookie = ""
			}
			if p.operator {
				cookie = operator
			}
			list := screens()
			if p.wall {
				list = append(list, browser.Options{Size: browser.Wall, Dark: true})
			}
			for _, o := range list {
				see(t, h, cookie, p, o)
			}
		})
	}
}

func see(t *testing.T, h *hubWithDevices, cookie string, p page, o browser.Options) {
	t.Helper()
	tab := browser.Open(t, h.URL, cookie, o)
	if p.name == "problem" {
		tab.Ignore("status of 404")
	}
	if p.name == "operator-refused" {
		tab.Ignore("status of 403")
	}
	if p.name == "claim-wrong" {
		tab.Ignore("status of 400")
	}
	path := strings.NewReplacer("{id}", h.first, "{code}", strings.Repeat("AbC", 19)+"Aw", "{maker}", fmt.Sprintf("%x", sha256.Sum256(h.maker.Root.Raw)), "{manifest-key}", h.manifestKey, "{manifest}", h.manifest).Replace(p.path)
	if strings.Contains(path, "{token}") {
		path = strings.ReplaceAll(path, "{token}", h.tokens(t)[0].ID)
	}
	tab.Go(path)
	if !strings.Contains(tab.Text(), p.want) {
		t.Errorf("%s: the page lacks %q: %.500s", p.name, p.want, tab.Text())
	}
	requests, bytes := tab.Cost()
	if requests == 0 || requests > 10 || bytes == 0 || bytes > 100_000 {
		t.Errorf("%s: %d requests and %d bytes", p.name, requests, bytes)
	}
	t.Logf("%s: %d requests, %d bytes", p.name, requests, bytes)
	tab.Check(p.name)
	tab.Shot(p.name)
	tab.CheckFocus(p.name)
}

// TestPageInBrowser makes the checks of TestPages for one page. Unlike TestPages, it also runs
// under the race detector.
func TestPageInBrowser(t *testing.T) {
	h := newHub(t, 1)
	see(t, h, h.cookie, pages[1], browser.Options{Size: browser.Phone})
}

// updatedFirmware is the measured value of the firmware's code on the devices that updateFirmware
// changes.
var updatedFirmware = strings.Repeat("5f", 32)

// updateFirmware stores that the firmware of three devices has changed. The hub's first device is
// not one of them. It also stores the owner's decision about a different measured value of the
// firmware.
func (h *hubWithDevices) updateFirmware(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	devices := slices.DeleteFunc(h.Devices(t, h.Owner), func(d store.Device) bool { return d.ID == h.first })
	for _, d := range devices[:3] {
		b := store.Boot{Device: d.ID, Time: h.Now(), State: store.BootMatches, Measurement: []byte("{}"), Changes: []byte("[]"), Judged: &store.BootJudged{Version: 1 << 40, Model: "NUC12WSHi5",
			Parts: []store.BootPart{{Part: "firmware-code", Value: updatedFirmware, Bad: true, Words: "The firmware's version was \"1.2.3\" in the reference of 3 May 2026, and is \"1.2.4\" now."}}}}
		if _, err := h.Store.PutBoot(ctx, b, nil); err != nil {
			t.Fatal(err)
		}
	}
	d := store.BootDecision{Owner: h.Owner.ID, Part: "keys", Value: updatedFirmware, Made: h.Now(), MadeBy: "ada", Words: "This value of the Secure Boot keys counts as known for all devices: 412 devices.", Devices: 412}
	if _, err := h.Store.PutBootDecision(ctx, d, store.Event{Time: h.Now(), Kind: "boot.accepted", Owner: h.Owner.ID, Actor: wire.AccountPRN + h.Owner.ID, ActorName: "ada", Means: store.ByPage, Message: "ada accepted a boot for a cohort. " + d.Words}); err != nil {
		t.Fatal(err)
	}
}

// rename changes a device's nick, as if another person of the account did it in the meantime.
func (h *hubWithDevices) rename(t *testing.T, id, nick string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, h.URL+"/devices/"+id, strings.NewReader(`{"nick":"`+nick+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimPrefix(h.cookie, "__Host-gangway="))
	resp, err := h.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("rename: status %d", resp.StatusCode)
	}
}

// tokens returns the owner's join tokens, the newest first.
func (h *hubWithDevices) tokens(t *testing.T) []store.JoinToken {
	t.Helper()
	tokens, err := h.Store.JoinTokens(t.Context(), h.Owner.ID)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}
