// Package lockout uses a TPM's lockout hierarchy: Lift ends a lockout and Clear clears the TPM.
// Read reports the state of the TPM's protection against password guessing. The agent, the
// installer and the installed system use this package.
//
// A TPM counts a loss of power as a wrong guess (Part 1, 19.8.6) if the password of a protected key
// was used since the TPM's last start or shutdown. The use of an empty password counts too. After a
// few wrong guesses, the TPM refuses such passwords for minutes or hours. The lockout does not
// affect the device's identity keys, because package identity uses them by policy and never by
// password. But the storage key, which protects a disk's key, can only be used by its password. So
// package seal prepares the TPM for a loss of power after each use.
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

// Bits of TPMA_PERMANENT (Part 2, 8.6), the TPM's persistent flags.
const (
	lockoutAuthSet = 1 << 2
	disableClear   = 1 << 8
	inLockout      = 1 << 9
)

// Lift lifts the lockout if the TPM is in lockout, and reports whether the TPM was in lockout. If
// the lockout hierarchy has a password, Lift does not guess the password and returns ErrPassword: a
// wrong password would lock the lockout hierarchy itself.
func Lift(t transport.TPM) (bool, error) {
	state, err := permanent(t)
	if err != nil {
		return false, err
	}
	if state&inLockout == 0 {
		return false, nil
	}
	if state&lockoutAuthSet != 0 {
		return true, ErrPassword
	}
	return true, reset(t, nil)
}

// ErrPassword means that the lockout hierarchy has a password. Only a person who knows this
// password can lift the lockout.
var ErrPassword = errors.New("lockout: the TPM is in lockout, and its lockout password is set: wait until the lockout ends, or clear the TPM in the firmware's setup")

// State is the state of a TPM's protection against guessing (Part 2, 6.13).
type State struct {
	Locked   bool // in lockout: the TPM refuses all passwords that are protected against guessing
	Password bool // the lockout hierarchy has a password
	// Tries is the number of wrong guesses that the TPM has counted. A lockout begins when Tries
	// reaches Max. Each time the TPM has been powered for Interval, Tries falls by one. A lockout
	// ends when Tries falls below Max.
	Tries, Max uint32
	Interval   time.Duration
}

// Read reads the state of a TPM, with two TPM commands.
func Read(t transport.TPM) (State, error) {
	bits, err := permanent(t)
	if err != nil {
		return State{}, err
	}
	s := State{Locked: bits&inLockout != 0, Password: bits&lockoutAuthSet != 0}
	list, err := properties(t, tpm2.TPMPTLockoutCounter, 3)
	if err != nil {
		return s, err
	}
	for _, p := range list {
		switch p.Property {
		case tpm2.TPMPTLockoutCounter:
			s.Tries = p.Value
		case tpm2.TPMPTMaxAuthFail:
			s.Max = p.Value
		case tpm2.TPMPTLockoutInterval:
			s.Interval = time.Duration(p.Value) * time.Second
		}
	}
	return s, nil
}

// The function `permanent` reads TPMA_PERMANENT.
func permanent(t transport.TPM) (uint32, error) {
	list, err := properties(t, tpm2.TPMPTPermanent, 1)
	if err != nil {
		return 0, err
	}
	if len(list) != 1 || list[0].Property != tpm2.TPMPTPermanent {
		return 0, errors.New("lockout: the TPM does not report TPMA_PERMANENT; update the TPM's firmware")
	}
	return list[0].Value, nil
}

func properties(t transport.TPM, first tpm2.TPMPT, count uint32) ([]tpm2.TPMSTaggedProperty, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(first), PropertyCount: count}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("lockout: %w", tpmrc.Explain(err, tpmrc.None))
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return nil, fmt.Errorf("lockout: reading the TPM's properties: %w", err)
	}
	return list.TPMProperty, nil
}

// reset runs TPM2_DictionaryAttackLockReset (Part 3, 25.2), which go-tpm does not have.
func reset(t transport.TPM, password []byte) error {
	const dictionaryAttackLockReset = 0x0139
	if err := command(t, dictionaryAttackLockReset, password, nil); err != nil {
		return fmt.Errorf("lockout: lifting the lockout: %w", tpmrc.Explain(err, tpmrc.Lockout))
	}
	return nil
}

// command sends a command that the lockout hierarchy authorises.
func command(t transport.TPM, code uint32, password, params []byte) error {
	const sessions, lockout, passwordSession = 0x8002, 0x4000000A, 0x40000009
	be := binary.BigEndian
	auth := be.AppendUint32(nil, passwordSession)
	auth = append(auth, 0, 0, 0) // no nonce, no attributes
	auth = be.AppendUint16(auth, uint16(len(password)))
	auth = append(auth, password...)
	cmd := be.AppendUint16(nil, sessions)
	cmd = be.AppendUint32(cmd, uint32(18+len(auth)+len(params)))
	cmd = be.AppendUint32(cmd, code)
	cmd = be.AppendUint32(cmd, lockout)
	cmd = be.AppendUint32(cmd, uint32(len(auth)))
	cmd = append(cmd, auth...)
	rsp, err := t.Send(append(cmd, params...))
	if err != nil {
		return err
	}
	if len(rsp) < 10 {
		return fmt.Errorf("the TPM's response has %d bytes; at least 10 are required", len(rsp))
	}
	if rc := tpm2.TPMRC(be.Uint32(rsp[6:])); rc != tpm2.TPMRCSuccess {
		return rc
	}
	return nil
}
