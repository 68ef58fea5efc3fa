package browser_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"gangway/internal/browser"
	"gangway/internal/hubtest"

	"github.com/chromedp/chromedp"
)

// isSignedIn reports whether the hub still accepts an access token or API token.
func (h *hubWithDevices) isSignedIn(t *testing.T, bearer string) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL+"/devices/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimPrefix(bearer, "__Host-gangway="))
	resp, err := h.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// A person can create an API token, sees its secret only once, and can revoke it.
func TestAPITokenInBrowser(t *testing.T) {
	h := newHub(t, 0)
	tab := browser.Open(t, h.URL, h.cookie, browser.Options{})
	tab.Go("/ui/settings/api-tokens")
	tab.Fill("#f-name", "ci")
	tab.Do(chromedp.SetValue("#f-scope-devices", "devices.readonly"))
	tab.Click(`form[action="/ui/settings/api-tokens"] .primary`)
	secret := regexp.MustCompile(`gwt_[A-Z2-7]+`).FindString(tab.Text())
	if secret == "" || !h.isSignedIn(t, secret) || strings.Contains(tab.Path(), secret) {
		t.Fatalf("%q is no API token: %.500s", secret, tab.Text())
	}
	tab.Check("the secret")
	tab.Shot("settings-api-token-made")
	tab.Go("/ui/settings/api-tokens")
	if strings.Contains(tab.Text(), secret) {
		t.Error("the secret is on a later page")
	}
	tab.ClickNth(".acts summary", 0)
	tab.Until(`document.querySelector(".acts details").open`)
	tab.Check("revoke")
	tab.Shot("settings-api-token-revoke")
	tab.Click(".acts .danger")
	if !strings.Contains(tab.Text(), "is revoked") || h.isSignedIn(t, secret) {
		t.Errorf("the token is valid: %.500s", tab.Text())
	}
}

// A person can end a session of another browser, also without JavaScript.
func TestSessionIsEndedInBrowser(t *testing.T) {
	h := newHub(t, 0)
	for _, noScript := range []bool{false, true} {
		other := browser.SignIn(t, h.client, h.URL, "ada", hubtest.Password)
		tab := browser.Open(t, h.URL, h.cookie, browser.Options{Size: browser.Phone, NoScript: noScript})
		tab.Go("/ui/settings/sessions")
		tab.Shot("settings-sessions-two")
		tab.Click(".acts button")
		if !strings.Contains(tab.Text(), "The session is ended.") || h.isSignedIn(t, other) || !h.isSignedIn(t, h.cookie) {
			t.Errorf("script off: %v: %.500s", noScript, tab.Text())
		}
	}
}

// While a person types a new password, the page rates the password. If the hub refuses the
// password, the reason is next to the field.
func TestPasswordStrengthInBrowser(t *testing.T) {
	h := newHub(t, 0)
	tab := browser.Open(t, h.URL, h.cookie, browser.Options{})
	tab.Go("/ui/settings")
	const clear = `document.getElementById("f-password").value = "", true`
	for typed, want := range map[string]string{"abc": "Too short: 5 more characters.", "ada-ada-ada-1": "contains your nick", "aaaaaaaaaaaaaaaa": "repeats itself", "x7kq-p2rf-mv9d-t4": "Strong."} {
		browser.Eval[bool](tab, clear)
		tab.Fill("#f-password", typed)
		tab.Until(`document.querySelector(".strength").textContent.includes("` + want + `")`)
	}
	browser.Eval[bool](tab, clear)
	tab.Fill("#f-password", "x7kq-p2rf-mv9d")
	tab.Shot("settings-strength")
	tab.Fill("#f-again", "x7kq-p2rf-mv9d")
	tab.Fill("#f-current", "wrong")
	tab.Ignore("status of 403")
	tab.Click(`form[action$="/password"] .button`)
	tab.Check("a wrong password")
	tab.Shot("settings-wrong-password")
	if !strings.Contains(tab.Text(), "The current password is wrong.") {
		t.Errorf("%.500s", tab.Text())
	}
}
