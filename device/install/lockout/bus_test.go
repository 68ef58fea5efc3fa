package lockout

import (
	"errors"
	"slices"
	"testing"

	"gangway/device/identity/tpmrc"
	"gangway/device/install/storagekey"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// A probe on the TPM's bus listens while the lockout hierarchy's password is set, used and removed.
// It must not learn the password, because with the password a thief of the machine could guess the
// PIN without limit.
func TestLockoutPasswordDoesNotCrossTheBus(t *testing.T) {
	t.Parallel()
	bus := &swtpmtest.Bus{TPM: start(t)}
	steps := []func() error{
		func() error { return Protect(bus, nil, mine, false) },
		func() error { return Protect(bus, nil, mine, true) },
		func() error { return Forgive(bus, mine) },
		func() error { return Unprotect(bus, nil, mine) },
		func() error { return Protect(bus, nil, mine, true) },
		func() error { return ClearProtected(bus, nil, mine) },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	if bus.Saw(mine) {
		t.Error("the password is on the bus")
	}
	if err := swtpm.Guess(bus, "wrong password"); !errors.Is(err, tpm2.TPMRCAuthFail) || !bus.Saw([]byte("wrong password")) {
		t.Errorf("the probe did not see the bus: %v", err)
	}
}

// An interposer on the TPM's bus replaces the key to which the password is encrypted. Then the
// password must be neither sent nor set.
func TestLockoutPasswordIsNotEncryptedToAFalseKey(t *testing.T) {
	t.Parallel()
	tpm := start(t)
	key, err := storagekey.Load(tpm, nil)
	if err != nil {
		t.Fatal(err)
	}
	key.Close()
	for _, name := range []bool{false, true} {
		bus := &swtpmtest.Bus{TPM: tpm}
		bus.ReplaceStorageKey(t, name)
		if err := Protect(bus, key.Name.Buffer, mine, false); !errors.Is(err, storagekey.ErrOther) {
			t.Errorf("with another name %v: %v; want ErrOther", name, err)
		}
		if slices.Contains(bus.Commands, tpm2.TPMCCHierarchyChanegAuth) {
			t.Errorf("with another name %v: the password was sent", name)
		}
	}
	if err := Protect(tpm, key.Name.Buffer, mine, false); err != nil {
		t.Errorf("with the true key: %v", err)
	}
}

// An interposer on the TPM's bus answers that the lockout hierarchy has no password. Unprotect and
// ClearProtected must not believe this, because their callers would then delete the only copy of
// the password. Protect must not believe it either, because it would then try a password that may
// be wrong.
func TestInterposerCannotHideTheLockoutPassword(t *testing.T) {
	t.Parallel()
	tpm := start(t)
	if err := Protect(tpm, nil, mine, false); err != nil {
		t.Fatal(err)
	}
	for name, use := range map[string]func(transport.TPM) error{
		"Unprotect":      func(t transport.TPM) error { return Unprotect(t, nil, mine) },
		"ClearProtected": func(t transport.TPM) error { return ClearProtected(t, nil, mine) },
		"Protect":        func(t transport.TPM) error { return Protect(t, nil, mine, true) },
	} {
		bus := &swtpmtest.Bus{TPM: tpm}
		bus.Flip(tpm2.TPMCCGetCapability, 1, lockoutAuthSet) // the response ends with TPMA_PERMANENT
		if err := use(bus); !errors.Is(err, tpmrc.ErrAltered) {
			t.Errorf("%s: %v; want ErrAltered", name, err)
		}
	}
	if err := Forgive(tpm, mine); err != nil {
		t.Errorf("the password is lost: %v", err)
	}
}

// A command fails if its password is wrong, or if an interposer answers in place of the TPM.
func TestLockoutCommandsAreAuthenticated(t *testing.T) {
	t.Parallel()
	tpm := start(t)
	if err := Protect(tpm, nil, mine, false); err != nil {
		t.Fatal(err)
	}
	if err := Forgive(liar{}, mine); err == nil {
		t.Error("an interposer's answer passes for the TPM's")
	}
	if err := Forgive(tpm, []byte("another password")); !errors.Is(err, tpm2.TPMRCAuthFail) {
		t.Errorf("a wrong password: %v", err)
	}
}

// liar answers each command with success, and with an authorisation whose HMAC is all zeros.
type liar struct{}

func (liar) Send(cmd []byte) ([]byte, error) {
	if cmd[9] == 0x76 { // TPM2_StartAuthSession: a handle and a nonce
		return append([]byte{0x80, 0x01, 0, 0, 0, 32, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 16}, make([]byte, 16)...), nil
	}
	rsp := []byte{0x80, 0x02, 0, 0, 0, 67, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16}
	rsp = append(rsp, make([]byte, 16)...)
	rsp = append(rsp, 0, 0, 32) // no attributes
	return append(rsp, make([]byte, 32)...), nil
}
