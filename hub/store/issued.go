package store

import (
	"context"
	"time"
)

// IssuedAIK is an AIK certificate that the hub issued in the first step of a two-step enrolment. No
// TPM has proven yet that it has the AIK: the device received the certificate only in encrypted
// form. The store removes the certificate after it has expired.
type IssuedAIK struct {
	EK          Hash   // SHA-256 of the EK's SubjectPublicKeyInfo (DER)
	Name        []byte // TPM name of the AIK
	DeviceID    string // the device id in the certificate
	Certificate []byte // DER
	Issued      time.Time
	Expires     time.Time
}

// Limits on the stored AIK certificates of two-step enrolments that are not finished.
const (
	MaxIssuedPerEK = 8      // certificates of one EK; a further certificate replaces the oldest one
	MaxIssued      = 10_000 // certificates of all EKs
)

// IssuedAIKs stores the AIK certificates that the hub issued in the first step of two-step
// enrolments, until they expire.
type IssuedAIKs interface {
	// RecordIssuedAIK stores the certificate `a`, which replaces any certificate with the same EK
	// and Name. `first` is true if the EK had no valid certificate before. If the EK then has more
	// than MaxIssuedPerEK certificates, the oldest are removed.
	//
	// ErrFull: the store already has `most` certificates, and none of them has this EK and Name.
	// Certificates with the same EK but another Name make no difference, so that the answer does
	// not reveal whether the hub knows the EK.
	RecordIssuedAIK(ctx context.Context, a IssuedAIK, most int) (first bool, err error)
	// IssuedAIK finds a certificate by EK and Name. ErrNotFound: no certificate has this EK and
	// Name, or the certificate has expired.
	IssuedAIK(ctx context.Context, ek Hash, name []byte, now time.Time) (IssuedAIK, error)
	// ExpireIssuedAIKs removes at most `limit` expired certificates, and returns how many it
	// removed.
	ExpireIssuedAIKs(ctx context.Context, now time.Time, limit int) (int, error)
}
