package cakey

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

func mustParse(t *testing.T, text string) URI {
	t.Helper()
	u, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"file:/a/b.key", "file:///a/b.key", "tpm:0x81010060", "tpm:2164326496?device=/dev/tpmrm1", "signer:/run/s?key=device-ca"} {
		if u := mustParse(t, good); u.String() != good {
			t.Errorf("%s became %s", good, u)
		}
	}
	for _, bad := range []string{
		"", "a", "/a/b.key", "file:a", "file://host/a", "file:/a?x=y", "file:/a#b", "tpm:", "tpm:0x80000000", "tpm:0x82000000", "tpm:0x181010060", "tpm:key",
		"tpm:0x81010060?devcie=/dev/tpm0", "tpm:0x81010060?device=/a&device=/b", "signer:/run/s", "signer:s?key=a", "signer:/run/s?key=A", "signer:/run/s?key=a/b",
		"signer:/run/s?key=a&pin=1", "pkcs11:token=a", "http://host/key", "tpm:0x81010060?%zz", "file:/" + strings.Repeat("a", maxURI),
	} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// check signs digests with the key at `u`, which is on the curve `curve`. It also tries digests of
// a wrong length or of another hash.
func check(t *testing.T, u URI, curve elliptic.Curve) {
	t.Helper()
	public, err := u.Public(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if public.Curve != curve {
		t.Fatalf("the key's curve is %s", public.Params().Name)
	}
	key, err := Open(u, public)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Prove(); err != nil {
		t.Error(err)
	}
	for _, wrong := range []struct {
		size int
		hash crypto.Hash
	}{{20, crypto.SHA1}, {64, crypto.SHA512}, {0, 0}, {key.hash.Size() - 1, key.hash}, {key.hash.Size() + 1, key.hash}} {
		if _, err := key.Sign(nil, make([]byte, wrong.size), wrong.hash); err == nil {
			t.Errorf("signs %d bytes as %v", wrong.size, wrong.hash)
		}
	}
	// A CA whose certificate has another key never gets a signature made by this key.
	stranger, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(u, &stranger.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Prove(); err == nil || !strings.Contains(err.Error(), "did not make") {
		t.Errorf("the key of another CA: %v", err)
	}
}

func TestKeyInAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ca.key")
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err == nil {
		err = os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	u := mustParse(t, "file:"+path)
	check(t, u, elliptic.P384())
	if err := u.Create(t.Context(), elliptic.P256()); err == nil {
		t.Error("a file is replaced")
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Public(t.Context()); !errors.Is(err, ErrReadable) {
		t.Errorf("a readable file: %v", err)
	}
}

// Keys of both curves work in a TPM, also at the same time. No operation replaces or removes
// another key.
func TestKeyInATPM(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a TPM")
	}
	device := swtpmtest.Start(t, swtpm.Options{EK: swtpm.None}).Address()
	at := func(handle int) URI { return mustParse(t, fmt.Sprintf("tpm:0x%08x?device=%s", handle, device)) }
	keys := map[URI]elliptic.Curve{at(0x81010060): elliptic.P256(), at(0x81010061): elliptic.P384()}
	for u, curve := range keys {
		if err := u.Create(t.Context(), curve); err != nil {
			t.Fatal(err)
		}
		if err := u.Create(t.Context(), curve); err == nil || !strings.Contains(err.Error(), "another handle") {
			t.Errorf("a key is replaced: %v", err)
		}
		check(t, u, curve)
	}
	var wg sync.WaitGroup
	for u := range keys {
		public, err := u.Public(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		key, err := Open(u, public)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			wg.Go(func() {
				if err := key.Prove(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()

	first, second := at(0x81010060), at(0x81010061)
	public, err := first.Public(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Remove(t.Context(), public); err == nil {
		t.Error("another key is removed")
	}
	if err := first.Remove(t.Context(), public); err != nil {
		t.Error(err)
	}
	if _, err := first.Public(t.Context()); err == nil || !strings.Contains(err.Error(), "no key at") {
		t.Errorf("the removed key: %v", err)
	}
	check(t, second, elliptic.P384())
}

// Neither a storage key nor a signing key that was made outside the TPM can be the key of a CA.
func TestRejectsTPMObjectsThatAreNotCAKeys(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a TPM")
	}
	device := swtpmtest.Start(t, swtpm.Options{EK: swtpm.None}).Address()
	k := &tpmKey{device, 0x81010060}
	exportable := template(tpm2.TPMECCNistP256, tpm2.TPMAlgSHA256, make([]byte, 32))
	exportable.ObjectAttributes.FixedTPM, exportable.ObjectAttributes.FixedParent = false, false
	for name, area := range map[string]tpm2.TPMTPublic{"storage key": tpm2.ECCSRKTemplate, "exportable": exportable} {
		err := k.with(t.Context(), func(tr transport.TPM) error {
			made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(area)}.Execute(tr)
			if err != nil {
				return err
			}
			object := &tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name}
			if _, err := (tpm2.EvictControl{Auth: tpm2.TPMRHOwner, ObjectHandle: object, PersistentHandle: 0x81010060}).Execute(tr); err != nil {
				return err
			}
			if _, _, err := k.read(tr); err == nil || !strings.Contains(err.Error(), "must be a signing key") {
				t.Errorf("%s: %v", name, err)
			}
			_, err = tpm2.EvictControl{Auth: tpm2.TPMRHOwner, ObjectHandle: &tpm2.NamedHandle{Handle: 0x81010060, Name: made.Name}, PersistentHandle: 0x81010060}.Execute(tr)
			_, flushed := tpm2.FlushContext{FlushHandle: made.ObjectHandle}.Execute(tr)
			return errors.Join(err, flushed)
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// If a key's file, TPM or signer does not exist, using the key returns an error that names the
// place, and never hangs.
func TestUnreachableKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, text := range []string{"file:" + dir + "/x", "tpm:0x81010060?device=" + dir + "/x", "tpm:0x81010060?device=" + dir, "signer:" + dir + "/x?key=a"} {
		_, err := mustParse(t, text).Public(context.Background())
		if err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
