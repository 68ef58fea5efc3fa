package seal

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"gangway/device/install/storagekey"
	"gangway/internal/swtpm/swtpmtest"

	"github.com/google/go-tpm/tpm2"
)

// A probe records the TPM's bus while the installer seals the disk's key, the system binds it, a
// person sets and mistypes a PIN, and the machine opens the disk. The record has no secret.
func TestProbeOnTheBusLearnsNoSecret(t *testing.T) {
	t.Parallel()
	owner, chip := p256(t), startChip(t)
	bus := &swtpmtest.Bus{TPM: boot(t, chip, good)}
	passphrase, unbound, err := New(bus)
	if err != nil {
		t.Fatal(err)
	}
	must(Open(bus, must(json.Marshal(unbound))(t)))(t)
	first, raw := firstSealed(t, bus)
	must(OpenFirst(bus, raw))(t)
	released := NewPassphrase()
	toks := must(Bind(bus, KeyName(raw), released, good.binding(owner.Public(), must(Counter(bus))(t))))(t)
	if got := must(OpenBound(bus, must(json.Marshal(toks[0]))(t), approve(t, owner, good)))(t); !bytes.Equal(got, released) {
		t.Fatal("another passphrase")
	}
	const pin = "246810-and-more"
	share, tok, err := NewPIN(bus, KeyName(raw), pin)
	if err != nil {
		t.Fatal(err)
	}
	pinned := must(json.Marshal(tok))(t)
	if _, err := OpenPIN(bus, pinned, "135791"); !errors.Is(err, ErrWrongPIN) {
		t.Fatal(err)
	}
	if got := must(OpenPIN(bus, pinned, pin))(t); !bytes.Equal(got, share) {
		t.Fatal("another share")
	}

	var salt struct{ Salt []byte }
	if err := json.Unmarshal(pinned, &salt); err != nil {
		t.Fatal(err)
	}
	secrets := map[string][]byte{"share": share, "PIN": []byte(pin), "PIN's authorisation": must(authOf(pin, salt.Salt))(t)}
	for name, p := range map[string][]byte{"first": passphrase, "installer's": first, "released": released} {
		secrets[name+" passphrase"], secrets[name+" secret"] = p, must(base64.StdEncoding.DecodeString(string(p)))(t)
	}
	for name, secret := range secrets {
		if bus.Saw(secret) {
			t.Errorf("%s is on the bus", name)
		}
	}
	if !bus.Saw(KeyName(raw)) {
		t.Error("the probe did not see the bus")
	}
}

// An interposer on the TPM's bus replaces the storage key, to read the secrets that are encrypted to
// this key. The disk's header names the true key, so no secret is encrypted to the false one, also
// if the interposer leaves the key's name in the TPM's response as it is.
func TestInterposerCannotReplaceTheStorageKey(t *testing.T) {
	t.Parallel()
	owner, chip := p256(t), startChip(t)
	tpm := boot(t, chip, good)
	_, raw := firstSealed(t, tpm)
	passphrase, bound := bind(t, tpm, owner.Public(), good)
	_, tok, err := NewPIN(tpm, KeyName(raw), "246810")
	if err != nil {
		t.Fatal(err)
	}
	pinned := must(json.Marshal(tok))(t)
	n := must(Counter(tpm))(t)
	for _, name := range []bool{false, true} {
		for what, use := range map[string]func(*swtpmtest.Bus) error{
			"OpenFirst": func(b *swtpmtest.Bus) error { _, err := OpenFirst(b, raw); return err },
			"OpenBound": func(b *swtpmtest.Bus) error { _, err := OpenBound(b, bound, approve(t, owner, good)); return err },
			"OpenPIN":   func(b *swtpmtest.Bus) error { _, err := OpenPIN(b, pinned, "246810"); return err },
			"Bind": func(b *swtpmtest.Bus) error {
				_, err := Bind(b, KeyName(bound), passphrase, good.binding(owner.Public(), n))
				return err
			},
			"NewPIN": func(b *swtpmtest.Bus) error { _, _, err := NewPIN(b, KeyName(bound), "246810"); return err },
		} {
			bus := &swtpmtest.Bus{TPM: tpm}
			bus.ReplaceStorageKey(t, name)
			if err := use(bus); !errors.Is(err, ErrNotReleased) || !errors.Is(err, storagekey.ErrOther) {
				t.Errorf("%s, with another name %v: %v; want ErrNotReleased and ErrOther", what, name, err)
			}
			if slices.Contains(bus.Commands, tpm2.TPMCCStartAuthSession) {
				t.Errorf("%s, with another name %v: encrypted a secret to the false key", what, name)
			}
		}
	}
	must(OpenBound(tpm, bound, approve(t, owner, good)))(t) // the refusals left nothing in the TPM
}

// A LUKS2 token from before the storage key's name was recorded still opens. It counts as not made,
// so the system binds the disk's key again, and then the LUKS2 token records the name.
func TestTokenWithoutTheStorageKeysNameIsMadeAgain(t *testing.T) {
	t.Parallel()
	owner, chip := p256(t), startChip(t)
	tpm := boot(t, chip, good)
	passphrase, raw := bind(t, tpm, owner.Public(), good)
	binding := good.binding(owner.Public(), must(Counter(tpm))(t))
	if !binding.Made(raw) || len(KeyName(raw)) != 34 {
		t.Fatalf("the new token: %s", raw)
	}
	var tok map[string]any
	if err := json.Unmarshal(raw, &tok); err != nil {
		t.Fatal(err)
	}
	delete(tok, "key")
	old := must(json.Marshal(tok))(t)
	if got := must(OpenBound(tpm, old, approve(t, owner, good)))(t); !bytes.Equal(got, passphrase) {
		t.Error("another passphrase")
	}
	if binding.Made(old) {
		t.Error("a token without the storage key's name counts as made")
	}
}
