package browser_test

import (
	"encoding/pem"
	"strings"
	"testing"

	"gangway/internal/browser"

	"github.com/chromedp/chromedp"
)

// A person can add lines to the EK list, search for a line, remove the line, and undo the removal.
func TestEKListInBrowser(t *testing.T) {
	h := newHub(t, 0)
	tab := browser.Open(t, h.URL, h.cookie, browser.Options{})
	tab.Go("/ui/trust/eks")
	for _, value := range []string{strings.Repeat("ab", 32), strings.Repeat("cd", 32), "12:34:56"} {
		tab.Fill("#f-value", value)
		tab.Fill("#f-note", "pallet <7>")
		tab.Click(`form[action$="/add"] .button:not(.small)`)
	}
	tab.Check("a list")
	tab.Shot("eks")
	tab.Go("/ui/trust/eks?q=cd")
	if n := browser.Eval[int](tab, `document.querySelectorAll("tbody tr").length`); n != 1 {
		t.Errorf("%d lines begin with cd", n)
	}
	tab.Click(`tbody .acts button`)
	lines := func() int { return browser.Eval[int](tab, `document.querySelectorAll("tbody tr").length`) }
	if n := lines(); n != 2 {
		t.Errorf("%d lines are left", n)
	}
	tab.Click(`.notice form button`)
	if n := lines(); n != 3 || !strings.Contains(tab.Text(), strings.Repeat("cd", 32)) {
		t.Errorf("%d lines after the undo", n)
	}
}

// A person can paste a certificate into the page, and the page says whether the hub's trust store
// has this certificate. This also works on a phone without JavaScript.
func TestTrustCheckInBrowser(t *testing.T) {
	h := newHub(t, 0)
	for _, o := range []browser.Options{{}, {Size: browser.Phone, NoScript: true}, {Dark: true}} {
		tab := browser.Open(t, h.URL, h.cookie, o)
		tab.Go("/ui/trust")
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.maker.Root.Raw}))
		tab.Do(chromedp.SetValue("#f-pem", text))
		tab.Click(`#check-certificate .button`)
		if !strings.Contains(tab.Text(), "This certificate is in the hub's trust store.") {
			t.Errorf("%.800s", tab.Text())
		}
		if !o.NoScript {
			tab.Check("a checked certificate")
		}
		tab.Shot("trust-checked")
	}
}
