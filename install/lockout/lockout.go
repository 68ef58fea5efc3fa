// Package lockout lifts a TPM's lockout. A TPM counts a loss of power, after
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
	inLockout      = 1 << 9
)

// Lift lifts the lockout if the TPM is in it, and reports whether it was. Where
// the lockout hierarchy has a password, it is somebody's to lift, and is not
// tried: a wrong password there would lock the hierarchy itself.
func Lift(t transport.TPM) (bool, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTPermanent), PropertyCount: 1}.Execute(t)
	if err != nil {
		return false, fmt.Errorf("lockout: %w", err)
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil || len(list.TPMProperty) != 1 || list.TPMProperty[0].Property != tpm2.TPMPTPermanent {
		return false, fmt.Errorf("lockout: the TPM does not say whether it is in lockout: %w", err)
	}
	state := list.TPMProperty[0].Value
	if state&inLockout == 0 {
		return false, nil
	}
	if state&lockoutAuthSet != 0 {
		return true, fmt.Errorf("lockout: the TPM is in lockout, and its lockout password is set: wait, or clear the TPM in the firmware's setup")
	}
	return true, reset(t, nil)
}

// reset is TPM2_DictionaryAttackLockReset (Part 3, 25.2), which go-tpm has not.
func reset(t transport.TPM, password []byte) error {
	const (
		sessions, dictionaryAttackLockReset = 0x8002, 0x0139
		lockout, passwordSession            = 0x4000000A, 0x40000009
	)
	be := binary.BigEndian
	auth := be.AppendUint32(nil, passwordSession)
	auth = append(auth, 0, 0, 0) // no nonce, no attributes
	auth = be.AppendUint16(auth, uint16(len(password)))
	auth = append(auth, password...)
	cmd := be.AppendUint16(nil, sessions)
	cmd = be.AppendUint32(cmd, uint32(18+len(auth)))
	cmd = be.AppendUint32(cmd, dictionaryAttackLockReset)
	cmd = be.AppendUint32(cmd, lockout)
	cmd = be.AppendUint32(cmd, uint32(len(auth)))
	rsp, err := t.Send(append(cmd, auth...))
	if err != nil {
		return fmt.Errorf("lockout: lifting it: %w", err)
	}
	if len(rsp) < 10 {
		return errors.New("lockout: lifting it: the TPM's answer is cut off")
	}
	if rc := tpm2.TPMRC(be.Uint32(rsp[6:])); rc != tpm2.TPMRCSuccess {
		return fmt.Errorf("lockout: lifting it: %w", rc)
	}
	return nil
}
