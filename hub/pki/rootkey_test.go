package pki

import (
	"crypto/elliptic"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// With its key in a TPM, a root can issue the certificates of a hub's CAs, and its folder contains
// no secret. MakeRoot never replaces a key in the TPM, and leaves none there if it fails.
func TestRootKeyInATPM(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a TPM")
	}
	at, there := startTPM(t)
	dir := filepath.Join(t.TempDir(), "root")
	o := Options{Name: "Port", Curve: elliptic.P384(), Now: testNow}
	root, err := MakeRoot(t.Context(), dir, at(0x81010070), o)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 2 || filepath.Base(files[0]) != "root.crt" || filepath.Base(files[1]) != "root.uri" {
		t.Errorf("the root's folder has %q, %v", files, err)
	}
	c := &ceremony{filepath.Join(t.TempDir(), "pki"), root}
	h := c.whole(t)
	if _, err := handshake(t, h, testNow); err != nil {
		t.Error(err)
	}
	if got := h.Describe()[0]; got.Key != KeyOffline {
		t.Errorf("the root's key is described as %q", got.Key)
	}

	folder := t.TempDir()
	for name, again := range map[string]func() error{
		"a handle in use": func() error {
			_, err := MakeRoot(t.Context(), filepath.Join(folder, "a"), at(0x81010070), o)
			return err
		},
		"a folder that exists": func() error {
			_, err := MakeRoot(t.Context(), dir, at(0x81010071), o)
			return err
		},
		"a clock before 1970": func() error {
			_, err := MakeRoot(t.Context(), filepath.Join(folder, "b"), at(0x81010072), Options{Name: "Port", Now: testNow.AddDate(-9999, 0, 0)})
			return err
		},
	} {
		if err := again(); err == nil {
			t.Errorf("%s: a root is made", name)
		}
	}
	if there(0x81010071) || there(0x81010072) || !there(0x81010070) {
		t.Error("a failed call left a key, or removed a root's key")
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("a failed call left %v, %v", left, err)
	}
}

// If the URI in the root's folder leads to another key than that of the root's certificate, the
// root must not sign with it.
func TestRootRefusesAnotherKeyAtItsURI(t *testing.T) {
	t.Parallel()
	c := newCeremony(t)
	request := c.request(t)
	dir := filepath.Join(t.TempDir(), "root")
	if _, err := MakeRoot(t.Context(), dir, "", Options{Name: "Port", Now: testNow}); err != nil {
		t.Fatal(err)
	}
	away(t, dir, "root")
	other := filepath.Join(t.TempDir(), "other")
	if _, err := MakeRoot(t.Context(), other, "", Options{Name: "Port", Now: testNow}); err != nil {
		t.Fatal(err)
	}
	writeURI(t, dir, "root", "file:"+away(t, other, "root"))
	root, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := root.Plan(request, testNow, DefaultTLSLife)
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := root.Issue(plan); err == nil || !strings.Contains(err.Error(), "did not make") {
		t.Errorf("signs with another key: %s, %v", answer, err)
	}
}
