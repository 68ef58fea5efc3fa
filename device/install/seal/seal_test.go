package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"gangway/device/identity/tpmrc"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

func startTPM(t *testing.T) transport.TPM {
	t.Helper()
	return open(t, startChip(t))
}

func startChip(t *testing.T) *swtpm.TPM {
	t.Helper()
	return swtpmtest.Start(t, swtpm.Options{EK: swtpm.None})
}

func open(t *testing.T, chip *swtpm.TPM) transport.TPMCloser {
	t.Helper()
	link, err := chip.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { link.Close() })
	return link
}

// sealedToken seals a passphrase in the TPM and returns the LUKS2 token.
func sealedToken(t *testing.T, tpm transport.TPM) json.RawMessage {
	t.Helper()
	_, token, err := New(tpm)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// A machine with an encrypted disk unseals the disk's key at each boot, and may lose power at any
// later time. The machine's TPM must not count these losses of power as wrong guesses.
func TestPowerCutsDoNotLockTheDiskKeyIn(t *testing.T) {
	t.Parallel()
	chip := startChip(t)
	tpm := open(t, chip)
	raw := sealedToken(t, tpm)
	for range 4 {
		tpm.Close()
		if err := chip.PowerCut(t.Context()); err != nil {
			t.Fatal(err)
		}
		tpm = open(t, chip)
		if _, err := Open(tpm, raw); err != nil {
			t.Fatal(err)
		}
	}
	tpm.Close()
	if n, err := chip.FailedTries(); n != 0 || err != nil {
		t.Errorf("the TPM has counted %d wrong guesses (%v); want none", n, err)
	}
}

// If the TPM itself has a problem, the error names that problem, and does not claim that the disk
// belongs to another machine.
func TestTPMThatRefusesIsNotAnotherMachines(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(*swtpm.TPM) error
		code  string
	}{
		"lockout":          {(*swtpm.TPM).EnterLockout, tpmrc.CodeLockout},
		"owner's password": {func(chip *swtpm.TPM) error { return chip.SetPassword(tpm2.TPMRHOwner, "theirs") }, tpmrc.CodeOwnerAuth},
	} {
		t.Run(name, func(t *testing.T) {
			chip := startChip(t)
			tpm := open(t, chip)
			raw := sealedToken(t, tpm)
			tpm.Close()
			if err := c.spoil(chip); err != nil {
				t.Fatal(err)
			}
			_, err := Open(open(t, chip), raw)
			var cause *tpmrc.Cause
			if errors.Is(err, ErrNotReleased) || !errors.As(err, &cause) || cause.Code != c.code {
				t.Errorf("got %v; want the code %s and not ErrNotReleased", err, c.code)
			}
		})
	}
}

func TestSameTPMGivesTheKeyBack(t *testing.T) {
	t.Parallel()
	tpm := startTPM(t)
	passphrase, token, err := New(tpm)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), string(passphrase)) {
		t.Error("the token holds the passphrase")
	}
	for range 5 { // the TPM has room for three objects: Open must flush its own
		got, err := Open(tpm, raw)
		if err != nil || !bytes.Equal(got, passphrase) {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

func TestAnotherTPMDoesNotOpenTheDisk(t *testing.T) {
	t.Parallel()
	_, token, err := New(startTPM(t))
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := json.Marshal(token)
	if _, err := Open(startTPM(t), raw); !errors.Is(err, ErrNotReleased) {
		t.Errorf("got %v", err)
	}
}

func TestOtherStateOfSecureBootDoesNotOpenTheDisk(t *testing.T) {
	t.Parallel()
	tpm := startTPM(t)
	_, token, err := New(tpm)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := json.Marshal(token)
	extend := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: pcr, Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
	}
	if _, err := extend.Execute(tpm); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(tpm, raw); !errors.Is(err, ErrNotReleased) {
		t.Errorf("got %v", err)
	}
}

func TestRefusesBrokenTokens(t *testing.T) {
	t.Parallel()
	tpm := startTPM(t)
	for name, raw := range map[string]string{
		"not JSON": "x", "another type": `{"type":"clevis"}`,
		"no blob":        `{"type":"systemd-tpm2","tpm2-pcrs":[7],"tpm2-pcr-bank":"sha256","tpm2-primary-alg":"ecc","tpm2-blob":""}`,
		"a cut blob":     `{"type":"systemd-tpm2","tpm2-pcrs":[7],"tpm2-pcr-bank":"sha256","tpm2-primary-alg":"ecc","tpm2-blob":"//8A"}`,
		"no PCR at all":  `{"type":"systemd-tpm2","tpm2-pcrs":[],"tpm2-pcr-bank":"sha256","tpm2-primary-alg":"ecc","tpm2-blob":"AAAAAA=="}`,
		"an empty blob":  `{"type":"systemd-tpm2","tpm2-pcrs":[7],"tpm2-pcr-bank":"sha256","tpm2-primary-alg":"ecc","tpm2-blob":"AAAAAA=="}`,
		"another's bank": `{"type":"systemd-tpm2","tpm2-pcrs":[7],"tpm2-pcr-bank":"sha1","tpm2-primary-alg":"ecc","tpm2-blob":"AAAAAA=="}`,
	} {
		if _, err := Open(tpm, json.RawMessage(raw)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
