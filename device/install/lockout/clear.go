package lockout

import (
	"errors"
	"fmt"

	"gangway/device/identity/tpmrc"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// ErrNotClearable means that the TPM refuses TPM2_Clear: the lockout hierarchy has a password, or
// TPM2_Clear is disabled. The firmware's setup can still clear the TPM.
var ErrNotClearable = errors.New("lockout: the TPM refuses TPM2_Clear: its lockout password is set, or clearing is disabled; clear the TPM in the firmware's setup (TPM, Security)")

// Clear clears the TPM (TPM2_Clear, Part 3, 24.6). This destroys all keys of the owner hierarchy,
// and all data that is sealed under these keys. It also destroys the persistent keys, the owner's
// NV indices and the hierarchies' passwords. Clear does not change the endorsement key and the
// other keys that the TPM derives from the endorsement seed: attestation keys and IDevID keys.
//
// If the lockout hierarchy has a password, Clear does not guess the password and returns
// ErrNotClearable.
func Clear(t transport.TPM) error {
	state, err := permanent(t)
	if err != nil {
		return err
	}
	if state&(lockoutAuthSet|disableClear) != 0 {
		return ErrNotClearable
	}
	return clearWith(t, nil)
}

// ClearProtected clears a TPM whose lockout password Protect set. The TPM forgets its keys and the
// password in one step. If the password were removed first, a thief could cut the power after this
// step, put back a copy of the disk, and guess the disk's PIN without limit. `key` is as in
// HasPassword.
func ClearProtected(t transport.TPM, key, password []byte) error {
	state, err := authentic(t, key)
	if err != nil {
		return err
	}
	if state&lockoutAuthSet == 0 {
		return nil // a power cut came after the clear, or before Protect: Clear works
	}
	if state&disableClear != 0 {
		return ErrNotClearable
	}
	return clearWith(t, password)
}

func clearWith(t transport.TPM, password []byte) error {
	clear := tpm2.Clear{AuthHandle: hierarchy(password)}
	if _, err := clear.Execute(t); err != nil {
		return fmt.Errorf("lockout: clearing the TPM: %w", tpmrc.Explain(err, tpmrc.Lockout))
	}
	return nil
}
