package identity

import (
	"errors"

	"gangway/device/identity/tpmrc"

	"github.com/google/go-tpm/tpm2"
)

var (
	// ErrNoEKCertificate: the chip holds no certificate of an endorsement
	// key (some makers serve them over the web instead).
	ErrNoEKCertificate = errors.New("identity: this TPM holds no endorsement key certificate")
	// ErrEKMismatch: there are certificates, and none is of a key of this TPM.
	ErrEKMismatch = errors.New("identity: no endorsement key certificate in this TPM fits its keys")
	// ErrOtherTPM: the credential was made for another EK or another IAK.
	ErrOtherTPM = errors.New("identity: the credential was not made for this TPM's EK and IAK")
	// ErrPSSSalt: an old TPM that signs RSA-PSS with the longest salt that
	// fits, which TLS 1.3 refuses (RFC 8446 4.2.3).
	ErrPSSSalt = errors.New("identity: this TPM's RSA-PSS signatures have a salt that TLS 1.3 refuses: use an ECC identity key, or TLS 1.2")
	// ErrTPM12: the device speaks TPM 1.2.
	ErrTPM12 = errors.New("identity: this is a TPM 1.2: a TPM 2.0 is needed (some machines can switch in their firmware setup)")
	// ErrKeyChanged: a template gave another key than before: the TPM was
	// replaced, or its endorsement seed changed.
	ErrKeyChanged = errors.New("identity: the TPM now makes another key from the same template: was it replaced or reset by its maker's tool?")
	// ErrClosed: used after Close.
	ErrClosed = errors.New("identity: closed")
)

// errForeignKey: a handle of ours did not do what our key does, so it now
// belongs to another key.
var errForeignKey = errors.New("identity: the key's handle now refers to another key")

// explain says in words what the TPM refused, where the error does not yet.
func (r *ring) explain(err error) error {
	switch {
	case errors.Is(err, ErrOtherTPM), errors.Is(err, ErrOwnerAuth), errors.Is(err, ErrKeyChanged):
		return err
	case len(r.endAuth) > 0:
		return tpmrc.ExplainWithPassword(err)
	}
	return tpmrc.Explain(err, tpmrc.Endorsement)
}

// IsLockout reports whether the TPM refused because it is in lockout.
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

// isGone reports whether a handle refers to nothing any more, as after a
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

// isUnsupported reports whether the TPM refused a template because it lacks
// an algorithm.
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
