// Package lockout uses a TPM's lockout hierarchy: Lift ends a lockout and Clear clears the TPM.
// Read reports the state of the TPM's protection against password guessing. The agent, the
// installer and the installed system use this package.
//
// A TPM counts a loss of power as a wrong guess (Part 1, 19.8.6) if the password of a protected key
// was used since the TPM's last start or shutdown. The use of an empty password counts too. After a
// few wrong guesses, the TPM refuses such passwords for minutes or hours. The lockout does not
// affect the device's identity keys, because package identity uses them by policy and never by
// password. But the storage key, which protects a disk's key, can only be used with its password,
// so package [seal] prepares the TPM for a loss of power after each use of the key.
package lockout

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
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
	// reaches Max, and ends when Tries falls below Max. Tries falls by one each time the TPM has
	// been powered for Interval.
	Tries, Max uint32
	Interval   time.Duration
}

// Read reads the state of a TPM's protection against guessing. It sends two TPM commands.
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

// The function `permanent` reads TPMA_PERMANENT. Without a session, the response is not authenticated.
func permanent(t transport.TPM, sessions ...tpm2.Session) (uint32, error) {
	list, err := properties(t, tpm2.TPMPTPermanent, 1, sessions...)
	if err != nil {
		return 0, err
	}
	if len(list) != 1 || list[0].Property != tpm2.TPMPTPermanent {
		return 0, errors.New("lockout: the TPM does not report TPMA_PERMANENT; update the TPM's firmware")
	}
	return list[0].Value, nil
}

func properties(t transport.TPM, first tpm2.TPMPT, count uint32, sessions ...tpm2.Session) ([]tpm2.TPMSTaggedProperty, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(first), PropertyCount: count}.Execute(t, sessions...)
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

// nonceSize is the size of session nonces, in bytes.
const nonceSize = 16

// hierarchy returns a handle of the lockout hierarchy that authorises a command with the
// hierarchy's password. The password does not cross the TPM's bus: an HMAC proves that this program
// knows it, and an HMAC in the response proves that the TPM knows it too.
//
// The session is bound to the hierarchy, so the key of the HMACs stays the same even if the command
// changes or removes the password. Otherwise the TPM would compute the response's HMAC with the new
// password (Part 3, 24.6 and 24.8), and go-tpm v0.9.8 with the old one.
func hierarchy(password []byte) tpm2.AuthHandle {
	h := tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Name: tpm2.HandleName(tpm2.TPMRHLockout), Auth: tpm2.PasswordAuth(nil)}
	if len(password) > 0 {
		h.Auth = tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, tpm2.Bound(h.Handle, h.Name, password), tpm2.Auth(password))
	}
	return h
}

// command sends a command that the lockout hierarchy authorises, and that returns no parameters.
func command(t transport.TPM, code tpm2.TPMCC, password, params []byte) error {
	const sessions, header = 0x8002, 14 // bytes: tag, size, code, and then the handle or the size of the parameters
	h := hierarchy(password)
	if err := h.Auth.Init(t); err != nil {
		return err
	}
	done := false
	defer func() {
		if !done { // the TPM has not ended the session
			_ = h.Auth.CleanupFailure(t)
		}
	}()
	names := []tpm2.TPM2BName{h.Name}
	if err := h.Auth.NewNonceCaller(); err != nil {
		return err
	}
	area, err := h.Auth.Authorize(code, params, nil, names, 0)
	if err != nil {
		return err
	}
	auth := tpm2.Marshal(area)
	be := binary.BigEndian
	cmd := be.AppendUint16(nil, sessions)
	cmd = be.AppendUint32(cmd, uint32(header+4+len(auth)+len(params)))
	cmd = be.AppendUint32(cmd, uint32(code))
	cmd = be.AppendUint32(cmd, uint32(h.Handle.HandleValue()))
	cmd = be.AppendUint32(cmd, uint32(len(auth)))
	rsp, err := t.Send(slices.Concat(cmd, auth, params))
	if err != nil {
		return err
	}
	if len(rsp) < 10 {
		return fmt.Errorf("the TPM's response has %d bytes; at least 10 are required", len(rsp))
	}
	rc := tpm2.TPMRC(be.Uint32(rsp[6:]))
	if rc != tpm2.TPMRCSuccess {
		return rc
	}
	if len(rsp) < header || be.Uint32(rsp[10:]) != 0 {
		return errors.New("the TPM's response has parameters, or no authorisation")
	}
	answer, err := tpm2.Unmarshal[tpm2.TPMSAuthResponse](rsp[header:])
	if err != nil {
		return fmt.Errorf("the authorisation in the TPM's response: %w", err)
	}
	done = true
	return h.Auth.Validate(rc, code, nil, names, 0, answer)
}
