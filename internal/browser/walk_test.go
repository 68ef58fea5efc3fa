package browser_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/browser"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/internal/process"
	"gangway/internal/swtpm"
	"gangway/wire"

	"github.com/chromedp/chromedp"
)

// newcomer is a person who knows only the hub's address, a nick and a password, and who follows the
// instructions on the screen. The newcomer finds links, buttons, fields and commands by their
// visible text.
type newcomer struct {
	*browser.Tab
	t *testing.T
}

// find marks the only visible element with this text and returns a selector for it. `kinds` is a
// CSS selector that limits the kinds of elements, such as "a, button". If `part` is not empty, the
// element must be in the smallest article, section or menu that contains the text `part` or has the
// name `part`.
func (n *newcomer) find(kinds, text, part string) string {
	n.t.Helper()
	arguments, err := json.Marshal([]string{kinds, text, part})
	if err != nil {
		n.t.Fatal(err)
	}
	// A link may end with a count, such as "Waiting 2".
	found := browser.Eval[int](n.Tab, `(([kinds, text, part]) => {
		const words = e => (e.innerText || e.getAttribute("aria-label") || "").replace(/\s+/g, " ").trim();
		const parts = part ? [...document.querySelectorAll("article, section, nav")].filter(e => e.checkVisibility() && (e.getAttribute("aria-label") === part || words(e).includes(part))) : [document];
		const smallest = parts.filter(p => !parts.some(q => q !== p && p.contains(q)));
		document.querySelectorAll("[data-walk]").forEach(e => e.removeAttribute("data-walk"));
		const all = smallest.flatMap(p => [...p.querySelectorAll(kinds)]).filter(e => e.checkVisibility() && (words(e) === text || words(e).replace(/ \d+$/, "") === text));
		if (all.length === 1) all[0].setAttribute("data-walk", "");
		return all.length;
	})(`+string(arguments)+`)`)
	if found != 1 {
		n.t.Fatalf("the screen has %d times %q, and one was expected: %.1500s", found, text, n.Text())
	}
	return "[data-walk]"
}

// The method `follows` clicks a link or a button that opens another page.
func (n *newcomer) follows(text string) {
	n.t.Helper()
	n.Click(n.find("a, button", text, ""))
}

// followsIn does the same as the method `follows` for a link or a button in the part of the page
// with this text.
func (n *newcomer) followsIn(part, text string) {
	n.t.Helper()
	n.Click(n.find("a, button", text, part))
}

// The method `presses` clicks a button or a summary element that does not open another page.
func (n *newcomer) presses(text string) {
	n.t.Helper()
	n.Press(n.find("button, summary", text, ""))
}

// The method `fills` types into the field with this label.
func (n *newcomer) fills(label, text string) {
	n.t.Helper()
	n.find("label", label, "")
	browser.Eval[any](n.Tab, `(e => { e.removeAttribute("data-walk"); e.control.setAttribute("data-walk", ""); })(document.querySelector("[data-walk]"))`)
	if browser.Eval[string](n.Tab, `document.querySelector("[data-walk]").type`) == "file" {
		n.Do(chromedp.SetUploadFiles("[data-walk]", []string{text}))
		return
	}
	n.Fill("[data-walk]", text)
}

// The method `reads` fails the test if the screen lacks a text.
func (n *newcomer) reads(texts ...string) {
	n.t.Helper()
	screen := n.Text()
	for _, text := range texts {
		if !strings.Contains(screen, text) {
			n.t.Fatalf("the screen lacks %q: %.1500s", text, screen)
		}
	}
}

// The method `copies` returns the only command or text on the screen that begins with the words
// `begins`.
func (n *newcomer) copies(begins string) string {
	n.t.Helper()
	all := browser.Eval[[]string](n.Tab, `[...document.querySelectorAll("pre code")].filter(e => e.checkVisibility()).map(e => e.innerText)`)
	all = slices.DeleteFunc(all, func(text string) bool { return !strings.HasPrefix(text, begins) })
	if len(all) != 1 {
		n.t.Fatalf("the screen has %d commands that begin with %q: %.1500s", len(all), begins, n.Text())
	}
	return all[0]
}

// machine is a computer with a software TPM and the real agent.
type machine struct {
	t     *testing.T
	dir   string // working folder; its folder bin has the programs that the page installs
	extra string // options that replace the machine's firmware and /dev/tpmrm0
}

// newMachine makes a computer. It differs from a real computer only in the paths of its TPM, its
// state and its hook, and in how often the agent asks for revisions.
func newMachine(t *testing.T, tpm *swtpm.TPM) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir()}
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(m.dir, "bin")+"/", "gangway/cmd/gangway-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m.extra = fmt.Sprintf(" --tpm %s --state %s --model 'Gate computer' --serial GC-0001", tpm.Address(), filepath.Join(m.dir, "state"))
	return m
}

// command returns a command line of the page, ready to run on the machine.
func (m *machine) command(line string) *exec.Cmd {
	c := exec.Command("sh", "-c", "exec "+line+m.extra)
	c.Dir, c.Env = m.dir, append(os.Environ(), "PATH="+filepath.Join(m.dir, "bin")+":"+os.Getenv("PATH"))
	return c
}

// A newcomer signs in to an empty hub and onboards three machines, one of which must be approved.
// The newcomer updates a machine, rolls the update back, and reads why the hub refused a fourth
// machine. The newcomer follows only the instructions on the screen. The hub records each action
// once.
func TestNewcomerInBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the agent and waits for updates")
	}
	if missing := swtpm.Missing(); missing != "" {
		t.Skip(missing)
	}
	tpm := value(swtpm.New(t.Context(), t.TempDir(), swtpm.Options{EK: swtpm.P384}))(t)
	t.Cleanup(tpm.Stop)
	maker := value(goodMaker())(t)
	hub := hubtest.New(t, append(maker.Roots(), tpm.Roots()...), append(maker.Intermediates(), tpm.Issuer()))
	n := &newcomer{browser.Open(t, hub.URL, "", browser.Options{}), t}
	downloads := n.Downloads()

	n.Go("/")
	n.fills("Nick or e-mail", "ada")
	n.fills("Password", hubtest.Password)
	n.follows("Sign in")
	n.reads("No device yet")
	n.follows("Onboard the first machine")
	n.reads("No join token yet")
	n.follows("New token")
	n.fills("Nick", "three machines")
	n.fills("Maximum number of devices", "3")
	n.follows("Create the join token")
	n.presses("Download device_autojointoken.json")
	file := filepath.Join(downloads, "device_autojointoken.json")
	token := value(wire.ParseTokenFile(arrived(t, file)))(t)
	enrol, stay := n.copies("gangway-agent onboard"), n.copies("gangway-agent run")

	first := newMachine(t, tpm)
	if err := os.Rename(file, filepath.Join(first.dir, "device_autojointoken.json")); err != nil {
		t.Fatal(err)
	}
	if out, err := first.command(enrol).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", enrol, err, out)
	}
	agent := first.runs(stay)
	n.follows("Devices")
	n.reads("1 device", "Gate computer", "GC-0001")

	// Two more machines send requests while the newcomer watches. One of the two machines must wait
	// for approval.
	to := value(fleet.NewHub(token))(t)
	t.Cleanup(to.Close)
	emulated := emulatedMachines(t, maker)
	value(emulated["GC-0002"].Onboard(t.Context(), to, token))(t)
	n.Until(`document.body.innerText.includes("1 new device was onboarded.")`)
	n.follows("Show")
	n.reads("2 devices", "GC-0002")
	asks := func() int {
		return value(to.Post(t.Context(), "/onboard", bytes.NewReader(value(emulated["GC-0003"].Request(token, fleet.RequestChange{}))(t))))(t).Status
	}
	if status := asks(); status != 202 {
		t.Fatalf("the machine without a certificate should wait: status %d", status)
	}
	n.follows("Overview")
	n.follows("1 machine waits for your decision")
	n.reads("Approving means:", "serial GC-0003")
	n.followsIn("serial GC-0003", "Approve")
	n.reads("No machine waits")
	value(emulated["GC-0003"].Onboard(t.Context(), to, token))(t)

	// The token's limit is reached, so the hub refuses the fourth machine.
	fourth := emulated["GC-0004"]
	certs := value(fourth.Enrol(t.Context(), to, value(fourth.Request(token, fleet.RequestChange{}))(t)))(t)
	if a := value(fourth.Activate(t.Context(), to, certs))(t); a.Code() != onboard.CodeTokenUsedUp {
		t.Fatalf("the fourth machine: %d %s", a.Status, a.Body)
	}
	n.follows("Overview")
	n.reads("3 devices", onboard.CodeTokenUsedUp)
	n.Shot("walk-refused")

	n.updates(first, agent, stay)
	n.Check("the end of the walk")
	once(t, hub, token)
}

// emulatedMachines returns three machines by their serial numbers. GC-0003 has no EK certificate.
func emulatedMachines(t *testing.T, maker *fleet.Maker) map[string]*fleet.Device {
	t.Helper()
	all := map[string]*fleet.Device{}
	for _, serial := range []string{"GC-0002", "GC-0003", "GC-0004"} {
		d := value(fleet.New(maker, "H-2"))(t)
		if serial == "GC-0003" {
			d = value(d.WithoutCertificate())(t)
		}
		d.Model, d.Serial = "Gate computer", serial
		all[serial] = d
	}
	return all
}

// The function `arrived` waits until a download is complete, and returns the bytes of the file.
func arrived(t *testing.T, file string) []byte {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if text, err := os.ReadFile(file); err == nil && len(text) > 0 {
			return text
		} else if time.Now().After(deadline) {
			t.Fatalf("the file was not downloaded: %v", err)
		}
	}
}

// The method `runs` starts a command of the page that runs in the background.
func (m *machine) runs(line string) *process.Process {
	m.t.Helper()
	p := value(process.Start(m.command(line + " --poll 1s --report-every 1s")))(m.t)
	m.t.Cleanup(func() { p.Stop(5 * time.Second); <-p.Done() })
	return p
}

// The method `updates` posts a state on the page of the first machine, and waits until the machine
// has installed the state. Then it rolls the machine back to the former state.
func (n *newcomer) updates(m *machine, agent *process.Process, stay string) {
	n.t.Helper()
	n.follows("Devices")
	// The machine's row has its serial number; the nick is a link in the same row.
	nick := browser.Eval[string](n.Tab, `[...document.querySelectorAll("tbody tr")].find(r => r.innerText.includes("GC-0001"))?.querySelector("a")?.innerText || ""`)
	n.follows(nick)
	n.reads("Chain of trust")
	n.followsIn("Parts of the device", "Revisions")
	n.reads("No revision yet")
	hooked := n.copies(stay + " --hook ")
	agent.Stop(5 * time.Second)
	<-agent.Done()
	const named = "/usr/local/lib/gangway/hook"
	if !strings.Contains(hooked, named) {
		n.t.Fatalf("the command has no path of a hook: %s", hooked)
	}
	hook, calls := filepath.Join(m.dir, "hook"), filepath.Join(m.dir, "calls")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\necho \"$1 $GANGWAY_REV\" >>"+calls+"\n"), 0o755); err != nil {
		n.t.Fatal(err)
	}
	m.runs(strings.ReplaceAll(hooked, named, hook))
	n.Until(`document.body.innerText.includes("Post a state")`)

	n.follows("0")
	n.presses("Show the state as text")
	state := n.copies("{")
	changed := strings.Replace(state, `"#spec"`, `"gate/run.json": {"version": "1.5"}, "#spec"`, 1)
	if changed == state {
		n.t.Fatalf("the state has no #spec: %s", state)
	}
	file := filepath.Join(m.dir, "state.json")
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.fills("State, a JSON file", file)
	n.fills("Message", "Version 1.5")
	n.follows("Show the changes")
	n.reads("gate/run.json", "added")
	n.Shot("walk-preview")
	n.follows("Post the revision")
	n.reads("Revision 1 is posted.")
	browser.Eval[any](n.Tab, `window.same = 1`) // a reload would delete this variable
	n.done(1)
	n.Until(`!document.body.innerText.includes("Cancel it")`)
	n.Shot("walk-done")

	n.follows("0")
	n.follows("Roll back to revision 0")
	n.reads("gate/run.json", "removed")
	n.follows("Roll back")
	browser.Eval[any](n.Tab, `window.same = 1`)
	n.done(2)
	n.Shot("walk-rolled-back")
	if got, want := string(value(os.ReadFile(calls))(n.t)), "install 1\ntest 1\ncommit 1\ninstall 2\ntest 2\ncommit 2\n"; got != want {
		n.t.Errorf("the hook was called %q, and %q was expected", got, want)
	}
}

// The method `done` waits until the open page of a revision says, without a reload, that the device
// runs the revision.
func (n *newcomer) done(rev int) {
	n.t.Helper()
	n.Until(fmt.Sprintf(`/^Revision %d\s+done/i.test(document.querySelector("#revision-head").innerText)`, rev))
	if !browser.Eval[bool](n.Tab, `window.same === 1`) {
		n.t.Errorf("the page of revision %d was loaded again", rev)
	}
}

// The function `once` checks that the hub recorded each action exactly once.
func once(t *testing.T, hub *hubtest.Hub, token *wire.TokenFile) {
	t.Helper()
	if uses := hub.Uses(t, token); uses != 3 {
		t.Errorf("the token was used %d times", uses)
	}
	serials := map[string]int{}
	for _, d := range hub.Devices(t, hub.Owner) {
		serials[d.ProdSerial]++
	}
	if want := map[string]int{"GC-0001": 1, "GC-0002": 1, "GC-0003": 1}; fmt.Sprint(serials) != fmt.Sprint(want) {
		t.Errorf("the onboarded devices are %v, want %v", serials, want)
	}
	kinds, codes := map[string]int{}, map[string]int{}
	for _, e := range value(hub.Store.Events(t.Context(), store.EventFilter{Owner: hub.Owner.ID, Limit: 1000}))(t) {
		kinds[e.Kind]++
		if e.Code != "" {
			codes[e.Code]++
		}
	}
	for kind, want := range map[string]int{"token.created": 1, "device.activated": 3, "device.waiting": 1, "device.approved": 1, "device.denied": 0, "activation.refused": 1, "trail.created": 1, "step.created": 2} {
		if kinds[kind] != want {
			t.Errorf("%s happened %d times, and %d were expected: %v", kind, kinds[kind], want, kinds)
		}
	}
	if codes[onboard.CodeTokenUsedUp] != 1 {
		t.Errorf("the refusals are %v", codes)
	}
}
