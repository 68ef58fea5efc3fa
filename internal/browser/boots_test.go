package browser_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"gangway/hub/store"
	"gangway/internal/browser"
	"gangway/internal/hubtest"
	"gangway/wire"
	"gangway/wire/manifest"

	"github.com/chromedp/chromedp"
)

// signedManifest returns a new public key, and a manifest that its private key signed.
func signedManifest(t testing.TB) (m *manifest.Manifest, key *ecdsa.PublicKey, public, signed string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest := strings.Repeat("3c", 32)
	program := manifest.Program{SHA256: digest, Authenticode: map[string]string{"SHA-256": digest}}
	m = &manifest.Manifest{Format: manifest.Format, Name: "shop floor 1.4", Sequence: 12, BootManager: &program}
	m.Made = m.Made.AddDate(2025, 0, 0)
	m.System = manifest.System{Program: program, Kernel: program, Cmdline: "console=ttyS0 quiet", PCR11: map[string]map[string]string{"SHA-256": {"": digest}}}
	text, err := manifest.MarshalKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	if signed, err = manifest.Sign(m, private); err != nil {
		t.Fatal(err)
	}
	return m, &private.PublicKey, string(text), signed
}

// addManifest stores a key and a manifest of the account, and keeps their ids.
func (h *hubWithDevices) addManifest(t *testing.T) {
	t.Helper()
	m, key, _, signed := signedManifest(t)
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	verified, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	e := store.Event{Time: h.Now(), Kind: "boot.key-added", Owner: h.Owner.ID, Actor: wire.AccountPRN + h.Owner.ID, ActorName: "ada", Means: store.ByPage, Message: "ada added the key \"release key\", which signs manifests."}
	k := store.ManifestKey{Owner: h.Owner.ID, ID: sha256.Sum256(der), Name: "release key", DER: der, Added: h.Now()}
	if err := h.Store.PutManifestKey(t.Context(), k, e); err != nil {
		t.Fatal(err)
	}
	row := store.Manifest{Owner: h.Owner.ID, ID: sha256.Sum256([]byte(signed)), Key: k.ID, Text: verified, Signed: []byte(signed), Added: h.Now()}
	if err := h.Store.PutManifest(t.Context(), row, e); err != nil {
		t.Fatal(err)
	}
	h.manifestKey, h.manifest = fmt.Sprintf("%x", k.ID), fmt.Sprintf("%x", row.ID)
}

// A person can add a key and a manifest, and remove both: with a keyboard, and on a phone without
// JavaScript.
func TestKeysAndManifestsInBrowser(t *testing.T) {
	h := newHub(t, 0)
	for _, o := range []browser.Options{{}, {Size: browser.Phone, NoScript: true}} {
		_, _, public, signed := signedManifest(t)
		tab := browser.Open(t, h.URL, h.cookie, o)
		says := func(words string) {
			t.Helper()
			if !strings.Contains(tab.Text(), words) {
				t.Fatalf("the page lacks %q: %.1200s", words, tab.Text())
			}
		}
		check := func(name string) {
			t.Helper()
			if !o.NoScript {
				tab.Check(name)
			}
		}
		tab.Go("/ui/boots")
		tab.Press(`details:has(#f-key) summary`)
		tab.Do(chromedp.SetValue("#f-key", public))
		tab.Fill("#f-name", "release key")
		tab.Click(`form[action$="/preview-key"] .button`)
		says("Anyone with the private key decides")
		check("preview of a key")
		tab.Fill("#f-password", hubtest.Password)
		if o.NoScript {
			tab.Click(`form[action="/ui/boots/key"] .button.primary`)
		} else {
			tab.Type("\r") // Enter sends the form
			tab.Until(`location.pathname === "/ui/boots" && document.readyState === "complete"`)
		}
		says("release key")
		tab.Press(`details:has(#f-manifest) summary`)
		tab.Do(chromedp.SetValue("#f-manifest", signed))
		tab.Click(`form[action$="/preview-manifest"] .button`)
		says("The signature is valid")
		check("preview of a manifest")
		tab.Shot("boots-manifest-preview")
		tab.Click(`form[action="/ui/boots/manifest"] .button.primary`)
		says("shop floor 1.4")
		check("boots with a manifest")
		for _, what := range []string{"manifest", "key"} {
			tab.Click(`a[href^="/ui/boots/` + what + `/"]`)
			tab.Click(`.button.danger`)
			says("is removed")
		}
	}
}
