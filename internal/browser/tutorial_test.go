package browser_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gangway/internal/browser"
	"gangway/internal/cast"
	"gangway/internal/swtpm"

	"github.com/chromedp/chromedp"
)

// tutorial is a run of the commands of docs/tutorial.md. It makes the recording and the pictures of
// this document.
type tutorial struct {
	t      *testing.T
	docs   string // folder docs of the repository
	shell  *cast.Shell
	cookie string
	url    string
	nick   string // the real nick of the device whose nick on the page is brave-otter-3fa2
	device string // path of the device's page
}

// TestTutorialPictures types the commands of docs/tutorial.md, with the real programs and the real
// demo, and makes the document's recording and pictures. It runs only for `make tutorial`.
func TestTutorialPictures(t *testing.T) {
	docs := os.Getenv("GANGWAY_TUTORIAL")
	if docs == "" {
		t.Skip("it writes into docs/: run it with make tutorial")
	}
	if missing := swtpm.Missing(); missing != "" {
		t.Fatal(missing)
	}
	dir, programs := t.TempDir(), t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", programs+"/", "gangway/cmd/gangway") // no commit in the pictures
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w := &tutorial{t: t, docs: docs, shell: cast.NewShell(dir, "Gangway: onboard three machines, update one, roll it back", 132)}
	w.shell.Env = []string{"PATH=" + programs + ":/usr/bin:/bin:/usr/sbin:/sbin", "HOME=" + dir, "TMPDIR=" + dir, "LC_ALL=C.UTF-8"}
	for _, line := range w.commands() {
		w.types(line, dir, programs)
	}
	recorded := filepath.Join(docs, "recordings", "tutorial.cast")
	w.must(w.shell.Save(recorded))
	text, err := os.ReadFile(recorded)
	w.must(err)
	r, err := cast.Parse(text)
	w.must(err)
	var moving bytes.Buffer
	w.must(r.WriteSVG(&moving, 3*time.Second))
	w.must(os.WriteFile(filepath.Join(docs, "tutorial", "terminal.svg"), moving.Bytes(), 0o644))
}

func (w *tutorial) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%v\n%s", err, w.shell.Text())
	}
}

// commands returns the command lines of docs/tutorial.md. It omits the first command, which builds
// the programs.
func (w *tutorial) commands() []string {
	w.t.Helper()
	page, err := os.ReadFile(filepath.Join(w.docs, "tutorial.md"))
	w.must(err)
	var lines []string
	for _, block := range strings.Split(string(page), "\n```sh\n")[1:] {
		block, _, _ = strings.Cut(block, "\n```")
		lines = append(lines, strings.Split(block, "\n")...)
	}
	if !strings.HasPrefix(lines[0], "make -s build") {
		w.t.Fatalf("the first command is %q", lines[0])
	}
	return lines[1:]
}

// The method `types` runs a command of docs/tutorial.md and takes the screenshots for this command.
func (w *tutorial) types(line, dir, programs string) {
	w.t.Helper()
	switch {
	case line == "gangway demo":
		w.demo(dir, filepath.Join(programs, "gangway"))
		return
	case strings.HasPrefix(line, "export "):
		w.shell.Type(line)
		w.shell.Env = append(w.shell.Env, strings.TrimPrefix(line, "export "))
		return
	}
	w.must(w.shell.Run(strings.ReplaceAll(line, "brave-otter-3fa2", w.nick), ""))
	switch {
	case strings.HasPrefix(line, "gangway device rename"):
		w.pictures("devices", "/ui/devices")
	case strings.HasPrefix(line, "gangway device show"):
		w.find()
		w.pictures("device", w.device)
	case strings.Contains(line, "Version 1.5"):
		w.pictures("update", w.device+"?tab=revisions&rev=1")
		w.pictures("rollback", w.device+"?tab=revisions&post=0")
	}
}

// demo starts the demo, records the demo's output, and signs in to the demo's hub.
func (w *tutorial) demo(dir, program string) {
	w.t.Helper()
	w.shell.Type("gangway demo")
	cmd := exec.Command(program, "demo")
	cmd.Dir, cmd.Env = dir, w.shell.Env
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	shown := make(chan struct{})
	go func() { w.shell.Show(out); close(shown) }()
	w.t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		<-shown
		if err := cmd.Wait(); err != nil {
			w.t.Error(err)
		}
	})
	var said []string
	says := regexp.MustCompile(`(?s)(\S+) +[0-9a-f]{24} +captain.*The page: +(https://\S+)/\s.*Password: +(\S+)\s.*Ctrl-C ends`)
	for deadline := time.Now().Add(time.Minute); said == nil; time.Sleep(100 * time.Millisecond) {
		if said = says.FindStringSubmatch(w.shell.Text()); said == nil && time.Now().After(deadline) {
			w.t.Fatalf("the demo does not begin: %s", w.shell.Text())
		}
	}
	w.nick, w.url = said[1], said[2]
	w.shell.Hide(said[3])
	w.cookie = browser.SignIn(w.t, loopback(w.t), w.url, "captain", said[3])
	for deadline := time.Now().Add(time.Minute); strings.Count(w.shell.Text(), "Created the trail") < 3; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("the devices begin no trails: %s", w.shell.Text())
		}
	}
}

// find stores the path of the page of the device oslo-gate-1.
func (w *tutorial) find() {
	w.t.Helper()
	tab := browser.Open(w.t, w.url, w.cookie, browser.Options{})
	tab.Go("/ui/devices?q=oslo-gate-1")
	w.device = browser.Eval[string](tab, `document.querySelector("tbody a").getAttribute("href")`)
}

// pictures takes two screenshots of a page of the hub, one in each colour scheme.
func (w *tutorial) pictures(name, path string) {
	w.t.Helper()
	for _, dark := range []bool{false, true} {
		tab := browser.Open(w.t, w.url, w.cookie, browser.Options{Size: browser.Size{Name: "tutorial", Width: 1280, Height: 720}, Dark: dark})
		tab.Go(path)
		shot, err := chromedp.Run(tab.Context, chromedp.CaptureScreenshot())
		w.must(err)
		scheme := "light"
		if dark {
			scheme = "dark"
		}
		w.must(os.WriteFile(filepath.Join(w.docs, "tutorial", name+"-"+scheme+".png"), shot, 0o644))
	}
}

// The tutorial's animated picture begins with the first command. At the end of the animation, the
// last prompt is on the screen, and the first command has scrolled off the top.
func TestTutorialTerminalMovesInBrowser(t *testing.T) {
	file := value(filepath.Abs("../../docs/tutorial/terminal.svg"))(t)
	tab := browser.Open(t, "file://"+file, "", browser.Options{})
	tab.Go("")
	at := func(seconds int) (lines int, top, bottom float64) {
		t.Helper()
		browser.Eval[any](tab, fmt.Sprintf(`document.documentElement.pauseAnimations(), document.documentElement.setCurrentTime(%d)`, seconds))
		seen := browser.Eval[[]float64](tab, `[...document.querySelectorAll("text")].filter(e => getComputedStyle(e).visibility === "visible").map(e => e.getBoundingClientRect().top)`)
		return len(seen), seen[0], seen[len(seen)-1]
	}
	height := browser.Eval[float64](tab, `document.documentElement.getBoundingClientRect().height`)
	if lines, top, _ := at(0); lines != 1 || top < 0 || top > height/10 {
		t.Errorf("at the beginning, there are %d lines from %.0f on", lines, top)
	}
	before, _, _ := at(20)
	lines, top, bottom := at(10_000)
	all := browser.Eval[int](tab, `document.querySelectorAll("text").length`)
	if before <= 1 || before >= lines || lines != all || top > 0 || bottom < height/2 || bottom > height {
		t.Errorf("at the end, there are %d of %d lines, from %.0f to %.0f of %.0f; after 20 s there were %d", lines, all, top, bottom, height, before)
	}
}
