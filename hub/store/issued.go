package store

import (
	"context"
	"time"
)

// IssuedAIK is an AIK certificate that the first step of two-step enrolment issued. The key is not
// proven yet: the certificate is encrypted to the TPM, and expires with the row.
type IssuedAIK struct {
	EK          Hash   // SHA-256 of the EK's SubjectPublicKeyInfo (DER)
	Name        []byte // TPM name of the AIK
	DeviceID    string // in the certificate
	Certificate []byte // DER
	Issued      time.Time
	Expires     time.Time
}

// Bounds of what the hub records of first steps.
const (
	MaxIssuedPerEK = 8      // rows of an EK; at the bound the oldest is removed
	MaxIssued      = 10_000 // rows in all
)

// IssuedAIKs keeps the certificates of first steps until they expire.
type IssuedAIKs interface {
	// RecordIssuedAIK stores a, and replaces a row with the same EK and Name. first reports that,
	// before the call, the EK had no row that was still valid. An EK's oldest rows beyond
	// MaxIssuedPerEK are removed.
	//
	// ErrFull: there are most rows or more, and none has this EK and Name. Rows of the same EK with
	// another Name do not prevent ErrFull, so that the answer does not reveal whether the EK is
	// known.
	RecordIssuedAIK(ctx context.Context, a IssuedAIK, most int) (first bool, err error)
	// IssuedAIK finds a row that has not expired. ErrNotFound.
	IssuedAIK(ctx context.Context, ek Hash, name []byte, now time.Time) (IssuedAIK, error)
	// ExpireIssuedAIKs removes at most limit rows past their Expires, and returns how many there
	// were.
	ExpireIssuedAIKs(ctx context.Context, now time.Time, limit int) (int, error)
}
