package pki

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gangway/hub/pki/cakey"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"
)

// The function `away` moves the key of a CA out of the folder, puts the file with the key's URI in
// its place, and returns the key's new path.
func away(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".key")
	if err := os.Rename(filepath.Join(dir, name+".key"), path); err != nil {
		t.Fatal(err)
	}
	writeURI(t, dir, name, "file:"+path)
	return path
}

func writeURI(t *testing.T, dir, name, uri string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name+".uri"), []byte(uri+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A hub loads a CA whose key is not reachable, so that commands that do not sign anything still
// work. As soon as the key is reachable, the hub can sign.
func TestKeyAtAURI(t *testing.T) {
	t.Parallel()
	dir := openNewAt(t, filepath.Join(t.TempDir(), "pki"))
	path := away(t, dir, "aca")
	if err := os.Rename(path, path+".off"); err != nil {
		t.Fatal(err)
	}
	h, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Describe()[1]; got.Key != "file:"+path {
		t.Errorf("the ACA's key is described as %q", got.Key)
	}
	request := iakRequest(rsaPublic(t, 2048))
	if _, err := h.IssueIAK(request); err == nil || h.Prove() == nil {
		t.Errorf("without the key: %v", err)
	}
	if err := os.Rename(path+".off", path); err != nil {
		t.Fatal(err)
	}
	if err := h.Prove(); err != nil {
		t.Error(err)
	}
	der, err := h.IssueIAK(request)
	if err := parse(t, der, err).CheckSignatureFrom(h.ACA()); err != nil {
		t.Error(err)
	}
}

// The hub never signs with a key that does not match the CA's certificate.
func TestURIOfAnotherKeyIsRefused(t *testing.T) {
	t.Parallel()
	dir := openNewAt(t, filepath.Join(t.TempDir(), "pki"))
	aca, device := away(t, dir, "aca"), away(t, dir, "device-ca")
	writeURI(t, dir, "aca", "file:"+device)
	writeURI(t, dir, "device-ca", "file:"+aca)
	h, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Prove(); err == nil || !strings.Contains(err.Error(), "did not make") {
		t.Errorf("exchanged keys: %v", err)
	}
	if _, err := h.IssueIAK(iakRequest(rsaPublic(t, 2048))); err == nil {
		t.Error("the ACA's certificates have the device CA's signature")
	}
}

func TestOpenRefusesABadURI(t *testing.T) {
	t.Parallel()
	for name, uri := range map[string]string{"empty": "", "unknown scheme": "pkcs11:token=a", "two lines": "file:/a\nfile:/b", "relative": "file:a"} {
		dir := openNewAt(t, filepath.Join(t.TempDir(), "pki"))
		away(t, dir, "aca")
		writeURI(t, dir, "aca", uri)
		if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "aca.uri") {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := openNewAt(t, filepath.Join(t.TempDir(), "pki"))
	writeURI(t, dir, "aca", "tpm:0x81010060")
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "only one of them") {
		t.Errorf("a file and a URI: %v", err)
	}
}

// startTPM starts a TPM for the keys of CAs. `at` returns the URI of a handle, and `there` reports
// whether there is a key at that handle.
func startTPM(t *testing.T) (at func(handle int) string, there func(handle int) bool) {
	t.Helper()
	device := swtpmtest.Start(t, swtpm.Options{EK: swtpm.None}).Address()
	at = func(handle int) string { return fmt.Sprintf("tpm:0x%08x?device=%s", handle, device) }
	return at, func(handle int) bool {
		u, err := cakey.Parse(at(handle))
		if err != nil {
			t.Fatal(err)
		}
		_, err = u.Public(t.Context())
		return err == nil
	}
}

// A request that fails or is cancelled leaves no key in the TPM, and removes no key of another
// program.
func TestRequestCleansUpTheTPM(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a TPM")
	}
	at, there := startTPM(t)
	c := newCeremony(t)
	first := RequestOptions{Keys: map[string]string{"aca": at(0x81010060), "device-ca": at(0x81010061)}}
	if _, _, err := NewRequest(t.Context(), c.dir, first); err != nil {
		t.Fatal(err)
	}
	other := newCeremony(t)
	if _, _, err := NewRequest(t.Context(), other.dir, RequestOptions{Keys: map[string]string{"aca": at(0x81010062), "device-ca": at(0x81010061)}}); err == nil || !strings.Contains(err.Error(), "another handle") {
		t.Errorf("a handle in use: %v", err)
	}
	if there(0x81010062) || !there(0x81010061) || present(filepath.Dir(other.dir), "pki.request") {
		t.Error("the failed request left a key, or removed another program's key")
	}
	// The first attempt to cancel the request reaches only one of its keys. The second attempt
	// deletes the other one.
	uri := filepath.Join(c.dir+requestSuffix, "device-ca"+uriSuffix)
	if err := os.WriteFile(uri, []byte(at(0x81010063)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CancelRequest(t.Context(), c.dir); err == nil {
		t.Error("a request is cancelled although one of its keys is missing")
	}
	if there(0x81010060) || !there(0x81010061) {
		t.Error("the first attempt should delete the first key")
	}
	if err := os.WriteFile(uri, []byte(at(0x81010061)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CancelRequest(t.Context(), c.dir); err != nil {
		t.Error(err)
	}
	if there(0x81010060) || there(0x81010061) {
		t.Error("the cancelled request left a key")
	}
}
