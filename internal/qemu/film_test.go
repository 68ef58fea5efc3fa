package qemu_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"gangway/image/stick"
	"gangway/internal/browser"
	"gangway/internal/hubtest"
	"gangway/internal/qemu"

	"github.com/chromedp/chromedp"
)

// `every` is the time between two pictures that the test takes. The film shows framesPerSecond
// pictures a second, so one second of the film shows twenty seconds of the run.
const (
	framesPerSecond = 10
	every           = 2 * time.Second
)

// film takes pictures of a machine's screen and of a page of the hub at the same moments.
type film struct {
	t      *testing.T
	m      *qemu.Machine
	dir    string
	url    string
	cookie string
	frames int

	tab    *browser.Tab
	opened time.Time
}

// TestFilm makes docs/tutorial/stick.webm: a machine starts from the stick, installs the system and
// onboards. The film shows the hub's page beside the machine's screen. The test runs only for `make
// tutorial`.
func TestFilm(t *testing.T) {
	docs := os.Getenv("GANGWAY_TUTORIAL")
	if docs == "" {
		t.Skip("it writes into docs/: run it with make tutorial")
	}
	s := newSite(t, stick.Config{})
	t.Cleanup(browser.Stop)
	f := &film{t: t, dir: t.TempDir(), url: s.hub.URL}
	cfg := s.with(true)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // safe: the hub is in this test
	t.Cleanup(transport.CloseIdleConnections)
	f.cookie = browser.SignIn(t, &http.Client{Transport: transport}, s.hub.URL, "ada", hubtest.Password)
	var ctx context.Context
	f.m, ctx = boot(t, cfg)
	f.until(ctx, "/ui/overview", `gangway-init .*: this boot is good: gangway-a.efi`)
	f.takes("/ui/overview", 20)
	s.listed(t)
	f.takes("/ui/devices", 20)
	f.takes("/ui/devices/"+s.hub.Devices(t, s.hub.Owner)[0].ID, 30)
	f.m.Stop()
	f.develop(filepath.Join(docs, "tutorial", "stick.webm"))
}

// The method `until` takes pictures until the machine has printed a line.
func (f *film) until(ctx context.Context, path, pattern string) {
	f.t.Helper()
	line := regexp.MustCompile(pattern)
	for next := time.Now(); ; next = next.Add(every) {
		if _, _, ok := f.m.Find(line); ok {
			return
		}
		f.take(path)
		select {
		case <-ctx.Done():
			f.t.Fatalf("the machine did not print %q:\n%s", pattern, f.m.Tail())
		case <-f.m.Off:
			f.t.Fatalf("the machine switched itself off:\n%s", f.m.Tail())
		case <-time.After(time.Until(next)):
		}
	}
}

// The method `takes` takes `n` pictures of the screen and of one page.
func (f *film) takes(path string, n int) {
	f.t.Helper()
	f.tab = nil
	for range n {
		f.take(path)
	}
}

// The method `take` takes a picture of the screen and one of the page.
func (f *film) take(path string) {
	f.t.Helper()
	if f.tab == nil || time.Since(f.opened) > time.Minute { // a tab may be used for two minutes
		f.tab, f.opened = browser.Open(f.t, f.url, f.cookie, browser.Options{Size: browser.Size{Name: "film", Width: 1000, Height: 750}, Dark: true}), time.Now()
		f.tab.Go(path)
	}
	name := filepath.Join(f.dir, fmt.Sprintf("%%s-%04d.png", f.frames))
	if err := f.m.Screenshot(f.t.Context(), fmt.Sprintf(name, "screen")); err != nil {
		f.t.Fatalf("%v: the machine's last lines:\n%s", err, f.m.Tail())
	}
	page, err := chromedp.Run(f.tab.Context, chromedp.CaptureScreenshot())
	if err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(fmt.Sprintf(name, "page"), page, 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.frames++
}

// develop makes the film from the pictures.
func (f *film) develop(out string) {
	f.t.Helper()
	pictures := func(name string) []string {
		return []string{"-framerate", fmt.Sprint(framesPerSecond), "-i", filepath.Join(f.dir, name+"-%04d.png")}
	}
	const half = "scale=800:600:force_original_aspect_ratio=decrease,pad=800:600:(ow-iw)/2:(oh-ih)/2,setsar=1"
	args := append(append([]string{"-y", "-loglevel", "error"}, pictures("screen")...), pictures("page")...)
	args = append(args, "-filter_complex", "[0]"+half+"[a];[1]"+half+"[b];[a][b]hstack", "-c:v", "libvpx-vp9", "-crf", "40", "-b:v", "0", "-deadline", "good", "-cpu-used", "4", "-pix_fmt", "yuv420p", "-an", out)
	if said, err := exec.CommandContext(f.t.Context(), "ffmpeg", args...).CombinedOutput(); err != nil {
		f.t.Fatalf("ffmpeg: %v: %s", err, said)
	}
	info, err := os.Stat(out)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Logf("%d pictures, %s, %d bytes", f.frames, every, info.Size())
	if info.Size() > 5<<20 {
		f.t.Error("the film is larger than 5 MiB")
	}
}
