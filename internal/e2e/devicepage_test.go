package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/eventlog"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/tcg"
	"gangway/wire"
	"gangway/wire/trail"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// devicePages is a hub with devices whose pages show every kind of trust, in a browser.
type devicePages struct {
	*hubtest.Hub
	t        *testing.T
	ctx      context.Context
	axe      string
	hardware string // ids: a device with everything
	approved string // without an EK certificate, approved by ada
	plain    string // without a TPM
	conn     *fleet.Conn
	device   *fleet.Device
}

func newDevicePages(t *testing.T) *devicePages {
	t.Helper()
	maker := value(fleet.NewMaker("good", fleet.MakerOptions{}))(t)
	p := &devicePages{Hub: hubtest.New(t, maker.Roots(), maker.Intermediates()), t: t, ctx: browser(t, 1280, 900)}
	p.axe = string(value(os.ReadFile(filepath.Join("..", "browser", "axe", "axe.min.js")))(t))
	p.addHardware(maker)
	p.addApproved(maker)
	d := value(p.Store.CreateDevice(t.Context(), store.Device{ID: wire.NewID(), Nick: "shed-sensor", Owner: p.Owner.ID, Created: p.Now(), LastSeen: p.Now().Add(-3 * time.Hour)}, store.Hash{1}))(t)
	p.plain = d.ID
	p.signIn()
	return p
}

// value returns a value, or fails the test.
func value[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (p *devicePages) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// addHardware onboards a device, and lets it report all that a device reports.
func (p *devicePages) addHardware(maker *fleet.Maker) {
	p.t.Helper()
	ctx, tok := p.t.Context(), p.Token(p.t, p.Owner, nil)
	hub := value(fleet.NewHub(tok))(p.t)
	p.device = value(fleet.New(maker, "H-2"))(p.t)
	p.device.Model, p.device.Serial = "NUC13ANHi5", "GEAN2260012B"
	certs := value(p.device.Onboard(ctx, hub, tok))(p.t)
	p.conn = value(hub.Dial(ctx, certs.TLS(p.device)))(p.t)
	p.t.Cleanup(func() { p.conn.Close() })
	p.hardware = deviceOf(p.t, p.Hub, p.device.Serial)
	p.must(p.Store.RenameDevice(ctx, p.Owner.ID, p.hardware, "oslo-gate-1"))
	p.boot(eventlog.Boot(true, "linux 6.12.1", "quiet"), 1)
	p.send("PATCH", "/device/meta", map[string]any{
		"gangway.version": "0.4.0", "gangway.hostname": "gate1", "gangway.kernel": "6.12.1-gangway", "gangway.arch": "amd64",
		"pantavisor.cpumodel": "13th Gen Intel(R) Core(TM) i5-1340P",
		"interfaces":          map[string]any{"eth0.ipv4": []string{"10.20.0.17"}, "eth0.ipv6": []string{"fe80::9e6b:ff:fe12:3456"}, "eth0.mac": []string{"9c:6b:00:12:34:56"}, "lo.ipv4": []string{"127.0.0.1"}},
		"storage":             map[string]any{"total": 500107862016, "free": 412316860416},
		"sysinfo":             map[string]any{"totalram": 16710639616, "freeram": 9932111872, "mem_unit": 1, "uptime": 1209832},
	})
	p.must(p.Store.PatchUserMeta(ctx, p.Owner.ID, p.hardware, map[string]any{"site": "oslo", "rack": 7, "contact": map[string]any{"name": "Kari", "phone": "+47 22 00 00 00"}}))
	p.send("POST", "/trails/", map[string]any{"#spec": "pantavisor-service-system@1", "bsp/run.json": map[string]any{"linux": "kernel"}, "app/run.json": map[string]any{"version": "1.4", "args": []string{"--port", "80"}}})
	for i, v := range []string{"1.5", "1.6"} {
		state := value(trail.ParseState([]byte(fmt.Sprintf(`{"#spec":"pantavisor-service-system@1","bsp/run.json":{"linux":"kernel"},"app/run.json":{"version":%q,"args":["--port","80"]},"extra%d.json":{}}`, v, i))))(p.t)
		value(p.Store.AddRevision(ctx, store.Revision{Device: p.hardware, Owner: p.Owner.ID, Rev: -1, Committer: wire.AccountPRN + p.Owner.ID, CommitMsg: "Version " + v + " of the gate's controller", Status: trail.StatusNew,
			StateSum: state.Sum(), State: state.JSON, Meta: []byte("{}"), Progress: trail.NewProgress(trail.StatusNew, 0, ""), Posted: p.Now(), Modified: p.Now()}, 1<<40))(p.t)
	}
	p.send("PUT", "/trails/"+p.hardware+"/steps/1/progress", map[string]any{"status": "DONE", "progress": 100, "status-msg": "Installed and tested"})
	p.send("PUT", "/trails/"+p.hardware+"/steps/2/progress", map[string]any{"status": "DOWNLOADING", "progress": 40, "status-msg": "2 of 5 objects"})
	var lines []map[string]any
	for i := range 60 {
		lines = append(lines, map[string]any{"tsec": i, "lvl": []string{"INFO", "DEBUG", "WARN", "ERROR"}[i%4], "src": []string{"agent", "kernel", "app/gate"}[i%3], "msg": fmt.Sprintf("The gate opened for badge %d after %d ms", 4711+i, 180+i)})
	}
	p.send("POST", "/logs", lines)
	p.boot(eventlog.Boot(true, "linux 6.12.2", "quiet"), 2)
}

// boot lets the device send a boot measurement.
func (p *devicePages) boot(l eventlog.Log, resets uint32) {
	p.t.Helper()
	a := value(p.conn.Do(p.t.Context(), "GET", "/device/boot", nil))(p.t)
	var c wire.BootChallenge
	p.must(json.Unmarshal(a.Body, &c))
	r := wire.BootReport{Nonce: c.Nonce, Bank: uint16(tcg.AlgSHA256), PCRs: l.PCRs(), EventLog: l.Bytes()}
	var err error
	r.Attest, r.Signature, err = p.device.Quote(wire.BootQualifying(r.Nonce, r.EventLog), tcg.AlgSHA256, r.PCRs, resets)
	p.must(err)
	p.send("POST", "/device/boot", r)
}

func (p *devicePages) send(method, path string, body any) {
	p.t.Helper()
	text := value(json.Marshal(body))(p.t)
	if a := value(p.conn.Do(p.t.Context(), method, path, text))(p.t); a.Status != 200 {
		p.t.Fatalf("%s %s: %d %s", method, path, a.Status, a.Body)
	}
}

// addApproved onboards a device without an EK certificate, which ada approves.
func (p *devicePages) addApproved(maker *fleet.Maker) {
	p.t.Helper()
	ctx, tok := p.t.Context(), p.Token(p.t, p.Owner, nil)
	hub := value(fleet.NewHub(tok))(p.t)
	d := value(fleet.New(maker, "H-2"))(p.t)
	d = value(d.WithoutCertificate())(p.t)
	d.Model, d.Serial = "Raspberry Pi 5", "100000003d1e2f"
	body := value(d.Request(tok, fleet.RequestChange{}))(p.t)
	a := value(hub.Post(ctx, "/onboard", bytes.NewReader(body)))(p.t)
	if a.Status != 202 {
		p.t.Fatalf("%d %s", a.Status, a.Body)
	}
	waiting := value(p.Store.WaitingDevices(ctx, p.Owner.ID, p.Now(), 10))(p.t)
	value(p.Service.Decide(ctx, p.Owner, waiting[0].DeviceID, true, nil, "127.0.0.1"))(p.t)
	value(d.Onboard(ctx, hub, tok))(p.t)
	p.approved = deviceOf(p.t, p.Hub, d.Serial)
}

func (p *devicePages) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// signIn signs ada in, and watches for violations of the content security policy on every page.
func (p *devicePages) signIn() {
	p.t.Helper()
	p.do(chromedp.Navigate("about:blank"))
	value(chromedp.Call(p.ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{
		Source: `window.violations = []; document.addEventListener("securitypolicyviolation", (e) => window.violations.push(e.violatedDirective + " " + e.blockedURI + " " + e.sample))`,
	}))(p.t)
	p.do(chromedp.Navigate(p.URL), chromedp.WaitVisible("#password"), chromedp.SetValue("#nick", "ada"), chromedp.SendKeys("#password", hubtest.Password+"\r"),
		chromedp.WaitVisible(".rail"))
}

// open opens a page of a device, and checks it: no violation of the policy, nothing wider than the
// screen, and nothing that axe-core finds.
func (p *devicePages) open(id, query string, want ...string) {
	p.t.Helper()
	address := p.URL + "/ui/devices/" + id
	if query != "" {
		address += "?tab=" + query
	}
	p.do(chromedp.Navigate(address), chromedp.WaitReady("h1"))
	p.check(query, want...)
}

// check checks the page that the browser shows.
func (p *devicePages) check(what string, want ...string) {
	p.t.Helper()
	text := value(chromedp.Run(p.ctx, chromedp.Evaluate[string](`document.body.innerText`)))(p.t)
	for _, w := range want {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(w)) {
			p.t.Errorf("%s: the page lacks %q: %s", what, w, brief.Of(text))
		}
	}
	if broken := value(chromedp.Run(p.ctx, chromedp.Evaluate[string](`window.violations.join("; ")`)))(p.t); broken != "" {
		p.t.Errorf("%s: the page violates its policy: %s", what, broken)
	}
	if wide := value(chromedp.Run(p.ctx, chromedp.Evaluate[string](`document.documentElement.scrollWidth > window.innerWidth ? [...document.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > window.innerWidth + 1).map((e) => e.tagName + "." + e.className).slice(0, 4).join(" ") || "something" : ""`)))(p.t); wide != "" {
		p.t.Errorf("%s: the page is wider than the screen: %s", what, wide)
	}
	yes := true
	r := value(chromedp.Call(p.ctx, runtime.Evaluate, runtime.EvaluateParams{Expression: p.axe + `; axe.run(document, {resultTypes: ["violations"]}).then((r) => r.violations.map((v) => v.id + ": " + v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160) + " " + n.failureSummary).join(" | ")).join("\n"))`, AwaitPromise: &yes, ReturnByValue: &yes}))(p.t)
	var found string
	p.must(json.Unmarshal([]byte(r.Result.Value), &found))
	if found != "" {
		p.t.Errorf("%s: axe-core: %s", what, found)
	}
}

// look sets the size of the screen and the colour scheme, and saves a picture.
func (p *devicePages) look(width, height int64, scheme string) {
	p.t.Helper()
	p.do(chromedp.EmulateViewport(width, height))
	value(chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}}))(p.t)
}

// shot saves a picture of the whole page in the folder GANGWAY_SHOTS, if it is set.
func (p *devicePages) shot(name string) {
	p.t.Helper()
	dir := os.Getenv("GANGWAY_SHOTS")
	if dir == "" {
		return
	}
	png := value(chromedp.Run(p.ctx, chromedp.FullScreenshot(100)))(p.t)
	p.must(os.WriteFile(filepath.Join(dir, "device-"+name+".png"), png, 0o644))
}

// Every tab of a device's page, in light, dark and on a phone: no violation of the content security
// policy, and nothing that axe-core finds. Not parallel: the browser has time limits.
func TestDevicePageInABrowser(t *testing.T) {
	needFullRun(t)
	p := newDevicePages(t)
	for _, screen := range []struct {
		name, scheme string
		w, h         int64
	}{{"light", "light", 1280, 900}, {"dark", "dark", 1280, 900}, {"phone", "light", 390, 844}} {
		p.look(screen.w, screen.h, screen.scheme)
		for _, tab := range []struct {
			name, id, query string
			want            []string
		}{
			{"summary", p.hardware, "", []string{"oslo-gate-1", "Why trust it", "boot changed", "10.20.0.17", "Up for"}},
			{"trust", p.hardware, "trust&link=ek", []string{"What was checked", "ek-key", "Serial number"}},
			{"trust-approved", p.approved, "trust", []string{"decided by a person", "ada approved"}},
			{"trust-plain", p.plain, "trust", []string{"not examined"}},
			{"boots", p.hardware, "boots", []string{"What changed", "Accept this boot", "The kernel"}},
			{"revisions", p.hardware, "revisions&rev=1", []string{"Changes since revision 0", "app/run.json", "Roll back to revision 1", "downloading"}},
			{"rollback", p.hardware, "revisions&post=1", []string{"Roll back to revision 1", "What changes"}},
			{"metadata", p.hardware, "metadata", []string{"site", "Edit as JSON"}},
			{"logs", p.hardware, "logs", []string{"The gate opened"}},
			{"events", p.hardware, "events", []string{"device.boot-changed"}},
			{"settings", p.hardware, "settings", []string{"Delete the device", "Type oslo-gate-1"}},
			{"boots-none", p.plain, "boots", []string{"never measured"}},
			{"revisions-none", p.plain, "revisions", []string{"No revision yet"}},
		} {
			p.open(tab.id, tab.query, tab.want...)
			p.shot(tab.name + "-" + screen.name)
		}
	}
}

// waitNotice waits until the browser shows a page with this notice. A form leads there by a redirect.
func (p *devicePages) waitNotice(text string) {
	p.t.Helper()
	script := fmt.Sprintf(`document.readyState == "complete" && (document.querySelector(".notice.ok")?.innerText ?? "").includes(%q)`, text)
	for range 100 {
		if shown, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](script)); err == nil && shown {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// A person does in a browser what a device's page offers: accepts a boot, sets metadata, rolls back,
// follows the log live, and deletes the device. Not parallel: the browser has time limits.
func TestPersonWorksOnADevicePageInABrowser(t *testing.T) {
	needFullRun(t)
	p := newDevicePages(t)
	notice := func(what string) { p.waitNotice(what); p.check(what, what) }
	p.open(p.hardware, "")
	p.do(chromedp.Click(".device-head .button.primary"), chromedp.WaitVisible(`button[value="accept"]`), chromedp.Click(`button[value="accept"]`))
	notice("The measured boot is the reference now.")
	p.do(chromedp.Click(`form[action$="/boot/request"] button`))
	notice("The device is asked to measure its boot")

	p.open(p.hardware, "metadata")
	p.do(chromedp.SendKeys("#f-key", "floor"), chromedp.SendKeys("#f-value", "3\r"))
	notice(`The key "floor" is set.`)
	p.do(chromedp.SetValue("#f-text", `{"broken`), chromedp.Click(`button[value="replace"]`), chromedp.WaitVisible("#e-text"))
	p.check("a broken edit", "The text cannot be read")
	if typed := value(chromedp.Run(p.ctx, chromedp.Evaluate[string](`document.querySelector("#f-text").value`)))(t); typed != `{"broken` {
		t.Errorf("the typed text is gone: %q", typed)
	}
	p.shot("metadata-error")

	p.open(p.hardware, "revisions&rev=0")
	p.do(chromedp.Click(`a[href*="post=0"]`), chromedp.WaitVisible("#preview button.primary"), chromedp.Click("#preview button.primary"))
	notice("Revision 3 is posted.")
	p.do(chromedp.Click(`form[action$="/cancel"] button`))
	notice("The revision is cancelled.")

	p.open(p.hardware, "logs&live=1", "Live:")
	p.send("POST", "/logs", []map[string]any{{"msg": "a line that came later", "lvl": "INFO", "src": "agent"}})
	value(chromedp.Run(p.ctx, chromedp.Poll[bool](`document.querySelector(".log").innerText.includes("a line that came later")`)))(t)
	p.check("the live log", "a line that came later")

	p.open(p.hardware, "settings")
	p.do(chromedp.SetValue("#f-nick", "no blanks"), chromedp.Click(`form[action$="/rename"] button`), chromedp.WaitVisible("#e-nick"))
	p.check("a wrong nick", "characters that are not allowed")
	p.do(chromedp.SendKeys("#f-confirm", "oslo-gate-1\r"))
	notice("oslo-gate-1 is deleted.")
}

// Printed, the page of a device is a certificate of its evidence on one sheet.
func TestDevicePagePrintsOneSheetOfEvidence(t *testing.T) {
	needFullRun(t)
	p := newDevicePages(t)
	for _, id := range []string{p.hardware, p.approved, p.plain} {
		p.open(id, "trust")
		r := value(chromedp.Call(p.ctx, page.PrintToPDF, page.PrintToPDFParams{PaperWidth: 8.27, PaperHeight: 11.69}))(t)
		if n := bytes.Count(r.Data, []byte("/Type /Page\n")); n != 1 {
			t.Errorf("%d sheets", n)
		}
		value(chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: "print"}))(t)
		p.shot("print-" + id)
		value(chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{}))(t)
	}
}
