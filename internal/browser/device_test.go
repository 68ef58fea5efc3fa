package browser_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/internal/browser"
	"gangway/internal/eventlog"
	"gangway/internal/fleet"
	"gangway/internal/race"
	"gangway/tcg"
	"gangway/wire"
	"gangway/wire/trail"

	"github.com/chromedp/cdproto/emulation"
	cdpage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// devicePages is a hub with devices for the tests of a device's page. Together, the devices show
// each way in which a hub can trust a device: by an EK certificate, by an approval, or without a
// TPM.
type devicePages struct {
	*hubWithDevices
	t        *testing.T
	hardware string // id of a device that reported everything that a device can report
	approved string // id of a device without an EK certificate, approved by ada
	plain    string // id of a device without a TPM
	conn     *fleet.Conn
	device   *fleet.Device
}

func newDevicePages(t *testing.T) *devicePages {
	t.Helper()
	p := &devicePages{hubWithDevices: newHub(t, 0), t: t}
	p.addHardware(p.maker)
	p.addApproved(p.maker)
	d := value(p.Store.CreateDevice(t.Context(), store.Device{ID: wire.NewID(), Nick: "shed-sensor", Owner: p.Owner.ID, Created: p.Now(), LastSeen: p.Now().Add(-3 * time.Hour)}, store.Hash{1}))(t)
	p.plain = d.ID
	return p
}

// value takes the two results of a call. It returns a function that returns `v`, or fails the test
// if `err` is not nil.
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

// addHardware onboards a device, which then reports everything that a device can report.
func (p *devicePages) addHardware(maker *fleet.Maker) {
	p.t.Helper()
	ctx, tok := p.t.Context(), p.Token(p.t, p.Owner, nil)
	hub := value(fleet.NewHub(tok))(p.t)
	p.device = value(fleet.New(maker, "H-2"))(p.t)
	p.device.Model, p.device.Serial = "NUC13ANHi5", "GEAN2260012B"
	certs := value(p.device.Onboard(ctx, hub, tok))(p.t)
	p.conn = value(hub.Dial(ctx, certs.TLS(p.device)))(p.t)
	p.t.Cleanup(func() { p.conn.Close() })
	p.hardware = p.idOf(p.device.Serial)
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

// boot makes the device send a boot measurement.
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

// addApproved onboards a device that has no EK certificate and that ada approves.
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
	p.approved = p.idOf(d.Serial)
}

// idOf returns the id of the device with this serial number.
func (p *devicePages) idOf(serial string) string {
	p.t.Helper()
	for _, d := range p.Devices(p.t, p.Owner) {
		if d.ProdSerial == serial {
			return d.ID
		}
	}
	p.t.Fatalf("no device has the serial %s", serial)
	return ""
}

// devicePath returns the path of one tab of a device's page.
func devicePath(id, query string) string {
	if query != "" {
		query = "?tab=" + query
	}
	return "/ui/devices/" + id + query
}

// Every tab of a device's page passes the same checks as in TestPages, in every size and colour
// scheme.
func TestDevicePages(t *testing.T) {
	race.Skip(t)
	if testing.Short() {
		t.Skip("opens each tab in Chromium twice; TestPersonWorksOnADevicePage covers the same checks")
	}
	p := newDevicePages(t)
	for _, one := range []struct{ name, id, query, want string }{
		{"summary", p.hardware, "", "Up for"},
		{"trust", p.hardware, "trust&link=ek", "What was checked"},
		{"trust-approved", p.approved, "trust", "ada approved"},
		{"trust-plain", p.plain, "trust", "not examined"},
		{"boots", p.hardware, "boots", "Accept this boot as the new reference"},
		{"boots-none", p.plain, "boots", "The boot was never measured"},
		{"revisions", p.hardware, "revisions&rev=1", "Changes since revision 0"},
		{"revisions-none", p.plain, "revisions", "No revision yet"},
		{"rollback", p.hardware, "revisions&post=1", "What changes, compared with revision 2"},
		{"metadata", p.hardware, "metadata", "Edit as JSON"},
		{"logs", p.hardware, "logs", "The gate opened"},
		{"events", p.hardware, "events", "device.boot-changed"},
		{"settings", p.hardware, "settings", "Type oslo-gate-1 to confirm"},
	} {
		t.Run(one.name, func(t *testing.T) {
			for _, o := range screens() {
				see(t, p.hubWithDevices, p.cookie, page{name: "device-" + one.name, path: devicePath(one.id, one.query), want: one.want}, o)
			}
		})
	}
}

// A person can use all functions of a device's page in a browser: accept a boot, set metadata, roll
// back, follow the log, and delete the device.
func TestPersonWorksOnADevicePage(t *testing.T) {
	p := newDevicePages(t)
	tab := browser.Open(t, p.URL, p.cookie, browser.Options{})
	tab.Ignore("status of 400") // wrong input
	notice := func(what string) {
		t.Helper()
		if !strings.Contains(tab.Text(), what) {
			t.Errorf("the page lacks %q: %.600s", what, tab.Text())
		}
		tab.Check(what)
	}
	tab.Go(devicePath(p.hardware, ""))
	tab.Click(".device-head .button.primary")
	tab.Click(`button[value="accept"]`)
	notice("The measured boot is the reference now.")
	tab.Click(`form[action$="/boot/request"] button`)
	notice("The measurement is requested.")

	tab.Go(devicePath(p.hardware, "metadata"))
	tab.Do(chromedp.SendKeys("#f-key", "floor"), chromedp.SendKeys("#f-value", "3"))
	tab.Click(`button[value="set"]`)
	notice(`The key "floor" is set.`)
	tab.Click(`.notice form button`)
	notice("The key has its earlier value again.")
	tab.Do(chromedp.SetValue("#f-text", `{"broken`))
	tab.Click(`button[value="replace"]`)
	notice("The text cannot be read")
	if typed := browser.Eval[string](tab, `document.querySelector("#f-text").value`); typed != `{"broken` {
		t.Errorf("the typed text is gone: %q", typed)
	}
	tab.Shot("device-metadata-error")

	tab.Go(devicePath(p.hardware, "revisions&rev=0"))
	tab.Click(`a[href*="post=0"]`)
	tab.Click("#preview button.primary")
	notice("Revision 3 is posted.")
	tab.Click(`form[action$="/cancel"] button`)
	notice("The revision is cancelled.")

	tab.Go(devicePath(p.hardware, "logs&live=1"))
	p.send("POST", "/logs", []map[string]any{{"msg": "a line that came later", "lvl": "INFO", "src": "agent"}})
	tab.Until(`document.querySelector(".log").innerText.includes("a line that came later")`)
	tab.Check("the live log")

	tab.Go(devicePath(p.hardware, "settings"))
	tab.Do(chromedp.SetValue("#f-nick", "no blanks"))
	tab.Click(`form[action$="/rename"] button`)
	notice("characters that are not allowed")
	tab.Do(chromedp.SendKeys("#f-confirm", "oslo-gate-1"))
	tab.Click(`form[action$="/delete"] button`)
	notice("oslo-gate-1 is deleted.")
}

// Without JavaScript, a device's page displays everything, and its forms work.
func TestDevicePageWithoutJavaScript(t *testing.T) {
	p := newDevicePages(t)
	tab := browser.Open(t, p.URL, p.cookie, browser.Options{NoScript: true})
	for _, query := range []string{"", "trust", "boots", "revisions", "metadata", "logs", "events", "settings"} {
		tab.Go(devicePath(p.hardware, query))
		if !strings.Contains(tab.Text(), "oslo-gate-1") {
			t.Errorf("%s: %.300s", query, tab.Text())
		}
	}
	tab.Do(chromedp.SetValue("#f-nick", "bergen-gate-1"))
	tab.Click(`form[action$="/rename"] button`)
	if !strings.Contains(tab.Text(), "bergen-gate-1") {
		t.Errorf("%.300s", tab.Text())
	}
}

// A device's page prints its evidence on exactly one sheet of paper.
func TestDevicePagePrintsOneSheetOfEvidence(t *testing.T) {
	p := newDevicePages(t)
	tab := browser.Open(t, p.URL, p.cookie, browser.Options{})
	for name, id := range map[string]string{"hardware": p.hardware, "approved": p.approved, "plain": p.plain} {
		tab.Go(devicePath(id, "trust"))
		sheet := value(chromedp.Call(tab.Context, cdpage.PrintToPDF, cdpage.PrintToPDFParams{PaperWidth: 8.27, PaperHeight: 11.69}))(t)
		if n := bytes.Count(sheet.Data, []byte("/Type /Page\n")); n != 1 {
			t.Errorf("%s: %d sheets", name, n)
		}
		value(chromedp.Call(tab.Context, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: "print"}))(t)
		tab.Shot("device-print-" + name)
		if text := tab.Text(); !strings.Contains(text, "Evidence of device") || strings.Contains(text, "Settings") {
			t.Errorf("%s: %.300s", name, text)
		}
		value(chromedp.Call(tab.Context, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{}))(t)
	}
}
