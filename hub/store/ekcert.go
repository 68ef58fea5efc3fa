package store

import (
	"context"
	"time"
)

const (
	// MaxUnprovenEKs bounds the kept EK certificates of EKs that no activation has proven.
	MaxUnprovenEKs = 10_000
	// UnprovenEKKeptFor is how long such a certificate is kept after a request last contained it.
	UnprovenEKKeptFor = 90 * 24 * time.Hour
)

// KeptEKCertificate is an EK certificate from a request. If a later request with the same EK lacks
// the certificate, that request is judged by the kept certificate. No verdict is kept.
type KeptEKCertificate struct {
	EK          Hash   // SHA-256 of the EK's SubjectPublicKeyInfo (DER)
	Certificate []byte // DER
	Links       []byte // CA certificates above it, without the root: DER, concatenated
	// Proven: a TPM with this EK activated an enrolment. The row does not expire, and only another
	// activation replaces its certificate.
	Proven  bool
	Expires time.Time // zero when Proven
}

// EKCertificates keeps at most one certificate for each EK.
type EKCertificates interface {
	// EKCertificate finds the kept certificate of an EK. It returns ErrNotFound also for one that
	// has expired.
	EKCertificate(ctx context.Context, ek Hash, now time.Time) (KeptEKCertificate, error)
	// KeepEKCertificate stores k as unproven, if the EK has no certificate or only an expired one.
	// If the stored certificate is the same and unproven, only its Expires is renewed. Otherwise
	// nothing changes. If more than limit rows are unproven, the rows that expire first are
	// removed.
	KeepEKCertificate(ctx context.Context, k KeptEKCertificate, now time.Time, limit int) error
	// ExpireEKCertificates removes at most limit rows past their Expires, and returns how many there
	// were.
	ExpireEKCertificates(ctx context.Context, now time.Time, limit int) (int, error)
}
