package tcg

import "fmt"

// OmissionReason is the reason why a device does not send the EK certificate that its TPM has.
type OmissionReason uint8

// The reasons, with the numbers that the device sends.
const (
	CertificateMalformed  OmissionReason = 1 // the NV index does not contain an EK certificate
	CertificateOfOtherKey OmissionReason = 2 // the TPM does not have the key that the certificate is for
	CertificateUnreadable OmissionReason = 3 // the TPM refuses to read the certificate
)

// Omission is a device's statement of the reason why its request lacks the EK certificate, although
// the TPM has an EK certificate. The statement has no proof: the hub shows it to the owner, and no
// check depends on it. The zero value means no statement.
type Omission struct {
	Why   OmissionReason
	Index uint32 // the NV index
}

// String returns one sentence for a person, or "" for the zero value. The device and the hub show
// the same sentence.
func (o Omission) String() string {
	switch o.Why {
	case 0:
		return ""
	case CertificateMalformed:
		return fmt.Sprintf("NV index 0x%08X of the TPM contains data that are not an EK certificate.", o.Index)
	case CertificateOfOtherKey:
		return fmt.Sprintf("NV index 0x%08X of the TPM contains the certificate of a key that this TPM does not have: the TPM's endorsement seed was changed (TPM2_ChangeEPS), or the certificate belongs to another TPM.", o.Index)
	case CertificateUnreadable:
		return fmt.Sprintf("The TPM refuses to read the EK certificate at NV index 0x%08X.", o.Index)
	}
	return fmt.Sprintf("The EK certificate at NV index 0x%08X of the TPM was left out, for a reason that this version does not know (code %d).", o.Index, o.Why)
}
