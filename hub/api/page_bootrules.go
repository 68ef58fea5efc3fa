package api

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"path"
	"strings"

	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/wire/manifest"
)

const (
	bootKeyPath      = bootsPath + "/key"
	bootManifestPath = bootsPath + "/manifest"
	// bootRuleBody bounds a form with a text and a file of maxManifest bytes each.
	bootRuleBody = 2*maxManifest + 8<<10
)

// previewKeyOnPage shows the public key that the person typed, and what the hub would do with this
// key. It stores nothing.
func (s *Server) previewKeyOnPage(w http.ResponseWriter, r *http.Request) error {
	file, content, err := fileOrText(r, "key", maxManifest)
	if err != nil {
		return err
	}
	name := strings.TrimSpace(r.PostFormValue("name"))
	if name == "" && r.MultipartForm != nil && len(r.MultipartForm.File["file"]) > 0 {
		name = path.Base(file)
	}
	k, err := s.readManifestKey(r, name, string(content))
	if err != nil {
		return s.keyProblem(w, r, name, string(content), err)
	}
	return s.renderNewKey(w, r, http.StatusOK, k, string(content), "")
}

// keyProblem shows the page "Boots" with an error message in the form for manifest keys. The form
// does not repeat a private key that somebody sent by mistake.
func (s *Server) keyProblem(w http.ResponseWriter, r *http.Request, name, text string, err error) error {
	said, status, ok := s.formProblem(r, err)
	if !ok {
		return err
	}
	p := &ui.BootsPage{KeyForm: ui.BootForm{Open: true, Name: name, Text: text, Problem: said}}
	if strings.Contains(text, "PRIVATE KEY") {
		p.KeyForm.Text, p.KeyForm.Problem = "", "This is a private key, which must stay with you. Send the public key, the file that 'gangway manifest key public' writes."
	}
	return s.renderBoots(w, r, status, p)
}

func (s *Server) renderNewKey(w http.ResponseWriter, r *http.Request, status int, k store.ManifestKey, text, passwordProblem string) error {
	facts, err := keyFacts(k)
	if err != nil {
		return err
	}
	p := &ui.BootRulePage{Title: "Add a key", Subject: "Public key", Facts: facts, Action: bootKeyPath, Confirm: "Add the key", Password: true, PasswordProblem: passwordProblem,
		Effect: "After you add the key, the hub accepts manifests that this key signs. Anyone with the private key decides which boots the hub expects. Compare the SHA-256 with the SHA-256 that “gangway manifest key create” printed.",
		Hidden: map[string]string{"name": k.Name, "key": text}}
	return s.renderBootRule(w, r, status, p)
}

func (s *Server) renderBootRule(w http.ResponseWriter, r *http.Request, status int, p *ui.BootRulePage) error {
	return s.renderPage(w, r, status, "bootrule", ui.Page{Title: p.Title, Section: ui.SectionTrust, Data: p})
}

func keyFacts(k store.ManifestKey) ([]ui.Fact, error) {
	key, err := x509.ParsePKIXPublicKey(k.DER)
	if err != nil {
		return nil, err
	}
	kind := ""
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		kind = "ECDSA " + key.Curve.Params().Name
	case *rsa.PublicKey:
		kind = fmt.Sprintf("RSA %d", key.N.BitLen())
	}
	return []ui.Fact{{Name: "Name", Value: k.Name}, {Name: "SHA-256", Value: hex.EncodeToString(k.ID[:]), Mono: true}, {Name: "Type", Value: kind}}, nil
}

// addKeyOnPage adds the key that the preview showed, if the form has the account's password.
func (s *Server) addKeyOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	name, text := r.PostFormValue("name"), r.PostFormValue("key")
	k, err := s.readManifestKey(r, name, text)
	if err != nil {
		return s.keyProblem(w, r, name, text, err)
	}
	if err := s.verifyPasswordAgain(r, r.PostFormValue("password")); err != nil {
		said, status, ok := s.formProblem(r, err)
		if !ok {
			return err
		}
		return s.renderNewKey(w, r, status, k, text, said)
	}
	if _, err := s.putManifestKey(r, name, text); err != nil {
		return s.keyProblem(w, r, name, text, err)
	}
	return s.redirect(w, r, bootsPath, ui.Notice{Tone: "ok", Text: fmt.Sprintf("The hub accepts manifests that the key %q signs.", name)})
}

// showKeyRemoval previews the removal of a key: the manifests that would not count any more.
func (s *Server) showKeyRemoval(w http.ResponseWriter, r *http.Request) error {
	ctx, owner, id := r.Context(), accountOf(r).ID, r.PathValue("id")
	keys, err := s.cfg.Store.ManifestKeys(ctx, owner)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if hex.EncodeToString(k.ID[:]) != id {
			continue
		}
		facts, err := keyFacts(k)
		if err != nil {
			return err
		}
		p := &ui.BootRulePage{Title: "Remove a key", Subject: "Public key", Facts: facts, Action: bootKeyPath + "/" + id, Confirm: "Remove the key", Danger: true}
		if p.Lost, err = s.manifestsOfKey(r, id); err != nil {
			return err
		}
		p.Effect = "This key has not signed any of the account's manifests, so no boot will be judged differently."
		if len(p.Lost) > 0 {
			p.Effect = "The hub will no longer use these manifests, so it will not expect their systems. If you add the key again, the hub will use these manifests again."
		}
		return s.renderBootRule(w, r, http.StatusOK, p)
	}
	return store.ErrNotFound
}

// manifestsOfKey describes the caller's manifests that a key signed.
func (s *Server) manifestsOfKey(r *http.Request, key string) (words []string, err error) {
	list, err := s.manifestViews(r.Context(), accountOf(r).ID)
	for _, m := range list {
		if m.Key == key {
			words = append(words, fmt.Sprintf("%s (sequence %d)", m.Name, m.Sequence))
		}
	}
	return words, err
}

func (s *Server) removeKeyOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	if err := s.dropManifestKey(r, r.PathValue("id")); err != nil {
		return err
	}
	return s.redirect(w, r, bootsPath, ui.Notice{Tone: "ok", Text: "The key is removed. The hub judges the boots again, which can take some minutes."})
}

// previewManifestOnPage verifies the manifest in the form, and shows what it states. It stores
// nothing.
func (s *Server) previewManifestOnPage(w http.ResponseWriter, r *http.Request) error {
	_, content, err := fileOrText(r, "manifest", maxManifest)
	if err != nil {
		return err
	}
	text := strings.TrimSpace(string(content))
	row, m, err := s.readManifest(r, text)
	if err != nil {
		return s.manifestFormProblem(w, r, text, err)
	}
	p := &ui.BootRulePage{Title: "Add a manifest", Subject: "Manifest", Facts: manifestFacts(row, m), Action: bootManifestPath, Confirm: "Add the manifest",
		Effect: "The signature is valid. After you add the manifest, the hub expects this system on each device with a revision that names this system, and on each device whose revisions name no system at all.",
		Hidden: map[string]string{"manifest": text}}
	return s.renderBootRule(w, r, http.StatusOK, p)
}

func (s *Server) manifestFormProblem(w http.ResponseWriter, r *http.Request, text string, err error) error {
	said, status, ok := s.formProblem(r, err)
	if !ok {
		return err
	}
	return s.renderBoots(w, r, status, &ui.BootsPage{ManifestForm: ui.BootForm{Open: true, Text: cutTo(text, maxManifest), Problem: said}})
}

func manifestFacts(row store.Manifest, m *manifest.Manifest) []ui.Fact {
	facts := []ui.Fact{{Name: "System", Value: m.Name}, {Name: "Sequence", Value: fmt.Sprint(m.Sequence)}, {Name: "Made", Value: m.Made.UTC().Format("2 January 2006, 15:04 UTC")},
		{Name: "System's SHA-256", Value: m.System.SHA256, Mono: true}, {Name: "Kernel's SHA-256", Value: m.System.Kernel.SHA256, Mono: true}, {Name: "Command line", Value: m.System.Cmdline, Mono: true}}
	if m.BootManager != nil {
		facts = append(facts, ui.Fact{Name: "Boot manager's SHA-256", Value: m.BootManager.SHA256, Mono: true})
	}
	for _, i := range m.Installers {
		facts = append(facts, ui.Fact{Name: "Installer's SHA-256", Value: i.SHA256, Mono: true})
	}
	keys := "the manifest does not state the keys"
	if m.SecureBoot != nil {
		keys = "those that the image enrols"
	}
	return append(facts, ui.Fact{Name: "Secure Boot keys", Value: keys}, ui.Fact{Name: "Signed by the key", Value: hex.EncodeToString(row.Key[:]), Mono: true})
}

// addManifestOnPage adds the manifest that the preview showed.
func (s *Server) addManifestOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	text := strings.TrimSpace(r.PostFormValue("manifest"))
	v, err := s.putManifest(r, text)
	if err != nil {
		return s.manifestFormProblem(w, r, text, err)
	}
	return s.redirect(w, r, bootsPath, ui.Notice{Tone: "ok", Text: fmt.Sprintf("The hub expects the system %q (sequence %d).", v.Name, v.Sequence)})
}

// showManifestRemoval previews the removal of a manifest.
func (s *Server) showManifestRemoval(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	list, err := s.manifestViews(r.Context(), accountOf(r).ID)
	if err != nil {
		return err
	}
	for _, m := range list {
		if m.ID != id {
			continue
		}
		p := &ui.BootRulePage{Title: "Remove a manifest", Subject: "Manifest", Action: bootManifestPath + "/" + id, Confirm: "Remove the manifest", Danger: true,
			Facts:  []ui.Fact{{Name: "System", Value: m.Name}, {Name: "Sequence", Value: fmt.Sprint(m.Sequence)}, {Name: "System's SHA-256", Value: m.System, Mono: true}, {Name: "Signed by the key", Value: m.Key, Mono: true}},
			Effect: "The hub will no longer expect this system. If a device runs this system, its boot will count as changed, unless the device's reference or another manifest covers the boot."}
		if !m.Counts {
			p.Effect = "The manifest does not count, because its key was removed, so no boot will be judged differently."
		}
		return s.renderBootRule(w, r, http.StatusOK, p)
	}
	return store.ErrNotFound
}

func (s *Server) removeManifestOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	if err := s.dropManifest(r, r.PathValue("id")); err != nil {
		return err
	}
	return s.redirect(w, r, bootsPath, ui.Notice{Tone: "ok", Text: "The manifest is removed. The hub judges the boots again, which can take some minutes."})
}
