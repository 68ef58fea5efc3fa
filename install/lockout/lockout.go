// Package lockout does what a TPM's lockout hierarchy may do: it lifts the
// lockout, and clears the TPM.
//
// A TPM counts a loss of power, after
// keys were used that are protected against guessing (as endorsement keys are),
// as a guess (Part 1, 19.8.6), and after some of them refuses such keys for
// minutes or hours. Gangway's keys have no passwords that could be guessed, so
// a machine whose power failed a few times need not wait.
package lockout

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Bits of TPMA_PERMANENT (Part 2, 8.6).
const (
	lockoutAuthSet = 1 << 2
	disableClear   = 1 << 8
	inLockout      = 1 << 9
)

// Lift lifts the lockout if the TPM is in it, and reports whether it was. Where
// the lockout hierarchy has a password, it is somebody's to lift, and is not
// tried: a wrong password there would lock the hierarchy itself.
func Lift(t transport.TPM) (bool, error) {
	state, err := permanent(t)
	if err != nil {
		return false, err
	}
	if state&inLockout == 0 {
		return false, nil
	}
	if state&lockoutAuthSet != 0 {
		return true, fmt.Errorf("lockout: the TPM is in lockout, and its lockout password is set: wait, or clear the TPM in the firmware's setup")
	}
	return true, reset(t, nil)
}

// permanent reads TPMA_PERMANENT.
func permanent(t transport.TPM) (uint32, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTPermanent), PropertyCount: 1}.Execute(t)
	if err != nil {
		return 0, fmt.Errorf("lockout: %w", err)
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil || len(list.TPMProperty) != 1 || list.TPMProperty[0].Property != tpm2.TPMPTPermanent {
		return 0, fmt.Errorf("lockout: the TPM does not say what its lockout is: %w", err)
	}
	return list.TPMProperty[0].Value, nil
}

// reset is TPM2_DictionaryAttackLockReset (Part 3, 25.2), which go-tpm has not.
func reset(t transport.TPM, password []byte) error {
	const dictionaryAttackLockReset = 0x0139
	if err := command(t, dictionaryAttackLockReset, password, nil); err != nil {
		return fmt.Errorf("lockout: lifting it: %w", err)
	}
	return nil
}

// command sends a command of the lockout hierarchy.
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
		return errors.New("the TPM's answer is cut off")
	}
	if rc := tpm2.TPMRC(be.Uint32(rsp[6:])); rc != tpm2.TPMRCSuccess {
		return rc
	}
	return nil
}
