package lockout

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"gangway/device/identity/tpmrc"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Limits against guessing, while a disk has a PIN. A guesser has Tries guesses, and then one guess
// for each Interval in which the TPM has power.
const (
	Tries    = 10
	Interval = time.Hour
)

// ErrForeignPassword means that the lockout hierarchy has a password that the caller did not set.
var ErrForeignPassword = errors.New("the TPM's lockout password was set by another program, or for an earlier installation, so the TPM would not protect a PIN: clear the TPM in the firmware's setup, install the machine again, and then set the PIN")

// Protect sets the password of the lockout hierarchy and the limits against guessing. Without a
// password, any program could reset the count of wrong guesses. Set `mine` if an earlier call of
// Protect has set the password `password`. If the hierarchy has a password and `mine` is not set,
// the error is ErrForeignPassword. Protect never guesses, because a wrong password would lock the
// hierarchy for a day.
func Protect(t transport.TPM, password []byte, mine bool) error {
	s, err := Read(t)
	if err != nil {
		return err
	}
	if s.Password && !mine {
		return ErrForeignPassword
	}
	if !s.Password {
		if err := change(t, nil, password); err != nil {
			return err
		}
	}
	return limits(t, password)
}

// Unprotect removes the password that Protect set, so that Lift and Clear work again. The limits
// stay.
func Unprotect(t transport.TPM, password []byte) error {
	s, err := Read(t)
	if err != nil || !s.Password {
		return err
	}
	return change(t, password, nil)
}

func change(t transport.TPM, from, to []byte) error {
	set := tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(from)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: to},
	}
	if _, err := set.Execute(t); err != nil {
		return fmt.Errorf("lockout: changing the lockout password: %w", tpmrc.Explain(err, tpmrc.Lockout))
	}
	return nil
}

// limits runs TPM2_DictionaryAttackParameters (Part 3, 25.3), which go-tpm does not have.
func limits(t transport.TPM, password []byte) error {
	const dictionaryAttackParameters = 0x013A
	const day = 24 * time.Hour // until a wrong lockout password is forgotten
	var params []byte
	for _, n := range []uint32{Tries, uint32(Interval / time.Second), uint32(day / time.Second)} {
		params = binary.BigEndian.AppendUint32(params, n)
	}
	if err := command(t, dictionaryAttackParameters, password, params); err != nil {
		return fmt.Errorf("lockout: setting the limits against guessing: %w", tpmrc.Explain(err, tpmrc.Lockout))
	}
	return nil
}

// Forgive resets the count of wrong guesses. Call it after a person has typed the right PIN.
func Forgive(t transport.TPM, password []byte) error { return reset(t, password) }
