package lockout

import (
	"errors"
	"os"
	"testing"

	"gangway/internal/swtpm"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

func start(t *testing.T) transport.TPM {
	t.Helper()
	if m := swtpm.Missing(); m != "" {
		t.Skip(m)
	}
	dir, err := os.MkdirTemp("", "tpm") // Unix sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	chip, err := swtpm.New(t.Context(), dir, swtpm.Options{EK: swtpm.None})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(chip.Stop)
	link, err := chip.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { link.Close() })
	return link
}

// guess uses a key that is protected against guessing, with a password.
func guess(t *testing.T, tpm transport.TPM, password string) error {
	t.Helper()
	key, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHOwner,
		InSensitive:   tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("secret")}}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true},
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{Scheme: tpm2.TPMTKeyedHashScheme{
				Scheme: tpm2.TPMAlgHMAC, Details: tpm2.NewTPMUSchemeKeyedHash(tpm2.TPMAlgHMAC, &tpm2.TPMSSchemeHMAC{HashAlg: tpm2.TPMAlgSHA256}),
			}}),
		}),
	}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(tpm) }()
	_, err = tpm2.Hmac{
		Handle: tpm2.AuthHandle{Handle: key.ObjectHandle, Name: key.Name, Auth: tpm2.PasswordAuth([]byte(password))},
		Buffer: tpm2.TPM2BMaxBuffer{Buffer: []byte("x")}, HashAlg: tpm2.TPMAlgSHA256,
	}.Execute(tpm)
	return err
}

// lock guesses until the TPM has enough of it.
func lock(t *testing.T, tpm transport.TPM) {
	t.Helper()
	for range 100 {
		if errors.Is(guess(t, tpm, "wrong"), tpm2.TPMRCLockout) {
			return
		}
	}
	t.Fatal("the TPM lets one guess a hundred times")
}

func TestLiftsALockout(t *testing.T) {
	tpm := start(t)
	if was, err := Lift(tpm); was || err != nil {
		t.Errorf("a TPM that is in order: %v, %v", was, err)
	}
	lock(t, tpm)
	if was, err := Lift(tpm); !was || err != nil {
		t.Errorf("a TPM in lockout: %v, %v", was, err)
	}
	if err := guess(t, tpm, "secret"); err != nil {
		t.Errorf("it is still in lockout: %v", err)
	}
}

// What somebody has set a password for is not tried.
func TestLockoutWithAPasswordIsLeftAlone(t *testing.T) {
	tpm := start(t)
	setPassword(t, tpm)
	lock(t, tpm)
	if was, err := Lift(tpm); !was || err == nil {
		t.Errorf("%v, %v", was, err)
	}
	// The password was not tried, so it still works.
	if err := reset(tpm, []byte("theirs")); err != nil {
		t.Error(err)
	}
}

func setPassword(t *testing.T, tpm transport.TPM) {
	t.Helper()
	set := tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: []byte("theirs")},
	}
	if _, err := set.Execute(tpm); err != nil {
		t.Fatal(err)
	}
}
