package store

import (
	"context"
	"time"
)

// IssuedAIK is an AIK certificate that the first step of two-step enrolment issued. The AIK is not
// proven yet: the certificate is encrypted to the TPM. The row and the certificate expire at the
// same time.
type IssuedAIK struct {
	EK          Hash   // SHA-256 of the EK's SubjectPublicKeyInfo (DER)
	Name        []byte // TPM name of the AIK
	DeviceID    string // the device id in the certificate
	Certificate []byte // DER
	Issued      time.Time
	Expires     time.Time
}

// Bounds on the stored AIK certificates of two-step enrolments that are not finished.
const (
	MaxIssuedPerEK = 8      // rows of one EK; at the bound, the oldest row is removed
	MaxIssued      = 10_000 // rows of all EKs
)

// IssuedAIKs stores the certificates that first steps of two-step enrolment issued, until they
// expire.
type IssuedAIKs interface {
	// RecordIssuedAIK stores a, and replaces a row with the same EK and Name. first is true if the
	// EK had no valid row before the call. An EK's oldest rows beyond MaxIssuedPerEK are removed.
	//
	// ErrFull: there are already `most` rows, and none has this EK and Name. Rows of the same EK
	// with another Name do not prevent ErrFull, so that the answer does not reveal whether the hub
	// knows the EK.
	RecordIssuedAIK(ctx context.Context, a IssuedAIK, most int) (first bool, err error)
	// IssuedAIK finds a row by EK and Name. ErrNotFound: there is none, or it has expired.
	IssuedAIK(ctx context.Context, ek Hash, name []byte, now time.Time) (IssuedAIK, error)
	// ExpireIssuedAIKs removes expired rows, at most limit, and returns the number of removed rows.
	ExpireIssuedAIKs(ctx context.Context, now time.Time, limit int) (int, error)
}
