package api_test

import (
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
)

// manifestKeys and manifests return the account's keys and manifests, as the API lists them.
func (p *person) manifestKeys() []api.ManifestKeyView {
	p.t.Helper()
	return want[api.BootList[api.ManifestKeyView]](p, "GET", "/boots/keys", nil, 200).Items
}

func (p *person) manifests() []api.ManifestView {
	p.t.Helper()
	return want[api.BootList[api.ManifestView]](p, "GET", "/boots/manifests", nil, 200).Items
}

func TestKeysAndManifestsAreChangedOnThePage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	b := s.browser(t)
	b.signIn()
	b.send("GET", "/ui/boots", "")
	k := newSigner(t)
	form := func(fields ...string) string {
		v := url.Values{}
		for i := 0; i < len(fields); i += 2 {
			v.Set(fields[i], fields[i+1])
		}
		return v.Encode()
	}
	do := func(status int, path, body string, words ...string) {
		t.Helper()
		got, page, _ := b.send("POST", path, body)
		if got != status {
			t.Fatalf("POST %s: %d %s", path, got, text(page))
		}
		says(t, page, words...)
	}
	do(200, "/ui/boots/preview-key", form("name", "release <1>", "key", k.pem), k.id, "release <1>", "ECDSA P-256", "Your password")
	if len(ada.manifestKeys()) != 0 {
		t.Fatal("the preview added the key")
	}
	do(403, "/ui/boots/key", form("name", "release <1>", "key", k.pem, "password", "wrong"), "The current password is wrong", k.id)
	if len(ada.manifestKeys()) != 0 {
		t.Fatal("the hub added the key without the password")
	}
	do(303, "/ui/boots/key", form("name", "release <1>", "key", k.pem, "password", hubtest.Password))
	do(409, "/ui/boots/key", form("name", "release <1>", "key", k.pem, "password", hubtest.Password), "The account already has this key")
	signed := k.sign(t, manifestOf("linux 1", 7))
	do(200, "/ui/boots/preview-manifest", form("manifest", signed), "system linux 1", "7", hexSum("file of linux 1"), k.id, "The signature is valid")
	if len(ada.manifests()) != 0 {
		t.Fatal("the preview added the manifest")
	}
	do(403, "/ui/boots/preview-manifest", form("manifest", newSigner(t).sign(t, manifestOf("linux 1", 7))), "Add the public key")
	do(303, "/ui/boots/manifest", form("manifest", signed))
	list := ada.manifests()
	if len(list) != 1 || !list[0].Counts {
		t.Fatalf("%s", brief.Of(list))
	}
	// The preview of the removal of a key names the manifests that would not count any more.
	says(t, b.page("/ui/boots/key/"+k.id), "The hub will no longer use these manifests", "system linux 1 (sequence 7)")
	do(303, "/ui/boots/key/"+k.id, "")
	if list := ada.manifests(); len(list) != 1 || list[0].Counts || len(ada.manifestKeys()) != 0 {
		t.Errorf("%s", brief.Of(list))
	}
	says(t, b.page("/ui/boots/manifest/"+list[0].ID), "does not count")
	do(303, "/ui/boots/manifest/"+list[0].ID, "")
	if list := ada.manifests(); len(list) != 0 {
		t.Errorf("%s", brief.Of(list))
	}
	do(404, "/ui/boots/manifest/"+list[0].ID, "")
}

// A private key that somebody pastes by mistake does not come back in the page.
func TestPageOfBootsDoesNotRepeatAPrivateKey(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	b.send("GET", "/ui/boots", "")
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(newSigner(t).PrivateKey))(t)}))
	for _, path := range []string{"/ui/boots/preview-key", "/ui/boots/key"} {
		status, page, _ := b.send("POST", path, url.Values{"name": {"k"}, "key": {private}}.Encode())
		if status != 400 || strings.Contains(page, "PRIVATE KEY") || strings.Contains(page, strings.Split(private, "\n")[1]) {
			t.Errorf("%s: %d %s", path, status, text(page))
		}
		says(t, page, "This is a private key, which must stay with you")
	}
}

func TestPageRejectsKeysAndManifestsOfAnotherOwner(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Account(t, "bob")
	bob := s.person(t, "bob")
	k := newSigner(t)
	bob.addKey(k)
	m := bob.addManifest(k.sign(t, manifestOf("linux 1", 1)))
	b := s.browser(t)
	b.signIn()
	b.send("GET", "/ui/boots", "")
	for _, path := range []string{"/ui/boots/key/" + k.id, "/ui/boots/manifest/" + m.ID, "/ui/boots/key/x", "/ui/boots/manifest/x"} {
		if status, page, _ := b.send("GET", path, ""); status != 404 || strings.Contains(page, "linux 1") {
			t.Errorf("GET %s: %d", path, status)
		}
		if status, _, _ := b.send("POST", path, ""); status != 404 {
			t.Errorf("POST %s: %d", path, status)
		}
	}
	if len(bob.manifestKeys()) != 1 || len(bob.manifests()) != 1 {
		t.Error("Ada removed Bob's key or manifest")
	}
	// Attack: a page of another site sends the forms, without the form token. The hub refuses them.
	b.token = ""
	for _, path := range []string{"/ui/boots/preview-key", "/ui/boots/key", "/ui/boots/key/" + k.id, "/ui/boots/preview-manifest", "/ui/boots/manifest", "/ui/boots/manifest/" + m.ID} {
		if status, _, _ := b.send("POST", path, "x=y"); status != 403 {
			t.Errorf("POST %s without the form token: %d", path, status)
		}
	}
}
