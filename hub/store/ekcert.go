package store

import (
	"context"
	"time"
)

const (
	// MaxUnproven bounds the EK certificates that a hub keeps of EKs which have
	// proven themselves by no activation.
	MaxUnproven = 10_000
	// KeptFor is how long such a certificate is kept after it was last shown.
	KeptFor = 90 * 24 * time.Hour
)

// KeptCertificate is the EK certificate that was shown of an EK. It is kept so
// that a later request which leaves it out is judged by it; what was decided
// by it is not kept.
type KeptCertificate struct {
	EK          Hash   // SHA-256 of the EK's SubjectPublicKeyInfo (DER)
	Certificate []byte // DER
	Links       []byte // CA certificates above it, without the root: DER, one after the other
	// Proven: a TPM with this EK activated an enrolment. Such a row does not
	// expire, and only another activation replaces its certificate.
	Proven  bool
	Expires time.Time // zero when Proven
}

// EKCertificates keeps at most one certificate for each EK.
type EKCertificates interface {
	// EKCertificate finds the certificate of an EK; ErrNotFound also when it
	// has expired.
	EKCertificate(ctx context.Context, ek Hash, now time.Time) (KeptCertificate, error)
	// KeepEKCertificate stores k, not Proven, where the EK has none that is
	// still good; where it has the same certificate, unproven, its Expires is
	// renewed. Anything else stays as it is. When more than limit rows are
	// unproven, those that expire first go.
	KeepEKCertificate(ctx context.Context, k KeptCertificate, now time.Time, limit int) error
	// ExpireEKCertificates removes at most limit rows past their Expires and
	// says how many there were.
	ExpireEKCertificates(ctx context.Context, now time.Time, limit int) (int, error)
}
