package diskkey

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"gangway/device/identity/tpmrc"
	"gangway/device/install/lockout"
	"gangway/device/install/luks"
	"gangway/device/install/seal"
	"gangway/device/install/storagekey"
	"gangway/internal/swtpm/swtpmtest"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// onBus is a TPM with a probe or an interposer on its bus.
type onBus struct {
	*swtpmtest.Bus
	transport.TPMCloser
}

func (b onBus) Send(cmd []byte) ([]byte, error) { return b.Bus.Send(cmd) }

// interposed runs `do` while an interposer sits on the TPM's bus. The interposer passes on the true
// storage key `honest` times, and replaces it with its own key after that.
func (l *lab) interposed(t *testing.T, honest int, do func() error) error {
	t.Helper()
	return l.on(&swtpmtest.Bus{Honest: honest}, func(b *swtpmtest.Bus) { b.ReplaceStorageKey(t, false) }, do)
}

// The method `on` runs `do` with a bus between the machine and its TPM.
func (l *lab) on(bus *swtpmtest.Bus, prepare func(*swtpmtest.Bus), do func() error) error {
	tpm := l.tpm
	bus.TPM = tpm
	prepare(bus)
	l.tpm = onBus{bus, tpm}
	defer func() { l.tpm = tpm }()
	return do()
}

// An interposer on the TPM's bus replaces the storage key while the disk's key is bound for an
// update, while a PIN is set, or while the disk is opened. It does so either from the start, or
// after the first step has got the true key. No step encrypts a secret to the false key: the first
// step compares the key with the name in the disk's header, and the later steps use the key of the
// first step. Afterwards, the disk opens as before.
func TestInterposerIsNoticedAtEachStep(t *testing.T) {
	t.Parallel()
	l, one := withRecovery(t)
	two := system(t, "two", l.owner)
	bind := func() error { _, err := l.bind(one, two); return err }
	setPIN := func() error { return l.setPIN("", "246810", one) }
	for name, do := range map[string]func() error{"bind": bind, "set a PIN": setPIN} {
		if err := l.interposed(t, 0, do); !errors.Is(err, storagekey.ErrOther) {
			t.Errorf("%s: %v; want ErrOther", name, err)
		}
		l.wantOpen(t, one, "")
	}
	for name, do := range map[string]func() error{"bind": bind, "set a PIN": setPIN} {
		if err := l.interposed(t, 1, do); err != nil {
			t.Errorf("%s, with a true key in the first step: %v", name, err)
		}
	}
	l.wantOpen(t, one, "246810")
	open := func() error { return l.opensWith(t, one, "246810") }
	if err := l.interposed(t, 0, open); !errors.Is(err, storagekey.ErrOther) {
		t.Errorf("open with a PIN: %v; want ErrOther", err)
	}
	if err := l.interposed(t, 1, open); err != nil {
		t.Errorf("open with a PIN, with a true key in the first step: %v", err)
	}
}

// An earlier version of the system, which did not record the storage key's name, has bound the
// disk's key again, so only the PIN's LUKS2 token still records the name. An interposer does not
// get the half of the passphrase that the TPM releases at the boot.
func TestNameInThePINsTokenCountsForAllSteps(t *testing.T) {
	t.Parallel()
	l, one := withRecovery(t)
	if err := l.setPIN("", "246810", one); err != nil {
		t.Fatal(err)
	}
	l.forgetName(t, seal.BoundType)
	if err := l.interposed(t, 0, func() error { return l.opensWith(t, one, "") }); !errors.Is(err, storagekey.ErrOther) {
		t.Errorf("got %v; want ErrOther", err)
	}
	l.wantOpen(t, one, "246810")
}

// A disk got its PIN from an earlier version of the system, which did not record the storage key's
// name. The disk opens, and the system then binds the key, which records the name. From then on,
// the name protects the PIN too.
func TestDiskWithoutTheStorageKeysNameOpensAndGetsTheName(t *testing.T) {
	t.Parallel()
	l, one := withRecovery(t)
	if err := l.setPIN("", "246810", one); err != nil {
		t.Fatal(err)
	}
	l.forgetName(t, seal.BoundType)
	l.forgetName(t, seal.PINType)
	l.wantOpen(t, one, "246810")
	if changed, err := l.bind(one); err != nil || !changed {
		t.Fatalf("the key was not bound again: %v, %v", changed, err)
	}
	l.wantOpen(t, one, "246810")
	if changed, err := l.bind(one); err != nil || changed {
		t.Errorf("the key was bound a third time: %v, %v", changed, err)
	}
	if err := l.interposed(t, 0, func() error { return l.opensWith(t, one, "246810") }); !errors.Is(err, storagekey.ErrOther) {
		t.Errorf("with an interposer: %v; want ErrOther", err)
	}
}

// forgetName removes the storage key's name from all LUKS2 tokens of the given type.
func (l *lab) forgetName(t *testing.T, kind string) {
	t.Helper()
	var list []map[string]any
	for _, raw := range must(luks.Tokens(l.disk, kind))(t) {
		var tok map[string]any
		if err := json.Unmarshal(raw, &tok); err != nil {
			t.Fatal(err)
		}
		if tok["key"] == nil {
			t.Fatalf("the token has no name: %s", raw)
		}
		delete(tok, "key")
		list = append(list, tok)
	}
	if err := luks.SetTokens(l.disk, keySlot, []string{kind}, list); err != nil || len(list) == 0 {
		t.Fatalf("%d tokens of %s: %v", len(list), kind, err)
	}
}

// While a person removes the PIN, or a wipe clears the TPM, an interposer falsely answers that the
// TPM's lockout hierarchy has no password. The disk's header must keep its copy of the password,
// which is the only one. Then the next attempt, without the interposer, can remove the password
// from the TPM.
func TestInterposerCannotMakeTheSystemForgetTheLockoutPassword(t *testing.T) {
	t.Parallel()
	l, one := withRecovery(t)
	if err := l.setPIN("", "246810", one); err != nil {
		t.Fatal(err)
	}
	lie := func(do func() error) {
		t.Helper()
		err := l.on(&swtpmtest.Bus{}, func(b *swtpmtest.Bus) { b.Flip(tpm2.TPMCCGetCapability, 1, 1<<2) }, do)
		if !errors.Is(err, tpmrc.ErrAltered) {
			t.Errorf("got %v; want ErrAltered", err)
		}
		if list := must(luks.Tokens(l.disk, lockoutType))(t); len(list) != 1 {
			t.Fatal("the password is lost")
		}
	}
	lie(func() error { return ClearTPM(l.tpm, l.disk, one.Approvals) })
	lie(func() error { return l.setPIN("246810", "", one) })
	if err := l.setPIN("", "", one); err != nil {
		t.Error(err)
	}
	if s, err := lockout.Read(l.tpm); err != nil || s.Password {
		t.Errorf("the lockout password stays: %+v, %v", s, err)
	}
}

// If the TPM lacks a command that the policy needs, the disk's key is not bound, the error says
// what the TPM lacks, and the disk opens as before.
func TestTPMThatCannotCheckThePolicyKeepsTheDisk(t *testing.T) {
	t.Parallel()
	l := installWith(t, seal.New)
	one := system(t, "one", l.owner)
	l.start(t, "one")
	before := bytes.Clone(l.disk.b)
	for _, command := range []tpm2.TPMCC{tpm2.TPMCCPolicyNV, tpm2.TPMCCPolicyAuthorize} {
		err := l.on(&swtpmtest.Bus{}, func(b *swtpmtest.Bus) { b.Lack(command) }, func() error { _, err := l.bind(one); return err })
		var cause *tpmrc.Cause
		if !errors.As(err, &cause) || cause.Code != tpmrc.CodeUnsupported {
			t.Errorf("got %v; want the code %s", err, tpmrc.CodeUnsupported)
		}
		if !bytes.Equal(l.disk.b, before) {
			t.Error("the disk has changed")
		}
		if !l.opens(t, one) {
			t.Error("the disk is locked")
		}
	}
}
