package e2e_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/internal/brief"
	"gangway/internal/browser"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"

	"github.com/chromedp/chromedp"
)

// chromium starts a headless Chromium with a screen of this size.
func chromium(t *testing.T, width, height int) context.Context {
	t.Helper()
	path, err := browser.Path()
	if err != nil {
		t.Skip("chromium is not installed: apt-get install chromium-headless-shell")
	}
	alloc, cancel := browser.Allocate(path, t.TempDir(), chromedp.WindowSize(width, height))
	t.Cleanup(cancel)
	ctx, cancel2 := chromedp.NewContext(alloc)
	t.Cleanup(cancel2)
	ctx, cancel3 := context.WithTimeout(ctx, 4*time.Minute)
	t.Cleanup(cancel3)
	// Emulate a screen of the right width, because a browser window has a minimum width.
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(int64(width), int64(height))); err != nil {
		t.Fatal(err)
	}
	return ctx
}

// screenshot saves a picture of the page in the folder that GANGWAY_SHOTS names. It does nothing if
// this variable is not set.
func screenshot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := os.Getenv("GANGWAY_SHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		t.Fatal(err)
	}
}

// deviceOf returns the id of the owner's device with this serial number.
func deviceOf(t *testing.T, h *hubtest.Hub, serial string) string {
	t.Helper()
	for _, d := range h.Devices(t, h.Owner) {
		if d.ProdSerial == serial {
			return d.ID
		}
	}
	t.Fatalf("no device has serial %s", serial)
	return ""
}

// A person can sign in with a real browser and see their devices, or that there are none, on a
// desktop and on a phone. The test is not parallel, because the browser has time limits.
func TestPersonSeesTheirDevicesInABrowser(t *testing.T) {
	needFullRun(t)
	maker, err := fleet.NewMaker("good", fleet.MakerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := hubtest.New(t, maker.Roots(), maker.Intermediates())
	for _, screen := range []struct {
		name string
		w, h int
	}{{"desk", 1280, 800}, {"phone", 390, 844}} {
		ctx := chromium(t, screen.w, screen.h)
		see := func(what string, want ...string) {
			t.Helper()
			text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText`))
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range want {
				if !strings.Contains(strings.ToLower(text), strings.ToLower(w)) {
					t.Errorf("%s, %s: the page lacks %q: %s", screen.name, what, w, brief.Of(text))
				}
			}
			scroll, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`document.documentElement.scrollWidth > window.innerWidth`))
			if err != nil {
				t.Fatal(err)
			}
			if scroll {
				t.Errorf("%s, %s: the page is wider than the screen", screen.name, what)
			}
			screenshot(t, ctx, screen.name+"-"+what)
		}
		signIn := func(nick, password string) {
			t.Helper()
			err := chromedp.Do(ctx,
				chromedp.WaitVisible("#password"),
				chromedp.SetValue("#nick", nick), chromedp.SendKeys("#password", password+"\r"),
				chromedp.Sleep(300*time.Millisecond), chromedp.WaitReady("h1"))
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := chromedp.Do(ctx, chromedp.Navigate(h.URL)); err != nil {
			t.Fatal(err)
		}
		see("sign-in", "Sign in", "Nick or e-mail")
		signIn("ada", "not my password")
		see("wrong-password", "The name or the password is wrong.")
		signIn("ada", hubtest.Password)
		if screen.name == "desk" {
			see("empty", "No device yet", "gangway token create")
			tok := h.Token(t, h.Owner, nil)
			hub, err := fleet.NewHub(tok)
			if err != nil {
				t.Fatal(err)
			}
			for _, ek := range []string{"L-1", "H-2", "H-3"} {
				d, err := fleet.New(maker, ek)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := d.Onboard(t.Context(), hub, tok); err != nil {
					t.Fatal(err)
				}
			}
			if err := chromedp.Do(ctx, chromedp.Reload()); err != nil {
				t.Fatal(err)
			}
		}
		// A device without an EK certificate waits for the owner's decision.
		stranger, err := fleet.New(maker, "H-2")
		if err != nil {
			t.Fatal(err)
		}
		if stranger, err = stranger.WithoutCertificate(); err != nil {
			t.Fatal(err)
		}
		stranger.Model, stranger.Serial = "Gate computer", "GC-"+screen.name
		tok := h.Token(t, h.Owner, nil)
		hub, err := fleet.NewHub(tok)
		if err != nil {
			t.Fatal(err)
		}
		body, err := stranger.Request(tok, fleet.RequestChange{})
		if err != nil {
			t.Fatal(err)
		}
		if a, err := hub.Post(t.Context(), "/onboard", bytes.NewReader(body)); err != nil || a.Status != 202 {
			t.Fatalf("POST /onboard: %v: %s, want status 202", err, brief.Of(a))
		}
		if err := chromedp.Do(ctx, chromedp.Reload()); err != nil {
			t.Fatal(err)
		}
		see("waits", "1 machine waits for your decision")
		if err := chromedp.Do(ctx, chromedp.Click(`.needs a[href="/ui/onboard/waiting"]`), chromedp.WaitVisible("#waiting-h")); err != nil {
			t.Fatal(err)
		}
		see("waiting", "Machines that wait for your decision", stranger.Serial, "The request has no EK certificate", "Approve", "Deny")
		if err := chromedp.Do(ctx, chromedp.Click(`button[value="deny"]`), chromedp.WaitNotPresent("#waiting-h"), chromedp.Click(`a[href="/ui/onboard/waiting?show=denied"]`), chromedp.WaitVisible(".badge.gone")); err != nil {
			t.Fatal(err)
		}
		see("denied", "denied", stranger.Serial)
		if err := chromedp.Do(ctx, chromedp.Click(`button[value="approve"]`), chromedp.WaitNotPresent("#waiting-h")); err != nil {
			t.Fatal(err)
		}
		if _, err := stranger.Onboard(t.Context(), hub, tok); err != nil {
			t.Fatal(err)
		}
		if err := h.Store.DeleteDevice(t.Context(), h.Owner.ID, deviceOf(t, h, stranger.Serial), h.Now()); err != nil {
			t.Fatal(err)
		}
		if err := chromedp.Do(ctx, chromedp.Navigate(h.URL+"/ui/overview")); err != nil {
			t.Fatal(err)
		}
		see("overview", "3 devices", "Recent events", "active")
		if err := chromedp.Do(ctx, chromedp.Navigate(h.URL+"/ui/devices")); err != nil {
			t.Fatal(err)
		}
		see("devices", "3 devices", "FAKE software emulation", h.Devices(t, h.Owner)[0].Nick)
		if err := chromedp.Do(ctx, chromedp.Click(".account summary"), chromedp.Click(".account form button"), chromedp.WaitVisible("#password")); err != nil {
			t.Fatal(err)
		}
	}
}
