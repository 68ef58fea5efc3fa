package machine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"gangway/device/identity/tpmrc"
	"gangway/device/install/diskkey"
	"gangway/device/install/lockout"
	"gangway/device/install/luks"
	"gangway/device/install/seal"
	"gangway/device/install/storagekey"

	"github.com/google/go-tpm/tpm2/transport"
)

// Ask returns what a person types: the PIN of a disk, or its recovery key. The argument `why` is
// empty, or says what was wrong with the last answer.
type Ask func(why string) string

// askKey returns the key of a disk with a PIN. It asks until an answer opens the disk. `release`
// returns the TPM's part of the key; without this part, only the recovery key opens the disk. A
// lockout may end while askKey waits for the person, so if the TPM has refused, askKey calls
// `release` again before it tries a PIN.
func askKey(t *storagekey.Held, disk io.ReaderAt, release func() ([]byte, error), ask Ask) (luks.Key, error) {
	passphrase, refused := release()
	why := ""
	for {
		if refused != nil {
			why = strings.TrimSpace(why + "\n" + pinProblem(t, refused) + "\nA PIN cannot open the disk now, but the recovery key can.")
		}
		typed := ask(why)
		why = ""
		if diskkey.IsRecoveryKey(typed) {
			key, err := luks.Open(disk, diskkey.RecoveryKey(typed))
			if err == nil || !errors.Is(err, luks.ErrPassphrase) {
				return key, err
			}
			why = "The recovery key does not open this disk."
			continue
		}
		if err := seal.CheckPIN(typed); err != nil { // not a guess for the TPM to count
			if why = "This is not a recovery key, which has 71 characters."; refused == nil {
				why = fmt.Sprintf("This is neither a PIN nor a recovery key: %v.", err)
			}
			continue
		}
		if refused != nil {
			if passphrase, refused = release(); refused != nil {
				why = "This is not a recovery key, which has 71 characters."
				continue
			}
		}
		joined, err := diskkey.WithPIN(t, disk, passphrase, typed)
		if err == nil {
			return luks.Open(disk, joined)
		}
		why = pinProblem(t, err)
	}
}

// pinProblem says why a PIN did not open the disk, and how many tries are left.
func pinProblem(t transport.TPM, err error) string {
	var cause *tpmrc.Cause
	locked := errors.As(err, &cause) && cause.Code == tpmrc.CodeLockout
	wrong := errors.Is(err, seal.ErrWrongPIN)
	if !locked && !wrong {
		return err.Error()
	}
	s, failed := lockout.Read(t)
	switch {
	case locked || failed == nil && (s.Locked || s.Tries >= s.Max):
		return "After too many wrong PINs, the TPM accepts no PIN. Leave the machine on: within an hour, the TPM accepts the next PIN. The recovery key opens the disk at once."
	case failed != nil:
		return "The PIN is wrong."
	}
	return fmt.Sprintf("The PIN is wrong. The TPM accepts %d more tries; it forgets one wrong try in each hour that the machine is on.", s.Max-s.Tries)
}

// ErrPINNotAllowed means that the image does not allow a PIN.
var ErrPINNotAllowed = errors.New("this machine's image allows no PIN for the disk: build the image, or the system of an update, with --disk-pin")

// SetPIN sets, changes or removes the PIN of a data partition; see diskkey.SetPIN. If the image
// does not allow a PIN, SetPIN only changes or removes the PIN that the disk has. `running` and
// `others` are the files of the systems in the slots.
func SetPIN(partition, running string, others []string, allowed bool, current, pin string) error {
	f, err := os.OpenFile(partition, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := lockHeader(f); err != nil {
		return err
	}
	if encrypted, err := isEncrypted(f); err != nil {
		return err
	} else if !encrypted {
		return diskkey.ErrPINNeedsBinding
	}
	has, err := diskkey.HasPIN(f)
	if err != nil {
		return err
	}
	if !has && !allowed {
		return ErrPINNotAllowed
	}
	owner, err := ownersKey()
	if err != nil {
		return err
	}
	if owner == nil {
		return diskkey.ErrPINNeedsBinding
	}
	boot, this, systems, err := readSystems(owner, running, others, "")
	if err != nil {
		return err
	}
	t, err := OpenTPM()
	if err != nil {
		return err
	}
	defer t.Close()
	if err := diskkey.SetPIN(t, f, owner, boot, current, pin, this, systems...); err != nil {
		return errors.New(pinProblem(t, err))
	}
	return nil
}

// ClearProtectedTPM clears the TPM before a wipe, if SetPIN gave the TPM's lockout hierarchy a
// password.
func ClearProtectedTPM(partition string) error {
	f, err := os.Open(partition)
	if err != nil {
		return err
	}
	defer f.Close()
	if encrypted, err := isEncrypted(f); err != nil || !encrypted {
		return err
	}
	approvals, err := extraApprovals()
	if err != nil {
		return err
	}
	t, err := OpenTPM()
	if err != nil {
		return err
	}
	defer t.Close()
	return diskkey.ClearTPM(t, f, approvals)
}
