package lockout

import (
	"errors"
	"fmt"

	"gangway/device/identity/tpmrc"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// ErrNotClearable means that this program cannot clear the TPM: the lockout hierarchy has a
// password, or TPM2_Clear is disabled. The firmware's setup can still clear it.
var ErrNotClearable = errors.New("lockout: the TPM refuses to be cleared: its lockout password is set or clearing is disabled; clear it in the firmware's setup (TPM, Security)")

// Clear clears the TPM (TPM2_Clear, Part 3, 24.6). All keys of the owner hierarchy are destroyed,
// with everything sealed under them, and so are persistent keys, the owner's NV indices and the
// hierarchies' passwords. The endorsement key stays, and so do the other keys that are derived from
// the endorsement seed: attestation keys and IDevIDs.
//
// If the lockout hierarchy has a password, Clear does not try to guess it and returns ErrNotClearable.
func Clear(t transport.TPM) error {
	state, err := permanent(t)
	if err != nil {
		return err
	}
	if state&(lockoutAuthSet|disableClear) != 0 {
		return ErrNotClearable
	}
	clear := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}
	if _, err := clear.Execute(t); err != nil {
		return fmt.Errorf("lockout: clearing the TPM: %w", tpmrc.Explain(err, tpmrc.Lockout))
	}
	return nil
}
