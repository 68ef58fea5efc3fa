package browser_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"gangway/internal/browser"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/wire"
)

// A person at a machine can claim the machine with a phone: the person types the code from the
// machine's screen, signs in, and claims the machine. The page then displays the machine's progress
// by itself, and the person opens the device's page.
func TestClaimOnAPhoneInBrowser(t *testing.T) {
	h := newHub(t, 0)
	secret, id := wire.NewSecret(), wire.NewID()
	key, err := wire.OwnershipKey(secret, id)
	if err != nil {
		t.Fatal(err)
	}
	code, err := wire.ClaimCode(id, key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL+"/claims/"+code, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := h.client.Do(req) // the machine's own request for the account that claimed it
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()

	tab := browser.Open(t, h.URL, "", browser.Options{Size: browser.Phone})
	tab.Go("/ui/onboard/claim?code=" + strings.ToLower(wire.ClaimWords(code)))
	tab.Fill(`#nick`, "ada")
	tab.Fill(`#password`, hubtest.Password)
	tab.Click(`form button`)
	if text := tab.Text(); !strings.Contains(text, wire.ClaimWords(code)) || !strings.Contains(text, "from 127.0.0.1") {
		t.Fatalf("after the sign-in: %.800s", text)
	}
	tab.Check("the claim page")
	tab.Shot("claim-of-a-machine")
	tab.Click(`form[action^="/claim/"] button`)
	if path := tab.Path(); path != "/ui/onboard/claim/"+id {
		t.Fatalf("after the claim: %s", path)
	}
	tab.Check("the arrival")
	tab.Shot("arrival-waits")

	tok := *h.Token(t, h.Owner, nil)
	tok.ID, tok.PRN, tok.Token = id, wire.TokenPRN+id, base64.StdEncoding.EncodeToString(secret)
	client, err := fleet.NewHub(&tok)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	d, err := fleet.New(h.maker, "H-2")
	if err != nil {
		t.Fatal(err)
	}
	d.Model, d.Serial = "Gate computer", "GC-0001"
	body, err := d.Request(&tok, fleet.RequestChange{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Enrol(t.Context(), client, body); err != nil {
		t.Fatal(err)
	}
	tab.Until(`document.querySelector("#steps").textContent.includes("Only this TPM can decrypt them")`)
	tab.Shot("arrival-underway")
	if _, err := d.Onboard(t.Context(), client, &tok); err != nil {
		t.Fatal(err)
	}
	tab.Until(`document.querySelector("#steps .buttons a")`)
	tab.Check("the arrival at its end")
	tab.Shot("arrival-aboard")
	tab.Click(`#steps .buttons a`)
	if path := tab.Path(); path != "/ui/devices/"+h.Devices(t, h.Owner)[0].ID {
		t.Errorf("the button leads to %s", path)
	}
}
