package identity

import (
	"errors"

	"gangway/device/identity/tpmrc"

	"github.com/google/go-tpm/tpm2"
)

var (
	// ErrNoEKCertificate means that the TPM has no endorsement key certificate. Some TPM makers
	// offer the certificates for download instead.
	ErrNoEKCertificate = errors.New("identity: this TPM has no endorsement key certificate")
	// ErrEKMismatch means that the TPM has EK certificates, but cannot make the key of any of them.
	ErrEKMismatch = errors.New("identity: no endorsement key certificate in this TPM matches its keys")
	// ErrOtherTPM means that the credential was made for another EK or IAK, or was altered.
	ErrOtherTPM = errors.New("identity: the credential was not made for this TPM's EK and IAK")
	// ErrPSSSalt means that this is an old TPM that signs RSA-PSS with the longest possible salt,
	// which TLS 1.3 does not allow (RFC 8446, 4.2.3).
	ErrPSSSalt = errors.New("identity: this TPM's RSA-PSS signatures have a salt that TLS 1.3 refuses: use an ECC identity key, or TLS 1.2")
	// ErrTPM12 means that the device is a TPM 1.2.
	ErrTPM12 = errors.New("identity: this is a TPM 1.2, but a TPM 2.0 is required (on some machines, the firmware setup can switch to TPM 2.0)")
	// ErrKeyChanged means that the TPM made another key than before from the same template. So the
	// TPM was replaced, or its endorsement seed was changed.
	ErrKeyChanged = errors.New("identity: the TPM now makes another key from the same template: was the TPM replaced, or reset with its maker's tool?")
	// ErrClosed means that a method was called after Close.
	ErrClosed = errors.New("identity: the TPM or its keys are closed")
)

// errForeignKey means that the TPM returned a result that was made with another key. This happens
// if another program has flushed this package's key, and the handle now refers to a key of that
// program.
var errForeignKey = errors.New("identity: the key's handle now refers to another key")

// explain converts a refusal of the TPM to a *tpmrc.Cause. If the error already contains a
// *tpmrc.Cause, explain returns the error unchanged.
func (r *ring) explain(err error) error {
	switch {
	case errors.Is(err, ErrOtherTPM), errors.Is(err, ErrOwnerAuth), errors.Is(err, ErrKeyChanged):
		return err
	case len(r.endAuth) > 0:
		return tpmrc.ExplainWithPassword(err)
	}
	return tpmrc.Explain(err, tpmrc.Endorsement)
}

// IsLockout reports whether the TPM refused a command because the TPM is in lockout.
func IsLockout(err error) bool { return errors.Is(err, tpm2.TPMRCLockout) }

// isFull reports whether the TPM has no room for an object or a session.
func isFull(err error) bool {
	for _, rc := range []tpm2.TPMRC{
		tpm2.TPMRCObjectMemory, tpm2.TPMRCSessionMemory, tpm2.TPMRCMemory,
		tpm2.TPMRCObjectHandles, tpm2.TPMRCSessionHandles,
	} {
		if errors.Is(err, rc) {
			return true
		}
	}
	return false
}

// isGone reports whether the TPM refused a command because a handle is no longer valid, as after a
// reset of the TPM.
func isGone(err error) bool {
	var rc tpm2.TPMRC
	if !errors.As(err, &rc) {
		return errors.Is(err, errForeignKey)
	}
	return rc.Is(tpm2.TPMRCHandle) ||
		rc >= tpm2.TPMRCReferenceH0 && rc <= tpm2.TPMRCReferenceH6 ||
		rc >= tpm2.TPMRCReferenceS0 && rc <= tpm2.TPMRCReferenceS6
}

// isUnsupported reports whether the TPM refused a template because the TPM lacks an algorithm.
func isUnsupported(err error) bool {
	for _, rc := range []tpm2.TPMRC{
		tpm2.TPMRCCurve, tpm2.TPMRCScheme, tpm2.TPMRCHash, tpm2.TPMRCType, tpm2.TPMRCAsymmetric,
		tpm2.TPMRCSymmetric, tpm2.TPMRCKeySize, tpm2.TPMRCKDF, tpm2.TPMRCValue,
	} {
		if errors.Is(err, rc) {
			return true
		}
	}
	return false
}
