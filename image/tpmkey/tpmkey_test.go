package tpmkey

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"testing"

	"gangway/device/identity"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"
	"gangway/wire/manifest"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

const handle = 0x81010050

func open(t *testing.T) *identity.TPM {
	t.Helper()
	tpm, err := identity.Open(swtpmtest.Start(t, swtpm.Options{}).Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tpm.Close() })
	return tpm
}

// A key in a TPM signs manifests like a key in a file. Two keys of one TPM differ, and a second key
// never replaces the first.
func TestKeyInATPMSignsManifests(t *testing.T) {
	tpm := open(t)
	key, err := Create(t.Context(), tpm, handle)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), tpm, handle)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("text"))
	if _, err := again.Sign(nil, digest[:], crypto.SHA256); err != nil {
		t.Error(err)
	}
	if _, err := again.Sign(nil, digest[:20], crypto.SHA1); err == nil {
		t.Error("the key signs SHA-1")
	}
	if err := manifest.CheckKey(again.Public()); err != nil {
		t.Error(err)
	}
	if _, err := Create(t.Context(), tpm, handle); !errors.Is(err, ErrTaken) {
		t.Errorf("a second key at the same handle: %v", err)
	}
	other, err := Create(t.Context(), tpm, handle+1)
	if err != nil {
		t.Fatal(err)
	}
	if other.public.Equal(key.Public()) {
		t.Error("two keys of one TPM are the same")
	}
}

// Open refuses a handle without an object, and a key that only decrypts.
func TestRejectsObjectsThatDoNotSign(t *testing.T) {
	tpm := open(t)
	if _, err := Open(t.Context(), tpm, handle); !errors.Is(err, ErrKey) {
		t.Errorf("an empty handle: %v", err)
	}
	err := tpm.Raw(t.Context(), func(tr transport.TPM) error {
		made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(tr)
		if err != nil {
			return err
		}
		_, err = tpm2.EvictControl{Auth: tpm2.TPMRHOwner, ObjectHandle: &tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name}, PersistentHandle: handle}.Execute(tr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), tpm, handle); !errors.Is(err, ErrKey) {
		t.Errorf("a storage key: %v", err)
	}
}

func TestParseHandle(t *testing.T) {
	for name, want := range map[string]uint32{"tpm:0x81010050": handle, "tpm:2164326480": handle, "tpm:0x81000000": firstPersistent, "tpm:0x81FFFFFF": lastPersistent} {
		if got, err := ParseHandle(name); err != nil || got != want {
			t.Errorf("%s: 0x%08x, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "tpm:", "0x81010050", "tpm:0x80000000", "tpm:0x82000000", "tpm:0x181010050", "tpm:-1", "tpm:key"} {
		if got, err := ParseHandle(name); err == nil {
			t.Errorf("%q: 0x%08x", name, got)
		}
	}
}
