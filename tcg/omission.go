package tcg

import "fmt"

// OmissionReason is why a device does not send the EK certificate that its TPM
// holds.
type OmissionReason uint8

// The reasons, as they are sent.
const (
	CertificateMalformed  OmissionReason = 1 // what is there is not an EK certificate
	CertificateOfOtherKey OmissionReason = 2 // the TPM does not make the certificate's key
	CertificateUnreadable OmissionReason = 3 // the TPM does not let it be read
)

// Omission is a device's word on why its request has no EK certificate although
// its TPM holds one. Nothing proves it: it is shown to the owner, and decides
// nothing. The zero value says nothing.
type Omission struct {
	Why   OmissionReason
	Index uint32 // of the NV index
}

// String says it in one sentence, the same at the device and for its owner; ""
// for the zero value.
func (o Omission) String() string {
	switch o.Why {
	case 0:
		return ""
	case CertificateMalformed:
		return fmt.Sprintf("NV index 0x%08X of the TPM holds something that cannot be read as an EK certificate.", o.Index)
	case CertificateOfOtherKey:
		return fmt.Sprintf("NV index 0x%08X of the TPM holds the certificate of a key that this TPM does not make: its endorsement seed was changed since (TPM2_ChangeEPS), or the certificate is another TPM's.", o.Index)
	case CertificateUnreadable:
		return fmt.Sprintf("The TPM does not let the EK certificate at NV index 0x%08X be read.", o.Index)
	}
	return fmt.Sprintf("The EK certificate at NV index 0x%08X of the TPM was left out, for a reason that this version does not know (%d).", o.Index, o.Why)
}
