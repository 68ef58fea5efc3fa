package store

import (
	"context"
	"time"
)

const (
	// MaxUnprovenEKs is the maximum number of stored EK certificates that are unproven, because no
	// TPM with this EK has activated an enrolment. A store may exceed it by a few dozen, because it
	// does not count the certificates at each write.
	MaxUnprovenEKs = 10_000
	// UnprovenEKKeptFor is how long an unproven EK certificate is stored after the last request
	// that contained it.
	UnprovenEKKeptFor = 90 * 24 * time.Hour
)

// KeptEKCertificate is an EK certificate that a request contained. If a later request with the same
// EK has no EK certificate, the hub judges it with the stored one. The store does not keep the
// verdict on a certificate.
type KeptEKCertificate struct {
	EK          Hash   // SHA-256 of the EK's SubjectPublicKeyInfo (DER)
	Certificate []byte // DER
	Links       []byte // CA certificates between Certificate and the root, without the root: concatenated DER
	// Proven means that a TPM with this EK has activated an enrolment. In this case, the stored
	// certificate does not expire, and only another activation replaces it.
	Proven  bool
	Expires time.Time // zero if Proven
}

// EKCertificates stores at most one certificate for each EK.
type EKCertificates interface {
	// EKCertificate finds the stored certificate of an EK. ErrNotFound: none is stored, or only one
	// that has expired.
	EKCertificate(ctx context.Context, ek Hash, now time.Time) (KeptEKCertificate, error)
	// KeepEKCertificate stores the certificate `k` as unproven if none is stored for the EK, or
	// only one that has expired. If the same certificate is already stored and unproven, only its
	// Expires changes. In all other cases nothing changes. If more than `limit` stored certificates
	// are unproven, those that expire first are removed.
	KeepEKCertificate(ctx context.Context, k KeptEKCertificate, now time.Time, limit int) error
	// ExpireEKCertificates removes at most `limit` expired certificates, and returns how many it
	// removed.
	ExpireEKCertificates(ctx context.Context, now time.Time, limit int) (int, error)
}
