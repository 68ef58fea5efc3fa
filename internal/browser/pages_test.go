package browser_test

import (
	"crypto/tls"
	"net/http"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/browser"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
)

func TestMain(m *testing.M) { browser.Main(m) }

// page is a page that is opened in every size and scheme.
type page struct {
	name, path string
	// empty says that the hub of the page has no devices.
	empty bool
	// signedOut says that nobody is signed in.
	signedOut bool
	// want must be on the page.
	want string
	// wall says that the page is for a screen on a wall too.
	wall bool
}

// pages has every page of the hub. A page that is not here is not checked: add its line with it.
// {id} in a path is a device's id, and {token} the id of a join token.
var pages = []page{
	{name: "sign-in", path: "/sign-in", signedOut: true, want: "Nick or e-mail"},
	{name: "overview", path: "/ui/overview", want: "Overview", wall: true},
	{name: "overview-empty", path: "/ui/overview", empty: true, want: "No device yet"},
	{name: "devices", path: "/ui/devices", want: "6 devices", wall: true},
	{name: "devices-all-columns", path: "/ui/devices?c=state&c=model&c=tpm&c=revision&c=boot&c=token&c=key&c=address&c=created&c=seen&c=id", want: "6 devices"},
	{name: "devices-search", path: "/ui/devices?q=model:NUC12WSHi5+state:active&sort=-seen", want: "2 devices"},
	{name: "devices-none", path: "/ui/devices?q=nothing", want: "No device fits"},
	{name: "devices-error", path: "/ui/devices?q=stat:quiet", want: "stat"},
	{name: "devices-empty", path: "/ui/devices", empty: true, want: "No device yet"},
	{name: "bulk-label", path: "/ui/bulk?act=label&id={id}", want: "Set the label"},
	{name: "bulk-delete", path: "/ui/bulk?act=delete&all=1", want: "delete 6"},
	{name: "tokens", path: "/ui/onboard", want: "New token"},
	{name: "tokens-soon", path: "/ui/onboard?soon=1", want: "Show all join tokens"},
	{name: "tokens-empty", path: "/ui/onboard", empty: true, want: "No join token yet"},
	{name: "token-new", path: "/ui/onboard/new", want: "Limit of devices"},
	{name: "token", path: "/ui/onboard/tokens/{token}", want: "Disable it"},
	{name: "image", path: "/ui/onboard/image", want: "Build and download"},
	{name: "image-missing", path: "/ui/onboard/image", empty: true, want: "cannot build an image now"},
	{name: "problem", path: "/ui/nothing", want: "There is no route at this path"},
}

// hubWithDevices is a hub whose owner ada has devices of several kinds, or none.
type hubWithDevices struct {
	*hubtest.Hub
	maker  *fleet.Maker
	images *slowBuilder // nil: the hub builds no images

	cookie string
	first  string // the id of a device
	client *http.Client
}

func newHub(t *testing.T, devices int) *hubWithDevices {
	t.Helper()
	maker, err := fleet.NewMaker("good", fleet.MakerOptions{})
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
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // a loopback hub of this test
	t.Cleanup(transport.CloseIdleConnections)
	h.client = &http.Client{Transport: transport}
	for i := range devices {
		d := h.onboard(t, []string{"L-1", "H-2", "H-3"}[i%3], []string{"NUC12WSHi5", "Gate computer", "OptiPlex 7010"}[i%3], "SN-000"+string(rune('1'+i)))
		if h.first == "" {
			h.first = d.ID
		}
	}
	h.cookie = browser.SignIn(t, h.client, h.URL, "ada", hubtest.Password)
	return h
}

// onboard takes a machine aboard.
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

// Every page, in every size and scheme, has its text, no violation of accessibility or of the
// content security policy, and no message on the console. It costs fewer than 100 kB on its first
// load and fewer than ten requests.
func TestPages(t *testing.T) {
	if testing.Short() {
		t.Skip("opens each page in Chromium four times; TestPageInBrowser is shorter")
	}
	full, none := newHub(t, 6), newHub(t, 0)
	for _, p := range pages {
		t.Run(p.name, func(t *testing.T) {
			h, cookie := full, full.cookie
			if p.empty {
				h, cookie = none, none.cookie
			}
			if p.signedOut {
				cookie = ""
			}
			screens := []browser.Options{{Size: browser.Desk}, {Size: browser.Desk, Dark: true}, {Size: browser.Phone}, {Size: browser.Phone, Dark: true}}
			if p.wall {
				screens = append(screens, browser.Options{Size: browser.Wall, Dark: true})
			}
			for _, o := range screens {
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
	path := strings.ReplaceAll(p.path, "{id}", h.first)
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
}

// TestPageInBrowser is TestPages with one page.
func TestPageInBrowser(t *testing.T) {
	h := newHub(t, 1)
	see(t, h, h.cookie, pages[1], browser.Options{Size: browser.Phone})
}

// rename gives a device another nick, as another person of the account would.
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

// tokens are the owner's join tokens, the newest first.
func (h *hubWithDevices) tokens(t *testing.T) []store.JoinToken {
	t.Helper()
	tokens, err := h.Store.JoinTokens(t.Context(), h.Owner.ID)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}
