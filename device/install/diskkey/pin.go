package diskkey

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"gangway/device/install/approval"
	"gangway/device/install/lockout"
	"gangway/device/install/luks"
	"gangway/device/install/seal"
	"gangway/device/install/storagekey"

	"github.com/google/go-tpm/tpm2/transport"
)

// lockoutType is the type of the LUKS2 token that contains the password of the TPM's lockout
// hierarchy, encrypted with the passphrase that the TPM releases to approved systems. The token
// also records that this disk's system has set the password, or was about to do so.
const lockoutType = "gangway-tpm2-lockout"

type lockoutToken struct {
	Type    string `json:"type"`
	Wrapped []byte `json:"wrapped"` // see seal.Wrap
}

// ErrPINNeedsBinding means that a PIN would not protect the disk, because the disk is not bound to
// its owner's systems.
var ErrPINNeedsBinding = errors.New("a PIN needs a disk that is bound to its owner's systems: build the image with --manifest-key")

// HasPIN reports whether the disk has a PIN.
func HasPIN(disk io.ReaderAt) (bool, error) {
	pins, err := luks.Tokens(disk, seal.PINType)
	return len(pins) > 0, err
}

// WithPIN returns the passphrase of a disk with a PIN. `released` is what Unlock returned for the
// same `t`. So the PIN is encrypted to the storage key that Unlock checked, even if the PIN's LUKS2
// token does not record the key's name. If the PIN is right, WithPIN resets the TPM's count of
// wrong PINs. If it is wrong, the error is seal.ErrWrongPIN.
func WithPIN(t *storagekey.Held, disk io.ReaderAt, released []byte, pin string) ([]byte, error) {
	pins, err := luks.Tokens(disk, seal.PINType)
	if err != nil {
		return nil, err
	}
	if len(pins) != 1 {
		return nil, fmt.Errorf("the disk's header has %d LUKS2 tokens for a PIN instead of 1; use the recovery key", len(pins))
	}
	share, err := seal.OpenPIN(t, pins[0], pin)
	if err != nil {
		return nil, err
	}
	if s, err := lockout.Read(t); err == nil && s.Tries > 0 && s.Password {
		if password, err := lockoutPassword(disk, released); err == nil && password != nil {
			_ = lockout.Forgive(t, password) // if this fails, the TPM forgets the wrong PINs with time
		}
	}
	return seal.Join(released, share)
}

// lockoutPassword returns the password that this disk's system made for the TPM's lockout
// hierarchy, or nil if it made none.
func lockoutPassword(disk io.ReaderAt, released []byte) ([]byte, error) {
	list, err := luks.Tokens(disk, lockoutType)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	var tok lockoutToken
	if err := json.Unmarshal(list[0], &tok); err != nil {
		return nil, fmt.Errorf("the LUKS2 token %s is damaged: %w", lockoutType, err)
	}
	return seal.Unwrap(released, tok.Wrapped)
}

// wrapped returns the LUKS2 token with the lockout password.
func wrapped(released, password []byte) (tok map[string]any, err error) {
	text, err := seal.Wrap(released, password)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(lockoutToken{lockoutType, text})
	if err == nil {
		err = json.Unmarshal(b, &tok)
	}
	return tok, err
}

// IsRecoveryKey reports whether a person typed a recovery key, which is always longer than a PIN.
func IsRecoveryKey(typed string) bool { return len(strings.TrimSpace(typed)) > seal.MaxPIN }

// RecoveryKey converts a recovery key that a person typed to a passphrase for the disk.
func RecoveryKey(typed string) []byte { return []byte(strings.ToLower(strings.TrimSpace(typed))) }

// SetPIN sets or changes the disk's PIN or, if `pin` is empty, removes it. If the disk has a PIN,
// `current` must be that PIN or the recovery key. The other arguments are those of Bind.
//
// The passphrase of a disk with a PIN has two halves: the TPM releases one to approved systems, and
// the other only with the PIN. SetPIN makes both halves anew. When SetPIN returns, the TPM's
// counter has passed the limit in the LUKS2 tokens of the former half. So a former PIN is
// worthless, even for a thief who has a copy of the disk's header and key slots from the time of
// that PIN. A copy from a time without a PIN is worthless too. After a power cut, the disk has
// either the former state or the new one.
func SetPIN(t transport.TPM, disk luks.Disk, owner crypto.PublicKey, boot Boot, current, pin string, running System, others ...System) error {
	if pin != "" {
		if err := seal.CheckPIN(pin); err != nil {
			return err
		}
	}
	if bound, err := IsBound(disk); err != nil {
		return err
	} else if !bound {
		return ErrPINNeedsBinding
	}
	has, err := HasPIN(disk)
	if err != nil {
		return err
	}
	h := storagekey.Hold(t)
	defer h.Close()
	return setPIN(h, disk, owner, boot, current, pin, has, running, others)
}

func setPIN(t *storagekey.Held, disk luks.Disk, owner crypto.PublicKey, boot Boot, current, pin string, has bool, running System, others []System) error {
	released, err := Unlock(t, disk, running.Approvals)
	if err != nil {
		return err
	}
	password, err := lockoutPassword(disk, released)
	if err != nil {
		return err
	}
	if !has && pin == "" && password == nil { // otherwise a power cut left only the lockout password
		return errors.New("the disk has no PIN")
	}
	boots, err := predictBoots(t, owner, boot, running, others)
	if err != nil {
		return err
	}
	key, err := openWith(t, disk, released, has, current)
	if err != nil {
		return err
	}
	if pin != "" {
		if password, err = protect(t, disk, released, password); err != nil {
			return err
		}
	}
	if err := replace(t, disk, key, owner, boots, pin, password); err != nil {
		return err
	}
	if pin == "" && password != nil {
		if err := lockout.Unprotect(t, t.Name(), password); err != nil {
			return err
		}
		return luks.SetTokens(disk, keySlot, []string{lockoutType}, nil)
	}
	return nil
}

// openWith returns the disk's key. `current` is the present PIN or the recovery key, as a person
// typed it.
func openWith(t *storagekey.Held, disk io.ReaderAt, released []byte, has bool, current string) (luks.Key, error) {
	passphrase := released
	switch {
	case has && IsRecoveryKey(current):
		key, err := luks.Open(disk, RecoveryKey(current))
		if errors.Is(err, luks.ErrPassphrase) {
			return nil, ErrWrongRecoveryKey
		}
		return key, err
	case has && seal.CheckPIN(current) != nil: // not a guess for the TPM to count
		return nil, errors.New("the disk has a PIN: type it, or the recovery key, as the present PIN")
	case has:
		var err error
		if passphrase, err = WithPIN(t, disk, released, current); err != nil {
			return nil, err
		}
	}
	return luks.Open(disk, passphrase)
}

// replace gives the disk a new passphrase. One half of it is released by the TPM at each of the
// boots. If `pin` is not empty, there is another half, which is released for the PIN. Otherwise the
// first half is the whole passphrase.
func replace(t *storagekey.Held, disk luks.Disk, key luks.Key, owner crypto.PublicKey, boots []map[int][]byte, pin string, password []byte) error {
	counter, err := seal.Counter(t)
	if err != nil {
		return err
	}
	released := seal.NewPassphrase()
	tokens, err := seal.Bind(t, t.Name(), released, bindings(owner, boots, counter)...)
	if err != nil {
		return err
	}
	passphrase := released
	if pin != "" {
		share, token, err := seal.NewPIN(t, t.Name(), pin)
		if err != nil {
			return err
		}
		tokens = append(tokens, token)
		if passphrase, err = seal.Join(released, share); err != nil {
			return err
		}
	}
	if password != nil {
		token, err := wrapped(released, password)
		if err != nil {
			return err
		}
		tokens = append(tokens, token)
	}
	kinds := slices.Concat(unbound, []string{seal.BoundType, seal.PINType, lockoutType})
	if err := luks.ReplacePassphrase(disk, key, keySlot, passphrase, kinds, tokens); err != nil {
		return err
	}
	return seal.Advance(t, t.Name())
}

// ErrWrongRecoveryKey means that the recovery key does not open the disk.
var ErrWrongRecoveryKey = errors.New("the recovery key does not open this disk")

// protect sets the password of the TPM's lockout hierarchy, and returns it. `password` is the
// password that this disk's system made before, or nil. A new password is recorded in the disk's
// header before it is set, so that a power cut between the two steps does no harm.
func protect(t *storagekey.Held, disk luks.Disk, released, password []byte) ([]byte, error) {
	mine := password != nil
	if has, err := lockout.HasPassword(t, t.Name()); err != nil {
		return nil, err
	} else if has && !mine {
		return nil, lockout.ErrForeignPassword
	}
	if !mine {
		password = seal.NewLockoutPassword()
		token, err := wrapped(released, password)
		if err != nil {
			return nil, err
		}
		if err := luks.SetTokens(disk, keySlot, []string{lockoutType}, []map[string]any{token}); err != nil {
			return nil, err
		}
	}
	return password, lockout.Protect(t, t.Name(), password, mine)
}

// ClearTPM clears the TPM before a wipe, if SetPIN gave the TPM's lockout hierarchy a password. The
// running system must be one that the owner approved. The disk then opens only with its recovery
// key.
func ClearTPM(t transport.TPM, disk io.ReaderAt, approvals []approval.Approval) error {
	if list, err := luks.Tokens(disk, lockoutType); err != nil || len(list) == 0 {
		return err
	}
	h := storagekey.Hold(t)
	defer h.Close()
	// If the power was cut after an earlier call had cleared the TPM, the storage key no longer has
	// the recorded name.
	if has, err := lockout.HasPassword(h, nil); err != nil || !has {
		return err
	}
	released, err := Unlock(h, disk, approvals)
	if err != nil {
		return err
	}
	password, err := lockoutPassword(disk, released)
	if err != nil {
		return err
	}
	return lockout.ClearProtected(h, h.Name(), password)
}
