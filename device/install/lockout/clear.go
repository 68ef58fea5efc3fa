package lockout

import (
	"errors"
	"fmt"

	"gangway/device/identity/tpmrc"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// ErrHeld is that the TPM does not let itself be cleared: its lockout hierarchy
// has a password, or clearing was switched off. The firmware's setup can.
var ErrHeld = errors.New("lockout: the TPM does not let itself be cleared; clear it in the firmware's setup (TPM, Security)")

// Clear clears the TPM (TPM2_Clear, Part 3, 24.6): all keys of the owner's
// hierarchy are gone for good, with what was sealed under them, and so are
// persistent keys, the owner's NV indices and the passwords of the hierarchies.
// The endorsement key stays, and with it the keys that are made from the same
// seed: attestation keys and IDevIDs.
//
// A password of the lockout hierarchy is not guessed: that is ErrHeld.
func Clear(t transport.TPM) error {
	state, err := permanent(t)
	if err != nil {
		return err
	}
	if state&(lockoutAuthSet|disableClear) != 0 {
		return ErrHeld
	}
	clear := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}
	if _, err := clear.Execute(t); err != nil {
		return fmt.Errorf("lockout: clearing the TPM: %w", tpmrc.Explain(err, tpmrc.Lockout))
	}
	return nil
}
