// Package browser opens the hub's pages in a real Chromium, for tests. A test opens a page with a
// screen size and a colour scheme. Check fails the test if the page violates accessibility rules
// (axe-core) or the content security policy, prints a message on the console, or is wider than the
// screen.
//
// All tests of a package share one Chromium; each Tab has its own cookies. If the environment
// variable GANGWAY_SCREENSHOTS names a folder, Shot saves pictures there.
package browser

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

//go:embed axe/axe.min.js
var axe string

// Size is the size of a screen, in CSS pixels.
type Size struct {
	Name          string
	Width, Height int64
}

// The screen sizes in which tests open the pages.
var (
	Desk  = Size{"desk", 1280, 800}
	Phone = Size{"phone", 390, 844}
	Wall  = Size{"wall", 1920, 1080}
)

var chromium struct {
	sync.Mutex
	ctx    context.Context
	cancel []context.CancelFunc
	dir    string
	err    error
}

// Main runs a package's tests and then ends Chromium. Use it as func TestMain(m *testing.M) {
// browser.Main(m) }.
func Main(m *testing.M) {
	code := m.Run()
	Stop()
	os.Exit(code)
}

// Stop ends Chromium. A package whose TestMain does not call Main must call Stop after its tests.
func Stop() {
	chromium.Lock()
	defer chromium.Unlock()
	for i := len(chromium.cancel) - 1; i >= 0; i-- {
		chromium.cancel[i]()
	}
	if chromium.dir != "" {
		if err := os.RemoveAll(chromium.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// headlessShell is Chromium's engine without the windows and menus of the browser, in Debian's
// package chromium-headless-shell. It opens a page with a third of the CPU time that the browser
// needs. The program with this name in PATH is a shell script. It is not used here because killing
// the script would not end the Chromium that it has started.
const headlessShell = "/usr/lib/chromium/chromium-headless-shell"

// Path returns the path of the Chromium for tests. If the headless shell is not installed, Path
// returns the path of the browser.
func Path() (string, error) {
	if _, err := os.Stat(headlessShell); err == nil {
		return headlessShell, nil
	}
	return exec.LookPath("chromium")
}

// Options of the allocator that starts Chromium, besides the path and the folder of the profile.
var options = append(chromedp.DefaultExecAllocatorOptions[:],
	chromedp.NoSandbox, chromedp.DisableGPU,
	chromedp.Flag("ignore-certificate-errors", true), // Chromium does not trust the hub's CA
	chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("disable-quic", true))

// Allocate prepares to start a Chromium with its profile in the folder `dir`. The first use of the
// returned context starts it. The returned function ends it.
func Allocate(path, dir string, more ...chromedp.ExecAllocatorOption) (context.Context, context.CancelFunc) {
	return chromedp.NewExecAllocator(context.Background(), slices.Concat(options, []chromedp.ExecAllocatorOption{chromedp.ExecPath(path), chromedp.UserDataDir(dir)}, more)...)
}

// start starts Chromium at its first call. Later calls return the same Chromium.
func start() (context.Context, error) {
	chromium.Lock()
	defer chromium.Unlock()
	if chromium.ctx != nil || chromium.err != nil {
		return chromium.ctx, chromium.err
	}
	path, err := Path()
	if err == nil {
		chromium.dir, err = os.MkdirTemp("", "chromium")
	}
	if err != nil {
		chromium.err = err
		return nil, err
	}
	alloc, cancel := Allocate(path, chromium.dir, chromedp.Flag("force-prefers-reduced-motion", true), chromedp.Flag("hide-scrollbars", true))
	ctx, cancel2 := chromedp.NewContext(alloc)
	chromium.cancel = []context.CancelFunc{cancel, cancel2}
	if chromium.err = chromedp.Do(ctx); chromium.err == nil {
		chromium.ctx = ctx
	}
	return chromium.ctx, chromium.err
}

// Tab is an open tab with its own cookies, as if each tab belonged to another person.
type Tab struct {
	Context context.Context // the context that chromedp's actions need
	Size    Size
	Dark    bool

	t      testing.TB
	url    string // of the hub
	cancel context.CancelFunc

	mu       sync.Mutex
	messages []string // errors and messages of the page since the last Check
	requests int
	bytes    int
	ignored  []string
}

// Options describe the screen and the browser of a tab.
type Options struct {
	Size Size // zero: Desk
	Dark bool
	// NoScript disables JavaScript.
	NoScript bool
}

// Open opens a tab for the hub at this URL. If `cookie` is not empty, the tab is signed in with
// this session cookie.
func Open(t testing.TB, url, cookie string, o Options) *Tab {
	t.Helper()
	ctx, err := start()
	if err != nil {
		t.Skipf("chromium: %v: apt-get install chromium-headless-shell", err)
	}
	if o.Size.Width == 0 {
		o.Size = Desk
	}
	ctx, cancel := chromedp.NewContext(ctx, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	ctx, cancel2 := context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel2)
	tab := &Tab{Context: ctx, Size: o.Size, Dark: o.Dark, t: t, url: url, cancel: cancel}
	tab.must(chromedp.Listen(ctx, tab.listen))
	scheme := "light"
	if o.Dark {
		scheme = "dark"
	}
	tab.must(chromedp.Do(ctx, chromedp.EmulateViewport(o.Size.Width, o.Size.Height)))
	_, err = chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}})
	tab.must(err)
	if o.NoScript {
		_, err = chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		tab.must(err)
	}
	if cookie != "" {
		yes := true
		name, value, _ := strings.Cut(cookie, "=")
		_, err := chromedp.Call(ctx, network.SetCookie, network.SetCookieParams{Name: name, Value: value, URL: url, Path: "/", Secure: &yes, HTTPOnly: &yes, SameSite: network.CookieSameSiteStrict})
		tab.must(err)
	}
	return tab
}

func (tab *Tab) must(err error) {
	tab.t.Helper()
	if err != nil {
		tab.t.Fatal(err)
	}
}

func (tab *Tab) listen(ev any) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	switch ev := ev.(type) {
	case *log.EventEntryAdded:
		if ev.Entry.Level == log.EntryLevelError || ev.Entry.Level == log.EntryLevelWarning {
			tab.messages = append(tab.messages, ev.Entry.Text+" "+ev.Entry.URL)
		}
	case *runtime.EventExceptionThrown:
		tab.messages = append(tab.messages, fmt.Sprint(ev.ExceptionDetails.Text, " ", ev.ExceptionDetails.URL))
	case *network.EventRequestWillBeSent:
		tab.requests++
	case *network.EventLoadingFinished:
		tab.bytes += int(ev.EncodedDataLength)
	}
}

// Go opens a page of the hub and waits until it has loaded.
func (tab *Tab) Go(path string) {
	tab.t.Helper()
	tab.mu.Lock()
	tab.requests, tab.bytes = 0, 0
	tab.mu.Unlock()
	tab.must(chromedp.Do(tab.Context, chromedp.Navigate(tab.url+path)))
}

// Close closes the tab, as a person does. The browser cancels the requests that the tab waits for.
func (tab *Tab) Close() { tab.cancel() }

// Do runs chromedp actions in the tab. It fails the test if one of them fails.
func (tab *Tab) Do(actions ...chromedp.Action[chromedp.Void]) {
	tab.t.Helper()
	tab.must(chromedp.Do(tab.Context, actions...))
}

// Click clicks an element that opens another page, and waits until that page has loaded.
func (tab *Tab) Click(selector string) {
	tab.t.Helper()
	_, err := chromedp.RunResponse(tab.Context, chromedp.Click(selector))
	tab.must(err)
}

// Downloads allows the tab to save files, and returns the folder for these files.
func (tab *Tab) Downloads() string {
	tab.t.Helper()
	dir := tab.t.TempDir()
	_, err := chromedp.Call(tab.Context, cdpbrowser.SetDownloadBehavior, cdpbrowser.SetDownloadBehaviorParams{
		Behavior: cdpbrowser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir, BrowserContextID: chromedp.FromContext(tab.Context).BrowserContextID,
	})
	tab.must(err)
	return dir
}

// Eval evaluates a JavaScript expression in the page and returns its value.
func Eval[T any](tab *Tab, expression string) T {
	tab.t.Helper()
	v, err := chromedp.Run(tab.Context, chromedp.Evaluate[T](expression))
	tab.must(err)
	return v
}

// Until waits until a JavaScript expression is true. After ten seconds, it fails the test. An
// expression that throws an exception is not true yet: while the browser still reads a page, the
// page may lack the elements that the expression names.
func (tab *Tab) Until(expression string) {
	tab.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		is, err := chromedp.Run(tab.Context, chromedp.Evaluate[bool]("!!("+expression+")"))
		if exception := (*chromedp.ExceptionError)(nil); err != nil && !errors.As(err, &exception) {
			tab.t.Fatal(err)
		}
		if is {
			return
		}
		if time.Now().After(deadline) {
			tab.t.Fatalf("%s has not become true (%v): %.600s", expression, err, tab.Text())
		}
	}
}

// Text returns the page's text as a person sees it, without markup and hidden elements.
func (tab *Tab) Text() string {
	tab.t.Helper()
	return Eval[string](tab, "document.body.innerText")
}

// Path returns the path and the query of the page's address.
func (tab *Tab) Path() string {
	tab.t.Helper()
	return Eval[string](tab, "location.pathname + location.search")
}

// Type types keys into the element that has the focus.
func (tab *Tab) Type(keys string) {
	tab.t.Helper()
	tab.must(chromedp.Do(tab.Context, chromedp.KeyEvent(keys)))
}

// Cost returns the number of requests and of received bytes since the last call of Go.
func (tab *Tab) Cost() (requests, bytes int) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	return tab.requests, tab.bytes
}

// Ignore makes Check accept console messages that contain this text. Use it for expected messages,
// such as those about a response with an error status.
func (tab *Tab) Ignore(text string) { tab.ignored = append(tab.ignored, text) }

// Check fails the test if the page now has any of the faults that the package comment lists. `what`
// names the page in the error message.
func (tab *Tab) Check(what string) {
	tab.t.Helper()
	what = fmt.Sprintf("%s (%s, dark: %v)", what, tab.Size.Name, tab.Dark)
	for _, v := range tab.axe() {
		tab.t.Errorf("%s: %s", what, v)
	}
	if Eval[bool](tab, "document.documentElement.scrollWidth > window.innerWidth") {
		wide := Eval[string](tab, `const scrolls = e => e && (getComputedStyle(e).overflowX !== "visible" || scrolls(e.parentElement)); [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > window.innerWidth + 1 && getComputedStyle(e).position !== "fixed" && !scrolls(e.parentElement)).slice(0, 5).map(e => e.outerHTML.slice(0, 120)).join("\n")`)
		tab.t.Errorf("%s: the page is wider than its screen: %s", what, wide)
	}
	tab.mu.Lock()
	messages := tab.messages
	tab.messages = nil
	tab.mu.Unlock()
next:
	for _, m := range messages {
		for _, text := range tab.ignored {
			if strings.Contains(m, text) {
				continue next
			}
		}
		tab.t.Errorf("%s: on the console: %s", what, m)
	}
}

// axe runs axe-core with its rules for WCAG 2.2 AA and for best practice, and returns the
// violations.
func (tab *Tab) axe() (found []string) {
	tab.t.Helper()
	// Load axe-core through the debugger: the page's content security policy does not apply to the
	// debugger.
	if !Eval[bool](tab, "!!window.axe") {
		_, err := chromedp.Run(tab.Context, chromedp.Evaluate[any](axe+";1"))
		tab.must(err)
	}
	text, err := chromedp.Run(tab.Context, chromedp.Evaluate[string](`axe.run(document, {resultTypes: ["violations"], runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}).then(r => JSON.stringify(r.violations.map(v => ({id: v.id, help: v.help, nodes: v.nodes.slice(0, 3).map(n => n.html.slice(0, 160) + " " + (n.failureSummary || "").replace(/\s+/g, " ").slice(0, 240))}))))`, chromedp.EvalAwaitPromise))
	tab.must(err)
	var violations []struct {
		ID, Help string
		Nodes    []string
	}
	tab.must(json.Unmarshal([]byte(text), &violations))
	for _, v := range violations {
		found = append(found, fmt.Sprintf("axe: %s: %s: %s", v.ID, v.Help, strings.Join(v.Nodes, " | ")))
	}
	return found
}

// CheckFocus fails the test if a person without a pointer cannot use the page. Each link, button
// and field must take the focus in the order of the page, show a ring when it has the focus, and
// not be behind another element. CheckFocus moves the focus, so call it last.
func (tab *Tab) CheckFocus(what string) {
	tab.t.Helper()
	faults := Eval[[]string](tab, `(() => {
		const faults = [];
		const ring = (e, part) => { const s = getComputedStyle(e, part); return s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2; };
		for (const e of document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")) {
			if (e.tabIndex < 0 || e.disabled || !e.checkVisibility({ visibilityProperty: true })) continue;
			const fault = (text) => faults.push(text + ": " + e.outerHTML.slice(0, 160));
			if (e.tabIndex > 0) fault("out of the order of the page");
			e.focus({ focusVisible: true });
			if (document.activeElement !== e) { fault("takes no focus"); continue; }
			if (!ring(e) && !ring(e, "::after")) fault("has no ring");
			const box = e.getClientRects()[0];
			const at = box.height < 100 ? [.5] : [.05, .5, .95]; // if the element is high, it is enough that one of three points is visible
			const fronts = at.map((part) => document.elementFromPoint(box.x + box.width / 2, box.y + box.height * part));
			if (!fronts.some((f) => f && (e.contains(f) || f.contains(e)))) fault("is behind " + fronts[0]?.outerHTML.slice(0, 80));
		}
		return faults;
	})()`)
	for _, f := range faults {
		tab.t.Errorf("%s (%s, dark: %v): focus: %s", what, tab.Size.Name, tab.Dark, f)
	}
}

// Shot saves a picture of the screen as NAME-SIZE-SCHEME.png in the folder that GANGWAY_SCREENSHOTS
// names. If the page is taller than the screen, Shot also saves NAME-SIZE-SCHEME-whole.png, which
// shows the whole page. It does nothing if this variable is not set.
func (tab *Tab) Shot(name string) {
	tab.t.Helper()
	dir := os.Getenv("GANGWAY_SCREENSHOTS")
	if dir == "" {
		return
	}
	scheme := "light"
	if tab.Dark {
		scheme = "dark"
	}
	tab.must(os.MkdirAll(dir, 0o755))
	name = filepath.Join(dir, fmt.Sprintf("%s-%s-%s", name, tab.Size.Name, scheme))
	tab.picture(name + ".png")
	height := min(Eval[int64](tab, "document.documentElement.scrollHeight"), 16_000) // Chromium cannot draw much more
	if height <= tab.Size.Height {
		return
	}
	tab.Do(chromedp.EmulateViewport(tab.Size.Width, height))
	tab.picture(name + "-whole.png")
	tab.Do(chromedp.EmulateViewport(tab.Size.Width, tab.Size.Height))
}

// picture saves a picture of the screen.
func (tab *Tab) picture(path string) {
	tab.t.Helper()
	png, err := chromedp.Run(tab.Context, chromedp.CaptureScreenshot())
	tab.must(err)
	tab.must(os.WriteFile(path, png, 0o644))
}

// SignIn sends the sign-in form as a browser without JavaScript does, and returns the session's
// cookie.
func SignIn(t testing.TB, client *http.Client, url, nick, password string) string {
	t.Helper()
	form := "nick=" + nick + "&password=" + strings.ReplaceAll(password, " ", "+")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/sign-in", strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for _, c := range resp.Cookies() {
		if c.Name == "__Host-gangway" {
			return c.Name + "=" + c.Value
		}
	}
	t.Fatalf("sign-in: status %d and no cookie", resp.StatusCode)
	return ""
}

// ClickNth clicks the nth element, counted from 0, that matches the selector. The click must not
// open another page; for links, use Click.
func (tab *Tab) ClickNth(selector string, n int) {
	tab.t.Helper()
	nodes, err := chromedp.Run(tab.Context, chromedp.Nodes(selector))
	tab.must(err)
	if n >= len(nodes) {
		tab.t.Fatalf("%s: there are only %d elements", selector, len(nodes))
	}
	tab.must(chromedp.Do(tab.Context, chromedp.MouseClickNode(nodes[n])))
}

// Press clicks an element that does not open another page, such as a button for a download.
func (tab *Tab) Press(selector string) {
	tab.t.Helper()
	tab.must(chromedp.Do(tab.Context, chromedp.Click(selector)))
}

// Fill types a text into the field that matches the selector.
func (tab *Tab) Fill(selector, text string) {
	tab.t.Helper()
	tab.must(chromedp.Do(tab.Context, chromedp.SendKeys(selector, text)))
}
