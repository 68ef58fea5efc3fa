package seal

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"gangway/device/identity/tpmrc"
	"gangway/device/install/storagekey"
	"gangway/internal/swtpm/swtpmtest"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// A probe records the TPM's bus while the installer seals the disk's key, the system binds it, a
// person sets and mistypes a PIN, and the machine opens the disk. The record must contain no
// secret.
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

// An interposer on the TPM's bus replaces the storage key, to read the secrets that are encrypted
// to this key. The disk's header names the true key, so no secret is encrypted to the false one,
// even if the interposer leaves the key's name in the TPM's response unchanged.
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
			if err := use(bus); errors.Is(err, ErrNotReleased) || !errors.Is(err, storagekey.ErrOther) {
				t.Errorf("%s, with another name %v: %v; want ErrOther and not ErrNotReleased", what, name, err)
			}
			if slices.Contains(bus.Commands, tpm2.TPMCCStartAuthSession) {
				t.Errorf("%s, with another name %v: encrypted a secret to the false key", what, name)
			}
		}
	}
	must(OpenBound(tpm, bound, approve(t, owner, good)))(t) // the refusals left nothing in the TPM
}

// A LUKS2 token from a version of Gangway that did not record the storage key's name still opens
// the disk. But Made returns false for it, so the system binds the disk's key again, with a LUKS2
// token that records the name.
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

// While a secret is being sealed, an interposer answers with the digest of another policy, which
// every system satisfies. Then nothing must be sealed.
func TestInterposerCannotChooseThePolicy(t *testing.T) {
	t.Parallel()
	owner, chip := p256(t), startChip(t)
	tpm := boot(t, chip, good)
	n := must(Counter(tpm))(t)
	digest := must(digestOf([]tpm2.PolicyCommand{tpm2.PolicyCommandCode{Code: tpm2.TPMCCUnseal}}))(t)
	for name, seal := range map[string]func(transport.TPM) error{
		"New":      func(t transport.TPM) error { _, _, err := New(t); return err },
		"NewFirst": func(t transport.TPM) error { _, _, err := NewFirst(t); return err },
		"Bind": func(t transport.TPM) error {
			_, err := Bind(t, nil, NewPassphrase(), good.binding(owner.Public(), n))
			return err
		},
	} {
		bus := &swtpmtest.Bus{TPM: tpm}
		bus.Alter(func(code tpm2.TPMCC, rsp []byte) []byte {
			if code == tpm2.TPMCCPolicyGetDigest {
				copy(rsp[12:], digest)
			}
			return rsp
		})
		if err := seal(bus); !errors.Is(err, tpmrc.ErrAltered) {
			t.Errorf("%s: %v; want ErrAltered", name, err)
		}
		if slices.Contains(bus.Commands, tpm2.TPMCCCreate) {
			t.Errorf("%s sealed a secret under the interposer's policy", name)
		}
	}
}

// A TPM that lacks a command of the policy could never release what was sealed under that policy.
// So nothing is sealed, and the error says what the TPM lacks.
func TestTPMThatCannotCheckThePolicySealsNothing(t *testing.T) {
	t.Parallel()
	owner := p256(t)
	tpm := boot(t, startChip(t), good)
	n := must(Counter(tpm))(t)
	for name, c := range map[string]struct {
		lacks tpm2.TPMCC
		seal  func(transport.TPM) error
	}{
		"New":      {tpm2.TPMCCPolicyPCR, func(t transport.TPM) error { _, _, err := New(t); return err }},
		"NewFirst": {tpm2.TPMCCPolicyNV, func(t transport.TPM) error { _, _, err := NewFirst(t); return err }},
		"Bind": {tpm2.TPMCCPolicyNV, func(t transport.TPM) error {
			_, err := Bind(t, nil, NewPassphrase(), good.binding(owner.Public(), n))
			return err
		}},
		"Bind, the approval": {tpm2.TPMCCPolicyAuthorize, func(t transport.TPM) error {
			_, err := Bind(t, nil, NewPassphrase(), good.binding(owner.Public(), n))
			return err
		}},
	} {
		bus := &swtpmtest.Bus{TPM: tpm}
		bus.Lack(c.lacks)
		var cause *tpmrc.Cause
		if err := c.seal(bus); !errors.As(err, &cause) || cause.Code != tpmrc.CodeUnsupported {
			t.Errorf("%s: %v; want the code %s", name, err, tpmrc.CodeUnsupported)
		}
		if slices.Contains(bus.Commands, tpm2.TPMCCCreate) {
			t.Errorf("%s sealed a secret that this TPM could not release", name)
		}
	}
}

// An interposer answers with the name of its own key when the system loads the owner's key, and with
// another name of the counter. The policy has the true names, so the disk opens as usual.
func TestInterposerCannotPutItsOwnKeyInPlaceOfTheOwners(t *testing.T) {
	t.Parallel()
	owner, thief, chip := p256(t), p256(t), startChip(t)
	tpm := boot(t, chip, good)
	n := must(Counter(tpm))(t)
	handle, false1, err := loadOwner(tpm, thief.Public())
	if err != nil {
		t.Fatal(err)
	}
	flush(tpm, handle)
	bus := &swtpmtest.Bus{TPM: tpm}
	altered := 0
	bus.Alter(func(code tpm2.TPMCC, rsp []byte) []byte {
		if code == tpm2.TPMCCLoadExternal || code == tpm2.TPMCCNVReadPublic {
			copy(rsp[len(rsp)-len(false1.Buffer):], false1.Buffer) // the response ends with a name
			altered++
		}
		return rsp
	})
	passphrase := NewPassphrase()
	toks := must(Bind(bus, nil, passphrase, good.binding(owner.Public(), n)))(t)
	raw := must(json.Marshal(toks[0]))(t)
	if _, err := OpenBound(tpm, raw, approve(t, thief, good)); !errors.Is(err, ErrNotReleased) {
		t.Errorf("with the approval of the interposer: %v", err)
	}
	if got := must(OpenBound(bus, raw, approve(t, owner, good)))(t); !bytes.Equal(got, passphrase) {
		t.Error("another passphrase")
	}
	if altered < 4 {
		t.Errorf("the interposer altered %d names", altered)
	}
}

// While the installer seals the first key, an interposer answers with its own value of PCR 7, or
// says that the counter is far from its limit. Nothing must be sealed to these values.
func TestInterposerCannotForgePCRsAndTheCounter(t *testing.T) {
	t.Parallel()
	tpm := boot(t, startChip(t), good)
	must(Counter(tpm))(t)
	for name, lie := range map[string]struct {
		code tpm2.TPMCC
		at   int // from the end of the response's parameters
		use  func(transport.TPM) error
	}{
		"PCR 7, New":        {tpm2.TPMCCPCRRead, 1, func(t transport.TPM) error { _, _, err := New(t); return err }},
		"PCR 7, NewFirst":   {tpm2.TPMCCPCRRead, 1, func(t transport.TPM) error { _, _, err := NewFirst(t); return err }},
		"counter":           {tpm2.TPMCCNVRead, 8, func(t transport.TPM) error { _, err := Counter(t); return err }},
		"counter, NewFirst": {tpm2.TPMCCNVRead, 8, func(t transport.TPM) error { _, _, err := NewFirst(t); return err }},
	} {
		bus := &swtpmtest.Bus{TPM: tpm}
		bus.Flip(lie.code, lie.at, 0x40)
		if err := lie.use(bus); !errors.Is(err, tpmrc.ErrAltered) {
			t.Errorf("%s: got %v; want ErrAltered", name, err)
		}
	}
	must(Counter(tpm))(t) // the refusals left nothing in the TPM
}

// An interposer does not forward the command that advances the counter, and answers that it
// succeeded. If Advance believed this, the old LUKS2 tokens would stay valid.
func TestInterposerCannotPretendThatTheCounterAdvanced(t *testing.T) {
	t.Parallel()
	tpm := boot(t, startChip(t), good)
	n := must(Counter(tpm))(t)
	if err := Advance(pretends{tpm}, nil); !errors.Is(err, tpmrc.ErrAltered) {
		t.Errorf("got %v; want ErrAltered", err)
	}
	if now := must(Counter(tpm))(t); now != n {
		t.Fatalf("the counter went from %d to %d", n, now)
	}
	if err := Advance(tpm, nil); err != nil || must(Counter(tpm))(t) != n+1 {
		t.Errorf("without the interposer: %v", err)
	}
}

// pretends is a TPM whose bus has an interposer that swallows TPM2_NV_Increment.
type pretends struct{ transport.TPM }

func (p pretends) Send(cmd []byte) ([]byte, error) {
	if tpm2.TPMCC(binary.BigEndian.Uint32(cmd[6:])) != tpm2.TPMCCNVIncrement {
		return p.TPM.Send(cmd)
	}
	if binary.BigEndian.Uint32(cmd[22:]) == uint32(tpm2.TPMRSPW) { // authorised with a password: no HMAC
		return []byte{0x80, 0x02, 0, 0, 0, 19, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0}, nil
	}
	rsp := append([]byte{0x80, 0x02, 0, 0, 0, 67, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16}, make([]byte, 16)...)
	return append(append(rsp, 0, 0, 32), make([]byte, 32)...), nil
}
