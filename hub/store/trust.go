package store

import (
	"context"
	"time"
)

// TrustKind is the operator's decision on a CA certificate.
type TrustKind string

const (
	// TrustedRoot: chains may end here.
	TrustedRoot TrustKind = "root"
	// TrustedLink: an intermediate certificate that helps to build chains.
	TrustedLink TrustKind = "link"
	// Distrusted: a chain that contains it is invalid, wherever the certificate comes from.
	Distrusted TrustKind = "distrusted"
)

// TrustedCertificate is the operator's decision on a TPM maker's CA certificate. A built-in root has
// no row unless the operator decided on it.
type TrustedCertificate struct {
	Fingerprint Hash   // SHA-256 of DER
	DER         []byte // the certificate
	Kind        TrustKind
	Source      string // where the operator got it from, in words
	Added       time.Time
}

// TrustChange is one change, made completely or not at all.
type TrustChange struct {
	Put    []TrustedCertificate // each replaces the row with its fingerprint
	Remove []Hash               // fingerprints of rows to remove
	Event  Event                // for the audit trail; if Kind is empty, none is appended
}

// TrustStore keeps the operator's decisions on TPM makers' CA certificates.
type TrustStore interface {
	// TrustedCertificates lists all decisions, by fingerprint.
	TrustedCertificates(ctx context.Context) ([]TrustedCertificate, error)
	// ChangeTrust makes ConfigVersion grow. ErrNotFound: a fingerprint in Remove has no row, and
	// nothing was changed. An empty change does nothing.
	ChangeTrust(ctx context.Context, c TrustChange) error
}

// Config tells readers when the configuration changed.
type Config interface {
	// ConfigVersion grows with every change of the rules by which requests are judged: trusted
	// certificates, policies and EK lists. The hub reads it for each request, so that a change
	// holds at once in every replica. So it must be a cheap read.
	ConfigVersion(ctx context.Context) (int64, error)
}
