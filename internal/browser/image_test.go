package browser_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/internal/browser"
)

// slowBuilder is a fake image builder for the hub. It stops twice until the test lets it continue,
// so that the test can check the page in the meantime.
type slowBuilder struct {
	began    chan struct{} // receives a value when a build begins
	go1, go2 chan struct{} // closed to begin the build, and to send the second half of the image
}

func newSlowBuilder() *slowBuilder {
	return &slowBuilder{began: make(chan struct{}, 10), go1: make(chan struct{}), go2: make(chan struct{})}
}

// The page asks for the progress of a build at least twice in the time `polls`.
const polls = 2 * time.Second

// slowImage is the size in bytes of the images of slowBuilder.
const slowImage = 6 << 20

func (*slowBuilder) Missing() string              { return "" }
func (*slowBuilder) Check(api.ImageOptions) error { return nil }

func (b *slowBuilder) Build(ctx context.Context, _ api.ImageOptions, _ []byte, _ int64, step func(string)) (*api.Image, error) {
	step("Packing drivers and programs")
	b.began <- struct{}{}
	select {
	case <-b.go1:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	half := bytes.NewReader(make([]byte, slowImage/2))
	rest := bytes.NewReader(make([]byte, slowImage/2))
	return &api.Image{Size: slowImage, ReadCloser: io.NopCloser(io.MultiReader(half, readerFunc(func(p []byte) (int, error) {
		if rest.Len() == slowImage/2 {
			<-b.go2
		}
		return rest.Read(p)
	})))}, nil
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// The function `downloaded` waits until the file `path` has the size `size`.
func downloaded(t *testing.T, path string, size int64) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		info, err := os.Stat(path)
		if err == nil && info.Size() == size {
			return
		}
		if time.Now().After(deadline) {
			there, _ := filepath.Glob(filepath.Dir(path) + "/*")
			t.Fatalf("%v, %v; there are %v", info, err, there)
		}
	}
}

// A person can build an image on the page. The same page displays the progress of the build, and
// then the browser downloads the file.
//
// While a tab waits for the response to a form, a test cannot inspect the tab in Chromium. So a
// script in this tab records what the page displays, and the test inspects another tab.
func TestImageWithProgressInBrowser(t *testing.T) {
	h := newHub(t, 1)
	tab := browser.Open(t, h.URL, h.cookie, browser.Options{})
	dir := tab.Downloads()
	tab.Go("/ui/onboard/image")
	tab.Fill(`input[name=max-uses]`, "5")
	browser.Eval[bool](tab, `window.shown = [], new MutationObserver(() => {
		shown.push(document.getElementById("building")?.innerText + (document.querySelector("#image-form .primary").disabled ? " (disabled)" : ""));
	}).observe(document.querySelector("main"), {childList: true, subtree: true, attributes: true}), true`)
	tab.Press("#image-form .primary")
	<-h.images.began
	for _, o := range []browser.Options{{}, {Dark: true}, {Size: browser.Phone}} {
		other := browser.Open(t, h.URL, h.cookie, o)
		other.Go("/ui/onboard/image")
		other.Until(`document.querySelector("#building[data-running]").innerText.includes("Packing drivers")`)
		other.Check("an image is built")
		other.Shot("image-building")
	}
	time.Sleep(polls)
	close(h.images.go1)
	time.Sleep(polls)
	close(h.images.go2)
	downloaded(t, filepath.Join(dir, "installer.img"), slowImage)
	tab.Until(`document.getElementById("building").innerText.includes("The image was sent")`)
	tab.Until(`!document.querySelector("#image-form .primary").disabled`)
	for _, words := range []string{"Packing drivers and programs (disabled)", "Sending 6.0 MiB"} {
		if !browser.Eval[bool](tab, `shown.some((text) => text.replace(/\s+/g, " ").includes(`+"`"+words+"`"+`))`) {
			t.Errorf("the page has not shown %q: %s", words, browser.Eval[string](tab, `JSON.stringify(shown)`))
		}
	}
	browser.Eval[bool](tab, `scrollTo(0, document.body.scrollHeight), true`)
	tab.Check("the image was sent")
	tab.Shot("image-sent")
	if tok := h.tokens(t)[0]; tok.MaxUses != 5 || tok.Disabled {
		t.Errorf("%+v", tok)
	}
}

// If a person closes the page while an image is built, the hub stops the build and disables the
// image's join token.
//
// The test does not open another page in the same tab instead: chromedp could take the events of
// the form's request for those of the new page, and return ERR_ABORTED.
func TestImageOfAClosedPageInBrowser(t *testing.T) {
	h := newHub(t, 1)
	before := len(h.tokens(t))
	tab := browser.Open(t, h.URL, h.cookie, browser.Options{})
	tab.Go("/ui/onboard/image")
	tab.Press("#image-form .primary")
	<-h.images.began
	if tokens := h.tokens(t); len(tokens) != before+1 || tokens[0].Disabled {
		t.Fatalf("%d tokens", len(tokens))
	}
	tab.Close()
	for deadline := time.Now().Add(10 * time.Second); !h.tokens(t)[0].Disabled; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the join token is valid although nobody has its image")
		}
	}
}

// Without JavaScript, a person can fill in the same form and download the image.
func TestImageWithoutScriptInBrowser(t *testing.T) {
	h := newHub(t, 1)
	close(h.images.go1)
	close(h.images.go2)
	tab := browser.Open(t, h.URL, h.cookie, browser.Options{Size: browser.Phone, NoScript: true})
	dir := tab.Downloads()
	tab.Go("/ui/onboard/image")
	tab.Press(`#image-form .primary`)
	downloaded(t, filepath.Join(dir, "installer.img"), slowImage)
}
