package lockout

import (
	"errors"
	"slices"
	"testing"

	"gangway/device/install/storagekey"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"

	"github.com/google/go-tpm/tpm2"
)

// A probe on the TPM's bus waits until the lockout hierarchy's password is set, used and removed. It
// does not learn the password, with which a thief of the machine could guess the PIN without a
// limit.
func TestLockoutPasswordDoesNotCrossTheBus(t *testing.T) {
	t.Parallel()
	bus := &swtpmtest.Bus{TPM: start(t)}
	steps := []func() error{
		func() error { return Protect(bus, nil, mine, false) },
		func() error { return Protect(bus, nil, mine, true) },
		func() error { return Forgive(bus, mine) },
		func() error { return Unprotect(bus, mine) },
		func() error { return Protect(bus, nil, mine, true) },
		func() error { return ClearProtected(bus, mine) },
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

// An interposer on the TPM's bus replaces the key to which the password is encrypted. The password
// is not sent, and not set.
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

// A wrong password, and an interposer that answers in the place of the TPM, do not pass.
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

// liar answers each command with success, and with an authorisation that has a HMAC of zeros.
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
