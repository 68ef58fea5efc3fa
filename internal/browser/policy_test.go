package browser_test

import (
	"strings"
	"testing"

	"gangway/hub/store"
	"gangway/internal/browser"
)

// While a person types a policy, the editor displays the policy's errors. The preview lists the
// devices that the policy affects, and disappears when the text changes. After a new preview, the
// person can put the policy into force.
func TestPolicyEditorInBrowser(t *testing.T) {
	h := newHub(t, 3)
	nick := h.Devices(t, h.Owner)[0].Nick
	tab := browser.Open(t, h.URL, h.cookie, browser.Options{})
	tab.Go("/ui/trust/policy")
	tab.Fill("#f-text", "version: 1\nunknwon_maker: ask\n")
	tab.Until(`document.getElementById("check").innerText.includes("unknwon_maker not found")`)
	tab.Check("a mistake")
	tab.Shot("policy-mistake")
	browser.Eval[bool](tab, `document.getElementById("f-text").value = "", true`)
	tab.Fill("#f-text", "version: 1\nrules: [{then: refuse, reason: recalled by the maker}]\n")
	tab.Until(`document.getElementById("check").innerText.includes("All TPMs are refused (reason: recalled by the maker).")`)
	tab.Click(`button[value=preview]`)
	tab.Until(`location.hash === "#preview"`) // the page has scrolled to the preview
	if text := tab.Text(); !strings.Contains(text, "3 would be refused at the next onboarding") || !strings.Contains(text, nick) {
		t.Errorf("%.1500s", text)
	}
	tab.Check("a preview")
	browser.Eval[bool](tab, `document.getElementById("preview-h").scrollIntoView(), true`)
	tab.Shot("policy-preview")
	tab.Fill("#f-text", "# more\n")
	tab.Until(`!document.querySelector("button[value=put]")`)
	tab.Click(`button[value=preview]`)
	tab.Click(`button[value=put]`)
	if !strings.Contains(tab.Text(), "The policy is in force") {
		t.Errorf("%.800s", tab.Text())
	}
	if p, err := h.Store.Policy(t.Context(), h.Owner.ID); err != nil || !strings.Contains(p.Text, "recalled by the maker") || !strings.Contains(p.Text, "# more") {
		t.Errorf("%v %q", err, p.Text)
	}
	tab.Shot("policy-in-force")
}

// A person can edit the policy on a phone without JavaScript. If somebody else changed the policy
// in the meantime, the hub does not overwrite that change, and the page keeps the typed text.
func TestPolicyEditorWithoutScriptInBrowser(t *testing.T) {
	h := newHub(t, 1)
	tab := browser.Open(t, h.URL, h.cookie, browser.Options{Size: browser.Phone, NoScript: true})
	tab.Go("/ui/trust/policy")
	tab.Fill("#f-text", "version: 1\nrules: [{then: ask}]\n")
	tab.Click(`button[value=preview]`)
	if text := tab.Text(); !strings.Contains(text, "1 would wait for your decision") {
		t.Errorf("%.1500s", text)
	}
	browser.Eval[bool](tab, `document.getElementById("preview-h").scrollIntoView(), true`)
	tab.Shot("policy-preview")
	if err := h.Store.PutPolicy(t.Context(), store.Policy{Owner: h.Owner.ID, Text: "version: 1 # by another\n", Updated: h.Now()}); err != nil {
		t.Fatal(err)
	}
	tab.Ignore("status of 409")
	tab.Click(`button[value=put]`)
	if text := tab.Text(); !strings.Contains(text, "changed since the preview") || !strings.Contains(text, "# by another") {
		t.Errorf("%.1500s", text)
	}
	tab.Shot("policy-changed")
	if typed := browser.Eval[string](tab, `document.getElementById("f-text").value`); !strings.Contains(typed, "then: ask") {
		t.Errorf("the typed text is gone: %q", typed)
	}
}
