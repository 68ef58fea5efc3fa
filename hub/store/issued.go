package store

import (
	"context"
	"time"
)

// IssuedAIK is an AIK certificate that the first of Pantacor's two steps
// issued. Nobody has proven the key yet: the certificate is encrypted to the
// TPM, and expires with the row.
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
	MaxIssuedOfEK = 8      // rows of an EK; the oldest goes
	MaxIssued     = 10_000 // rows in all
)

// IssuedAIKs keeps what first steps issued until it expires.
type IssuedAIKs interface {
	// RecordIssuedAIK stores a, in the place of a row of the same EK and Name.
	// It reports whether a is the only row of its EK that has not expired. Rows
	// of an EK beyond MaxIssuedOfEK go, the oldest first. ErrFull when there are
	// most rows already, and none of this EK and Name: whether others are of the
	// same EK makes no difference, so the answer tells nothing of it.
	RecordIssuedAIK(ctx context.Context, a IssuedAIK, most int) (first bool, err error)
	// IssuedAIK finds a row that has not expired. ErrNotFound.
	IssuedAIK(ctx context.Context, ek Hash, name []byte, now time.Time) (IssuedAIK, error)
	// ExpireIssuedAIKs removes at most limit rows past their Expires and says
	// how many there were.
	ExpireIssuedAIKs(ctx context.Context, now time.Time, limit int) (int, error)
}
