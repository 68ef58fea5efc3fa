package lockout

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"gangway/device/identity/tpmrc"
	"gangway/device/install/storagekey"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Limits against guessing that apply while a disk has a PIN: an attacker gets Tries guesses, and
// then one more guess each time that the TPM has been powered for Interval.
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
// hierarchy for a day. If `key` is not empty, it is the name that the TPM's storage key must have;
// Protect encrypts the password to this key before it crosses the TPM's bus.
func Protect(t transport.TPM, key, password []byte, mine bool) error {
	has, err := HasPassword(t, key)
	if err != nil {
		return err
	}
	if has && !mine {
		return ErrForeignPassword
	}
	if !has {
		if err := setPassword(t, key, password); err != nil {
			return err
		}
	}
	return limits(t, password)
}

// Unprotect removes the password that Protect set, so that Lift and Clear work again. The limits
// stay. If Unprotect returns nil, the TPM no longer has the password, so the caller may delete its
// own copy. `key` is as in HasPassword.
func Unprotect(t transport.TPM, key, password []byte) error {
	if has, err := HasPassword(t, key); err != nil || !has {
		return err
	}
	remove := tpm2.HierarchyChangeAuth{AuthHandle: hierarchy(password)}
	if _, err := remove.Execute(t); err != nil {
		return fmt.Errorf("lockout: removing the lockout password: %w", tpmrc.Explain(err, tpmrc.Lockout))
	}
	return nil
}

// HasPassword reports whether the lockout hierarchy has a password. An interposer on the TPM's bus
// cannot alter the answer, unless it has replaced the TPM's storage key. If `key` is not empty, the
// storage key must have this name.
func HasPassword(t transport.TPM, key []byte) (bool, error) {
	state, err := authentic(t, key)
	return state&lockoutAuthSet != 0, err
}

// authentic is like permanent, but uses a session that authenticates the TPM's response; see
// HasPassword.
func authentic(t transport.TPM, name []byte) (uint32, error) {
	key, err := storagekey.Load(t, name)
	if err != nil {
		return 0, fmt.Errorf("lockout: %w", err)
	}
	defer key.Close()
	return permanent(t, key.Authentic(true))
}

// setPassword sets the password of the lockout hierarchy, which has none. Nobody on the TPM's bus can
// read the password: a second session, which authorises nothing, encrypts it to the storage key.
func setPassword(t transport.TPM, name, password []byte) error {
	key, err := storagekey.Load(t, name)
	if err != nil {
		return fmt.Errorf("lockout: %w", err)
	}
	defer key.Close()
	set := tpm2.HierarchyChangeAuth{AuthHandle: hierarchy(nil), NewAuth: tpm2.TPM2BAuth{Buffer: password}}
	if _, err := set.Execute(t, tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, key.In()...)); err != nil {
		return fmt.Errorf("lockout: setting the lockout password: %w", tpmrc.Explain(err, tpmrc.Lockout))
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
