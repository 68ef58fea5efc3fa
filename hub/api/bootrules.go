package api

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"gangway/hub/boot"
	"gangway/hub/store"
	"gangway/tcg"
	"gangway/wire/manifest"
)

// maxManifest is the largest signed reference manifest that the hub stores, in bytes. The manifests
// that the image builder makes have less than 8 KiB.
const maxManifest = 64 << 10

// ManifestKeyView is a public key with which the hub verifies the owner's reference manifests.
type ManifestKeyView struct {
	ID    string    `json:"id"` // SHA-256 of the key's SubjectPublicKeyInfo, hexadecimal
	Name  string    `json:"name"`
	Key   string    `json:"key"` // PEM
	Added time.Time `json:"added"`
}

// ManifestView describes a reference manifest that the hub stores.
type ManifestView struct {
	ID       string    `json:"id"` // SHA-256 of the signed text, hexadecimal
	Name     string    `json:"name"`
	Sequence uint64    `json:"sequence"`
	System   string    `json:"system"` // SHA-256 of the system's file, hexadecimal
	Key      string    `json:"key"`    // ManifestKeyView.ID of the key that signed the manifest
	Counts   bool      `json:"counts"` // the account has the key
	Added    time.Time `json:"added"`
}

// BootList is a list of an owner's manifest keys, manifests, or decisions about cohorts.
type BootList[T any] struct {
	Items []T `json:"items"`
}

// NewManifestKey is the body of a request to add a manifest key.
type NewManifestKey struct {
	Name     string `json:"name"`
	Key      string `json:"key"` // PEM
	Password string `json:"password"`
}

func (s *Server) listManifestKeys(w http.ResponseWriter, r *http.Request) error {
	list, err := s.manifestKeys(r.Context(), accountOf(r).ID)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, BootList[ManifestKeyView]{list})
	return nil
}

func (s *Server) manifestKeys(ctx context.Context, owner string) ([]ManifestKeyView, error) {
	keys, err := s.cfg.Store.ManifestKeys(ctx, owner)
	if err != nil {
		return nil, err
	}
	list := []ManifestKeyView{}
	for _, k := range keys {
		v, err := viewManifestKey(k)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

func viewManifestKey(k store.ManifestKey) (ManifestKeyView, error) {
	key, err := x509.ParsePKIXPublicKey(k.DER)
	if err != nil {
		return ManifestKeyView{}, err
	}
	text, err := manifest.MarshalKey(key)
	return ManifestKeyView{ID: hex.EncodeToString(k.ID[:]), Name: k.Name, Key: string(text), Added: k.Added.UTC()}, err
}

// addManifestKey adds a public key. Whoever has the private key decides which boots the hub
// expects, so the request needs the account's password.
func (s *Server) addManifestKey(w http.ResponseWriter, r *http.Request) error {
	var body NewManifestKey
	if err := readJSON(r, &body); err != nil {
		return err
	}
	if err := s.verifyPasswordAgain(r, body.Password); err != nil {
		return err
	}
	k, err := s.putManifestKey(r, body.Name, body.Key)
	if err != nil {
		return err
	}
	v, err := viewManifestKey(k)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, v)
	return nil
}

// readManifestKey checks the name and the text of a new key of the caller. It stores nothing.
func (s *Server) readManifestKey(r *http.Request, name, text string) (k store.ManifestKey, err error) {
	if name == "" || len(name) > manifest.MaxName || tcg.Printable(name) != name {
		return k, problem(http.StatusBadRequest, "name-form", fmt.Sprintf("Use 1 to %d printable bytes.", manifest.MaxName), "The key's name is empty, too long, or not printable.")
	}
	key, err := manifest.ParseKey([]byte(text))
	if err != nil {
		return k, problem(http.StatusBadRequest, "manifest-key", "Send one public key in PEM: the file FILE.pub that 'gangway manifest key create FILE' writes.", "%s.", upperFirst(strings.TrimPrefix(err.Error(), "manifest: ")))
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return k, err
	}
	return store.ManifestKey{Owner: accountOf(r).ID, ID: sha256.Sum256(der), Name: name, DER: der, Added: s.cfg.Now()}, nil
}

func (s *Server) putManifestKey(r *http.Request, name, text string) (k store.ManifestKey, err error) {
	if k, err = s.readManifestKey(r, name, text); err != nil {
		return k, err
	}
	a := accountOf(r)
	e := s.bootRuleEvent(r, "boot.key-added", "%s added the key %q (SHA-256 %x), which signs manifests.", a.Nick, name, k.ID)
	switch err := s.cfg.Store.PutManifestKey(r.Context(), k, e); {
	case errors.Is(err, store.ErrExists):
		return k, problem(http.StatusConflict, "exists", "List the keys with 'gangway boot key ls'.", "The account already has this key.")
	case errors.Is(err, store.ErrFull):
		return k, problem(http.StatusConflict, "too-many-manifest-keys", "Remove keys that are not used.", "The account has %d keys, which is the maximum.", store.MaxManifestKeys)
	case err != nil:
		return k, err
	}
	return k, s.rulesChanged(r)
}

// bootRuleEvent returns the event for a change of the caller's boot rules: manifest keys,
// manifests, or decisions about cohorts.
func (s *Server) bootRuleEvent(r *http.Request, kind, format string, args ...any) store.Event {
	e := store.Event{Time: s.cfg.Now(), Kind: kind, Owner: accountOf(r).ID, Message: fmt.Sprintf(format, args...)}
	s.live.tell(e)
	return e.By(store.ActorIn(r.Context()))
}

// rulesChanged judges boots again after a change of the caller's manifest keys, manifests, or
// decisions about cohorts. It judges at most judgeAtOnce boots; the periodic sweep judges the other
// boots.
func (s *Server) rulesChanged(r *http.Request) error {
	_, err := s.judgeAgain(r.Context(), accountOf(r).ID, judgeAtOnce)
	return err
}

func (s *Server) removeManifestKey(w http.ResponseWriter, r *http.Request) error {
	if err := s.dropManifestKey(r, r.PathValue("id")); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "OK"})
	return nil
}

func (s *Server) dropManifestKey(r *http.Request, name string) error {
	id, ok := hashNamed(name)
	if !ok {
		return store.ErrNotFound
	}
	e := s.bootRuleEvent(r, "boot.key-removed", "%s removed the key with the SHA-256 %x. The hub no longer uses the manifests that this key signed.", accountOf(r).Nick, id)
	if err := s.cfg.Store.DeleteManifestKey(r.Context(), accountOf(r).ID, id, e); err != nil {
		return err
	}
	return s.rulesChanged(r)
}

// hashNamed reads a SHA-256 in lower-case hexadecimal. For any other text, ok is false.
func hashNamed(name string) (h store.Hash, ok bool) {
	b, err := hex.DecodeString(name)
	if err != nil || len(b) != len(h) || strings.ToLower(name) != name {
		return h, false
	}
	return store.Hash(b), true
}

func (s *Server) listManifests(w http.ResponseWriter, r *http.Request) error {
	list, err := s.manifestViews(r.Context(), accountOf(r).ID)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, BootList[ManifestView]{list})
	return nil
}

func (s *Server) manifestViews(ctx context.Context, owner string) ([]ManifestView, error) {
	rows, err := s.cfg.Store.Manifests(ctx, owner)
	if err != nil {
		return nil, err
	}
	list := []ManifestView{}
	for _, row := range rows {
		var m manifest.Manifest
		if err := json.Unmarshal(row.Text, &m); err != nil {
			return nil, err
		}
		list = append(list, viewManifest(row, &m))
	}
	return list, nil
}

func viewManifest(row store.Manifest, m *manifest.Manifest) ManifestView {
	return ManifestView{ID: hex.EncodeToString(row.ID[:]), Name: m.Name, Sequence: m.Sequence, System: m.System.SHA256, Key: hex.EncodeToString(row.Key[:]), Counts: row.Counts, Added: row.Added.UTC()}
}

// addManifest stores a signed manifest. The hub verifies the signature here with the owner's keys,
// and stores only the verified text.
func (s *Server) addManifest(w http.ResponseWriter, r *http.Request) error {
	text, err := readBody(r)
	if err != nil {
		return err
	}
	v, err := s.putManifest(r, strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, v)
	return nil
}

// readManifest verifies a signed manifest with the caller's keys. It stores nothing.
func (s *Server) readManifest(r *http.Request, text string) (row store.Manifest, m *manifest.Manifest, err error) {
	a := accountOf(r)
	keys, err := s.cfg.Store.ManifestKeys(r.Context(), a.ID)
	if err != nil {
		return row, nil, err
	}
	var trusted []crypto.PublicKey
	for _, k := range keys {
		key, err := x509.ParsePKIXPublicKey(k.DER)
		if err != nil {
			return row, nil, err
		}
		trusted = append(trusted, key)
	}
	m, key, err := manifest.Parse(text, trusted)
	if err != nil {
		return row, nil, manifestProblem(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return row, nil, err
	}
	verified, err := json.Marshal(m)
	if err != nil {
		return row, nil, err
	}
	row = store.Manifest{Owner: a.ID, ID: sha256.Sum256([]byte(text)), Key: sha256.Sum256(der), Text: verified, Signed: []byte(text), Added: s.cfg.Now(), Counts: true}
	return row, m, nil
}

func (s *Server) putManifest(r *http.Request, text string) (v ManifestView, err error) {
	row, m, err := s.readManifest(r, text)
	if err != nil {
		return v, err
	}
	a := accountOf(r)
	e := s.bootRuleEvent(r, "boot.manifest-added", "%s added the manifest of %q (sequence %d).", a.Nick, m.Name, m.Sequence)
	switch err := s.cfg.Store.PutManifest(r.Context(), row, e); {
	case errors.Is(err, store.ErrNotFound): // the key was removed during the request
		return v, manifestProblem(manifest.ErrUntrusted)
	case errors.Is(err, store.ErrExists):
		return v, problem(http.StatusConflict, "exists", "List the manifests with 'gangway boot manifest ls'.", "The account has this manifest already.")
	case errors.Is(err, store.ErrFull):
		return v, problem(http.StatusConflict, "too-many-manifests", "Remove manifests of systems that must not run any more.", "The account has %d manifests, which is the maximum.", store.MaxManifests)
	case err != nil:
		return v, err
	}
	return viewManifest(row, m), s.rulesChanged(r)
}

func manifestProblem(err error) error {
	fact := upperFirst(strings.TrimPrefix(err.Error(), "manifest: "))
	switch {
	case errors.Is(err, manifest.ErrUntrusted):
		return problem(http.StatusForbidden, "manifest-key-unknown", "Add the public key with 'gangway boot key add', or sign with a key that the account has.", "%s.", fact)
	case errors.Is(err, manifest.ErrSignature):
		return problem(http.StatusForbidden, "manifest-signature", "Sign the manifest again with 'gangway image system', and send the new file unchanged.", "%s.", fact)
	}
	return problem(http.StatusBadRequest, "manifest-malformed", "Send the file that 'gangway image system' writes, unchanged.", "%s.", fact)
}

func (s *Server) removeManifest(w http.ResponseWriter, r *http.Request) error {
	if err := s.dropManifest(r, r.PathValue("id")); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "OK"})
	return nil
}

func (s *Server) dropManifest(r *http.Request, name string) error {
	id, ok := hashNamed(name)
	if !ok {
		return store.ErrNotFound
	}
	e := s.bootRuleEvent(r, "boot.manifest-removed", "%s removed the manifest with the SHA-256 %x.", accountOf(r).Nick, id)
	if err := s.cfg.Store.DeleteManifest(r.Context(), accountOf(r).ID, id, e); err != nil {
		return err
	}
	return s.rulesChanged(r)
}

// isPart reports whether `name` is the name of a part of the boot about which an owner can decide.
func isPart(name string) bool {
	_, ok := boot.PartNamed(name)
	return ok || name == boot.FirmwareCode
}
