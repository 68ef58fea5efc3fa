package browser_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/internal/browser"
	"gangway/wire"
)

// A person can create a join token with only the keyboard, download its file, and see it in the
// list. A device can onboard with this file. When the person opens the token's page again, the page
// does not show the secret.
func TestTokenByKeyboardInBrowser(t *testing.T) {
	h := newHub(t, 0)
	before := len(h.tokens(t))
	tab := browser.Open(t, h.URL, h.cookie, browser.Options{})
	dir := tab.Downloads()
	tab.Go("/ui/overview")
	tab.Type("gn")
	tab.Until(`location.pathname === "/ui/onboard" && document.readyState === "complete"`)
	focus := func(selector string) {
		t.Helper()
		for range 60 {
			if browser.Eval[bool](tab, `!!document.activeElement?.matches(`+"`"+selector+"`"+`)`) {
				return
			}
			tab.Type("\t")
		}
		t.Fatalf("the tabulator key does not reach %s", selector)
	}
	focus(`a[href="/ui/onboard/new"]`)
	tab.Type("\r")
	tab.Until(`location.pathname === "/ui/onboard/new" && document.readyState === "complete"`)
	focus(`[name=nick]`)
	tab.Type("by keyboard")
	focus(`[name=max-uses]`)
	tab.Type("many\r")
	tab.Until(`document.querySelector("#e-max-uses")`)
	tab.Ignore("status of 400")
	tab.Check("a wrong field")
	tab.Shot("token-new-wrong")
	if got := browser.Eval[string](tab, `document.querySelector("[name=nick]").value`); got != "by keyboard" {
		t.Errorf("the nick is %q after a mistake", got)
	}
	focus(`[name=max-uses]`)
	browser.Eval[bool](tab, `document.activeElement.select(), true`)
	tab.Type("3\r")
	tab.Until(`document.querySelector("#download")`)
	tab.Check("the new join token")
	tab.Shot("token-made")
	focus(`#download`)
	tab.Type("\r")
	file := filepath.Join(dir, "device_autojointoken.json")
	var text []byte
	for deadline := time.Now().Add(10 * time.Second); len(text) == 0; time.Sleep(50 * time.Millisecond) {
		var err error
		if text, err = os.ReadFile(file); err != nil && time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	tok, err := wire.ParseTokenFile(text)
	if err != nil {
		t.Fatal(err)
	}
	if tokens := h.tokens(t); len(tokens) != before+1 || tokens[0].ID != tok.ID || tokens[0].MaxUses != 3 || tokens[0].Nick != "by keyboard" {
		t.Errorf("%d join tokens; the newest is %+v", len(tokens), tokens[0])
	}
	if path := tab.Path(); strings.Contains(path, "=") {
		t.Errorf("the address is %s", path)
	}
	tab.Type("gn")
	tab.Until(`location.pathname === "/ui/onboard" && document.readyState === "complete" && document.body.innerText.includes("by keyboard")`)
	tab.Type("j\r")
	tab.Until(`location.pathname.startsWith("/ui/onboard/tokens/")`)
	if strings.Contains(tab.Text(), tok.Token) {
		t.Error("the token's page shows the secret")
	}
}

// A person with a phone and without JavaScript can create a join token and disable it.
func TestTokenWithoutScriptInBrowser(t *testing.T) {
	h := newHub(t, 0)
	for _, dark := range []bool{false, true} {
		tab := browser.Open(t, h.URL, h.cookie, browser.Options{Size: browser.Phone, Dark: dark, NoScript: true})
		tab.Go("/ui/onboard/new")
		tab.Fill(`input[name=nick]`, "phone")
		tab.Click(`form.stack button`)
		tab.Shot("token-made")
		tab.Click(`form.made a`)
		tab.Fill(`input[name=confirm]`, "phone")
		tab.Click(`form.confirm button`)
		if tok := h.tokens(t)[0]; tok.Nick != "phone" || !tok.Disabled {
			t.Errorf("%+v", tok)
		}
		tab.Shot("token-disabled")
	}
}
