package store

import (
	"context"
	"time"
)

// TrustKind is what the operator says of a CA certificate.
type TrustKind string

const (
	// TrustedRoot: chains may end here.
	TrustedRoot TrustKind = "root"
	// TrustedLink: it helps to build chains.
	TrustedLink TrustKind = "link"
	// Distrusted: it must be in no chain, wherever it comes from.
	Distrusted TrustKind = "distrusted"
)

// TrustedCertificate is the operator's word on a TPM maker's CA certificate.
// Those that come with Gangway have no row unless the operator said something.
type TrustedCertificate struct {
	Fingerprint Hash   // SHA-256 of DER
	DER         []byte // the certificate
	Kind        TrustKind
	Source      string // where the operator had it from, in words
	Added       time.Time
}

// TrustChange is one change, made whole or not at all.
type TrustChange struct {
	Put    []TrustedCertificate // each takes the place of the one with its fingerprint
	Forget []Hash
	Event  Event // for the trail; none if Kind is empty
}

// TrustStore keeps what the operator says of TPM makers' CA certificates.
type TrustStore interface {
	// TrustedCertificates lists all, by fingerprint.
	TrustedCertificates(ctx context.Context) ([]TrustedCertificate, error)
	// ChangeTrust makes ConfigVersion grow. ErrNotFound when there is none of a
	// fingerprint to forget; nothing is changed then. A change of nothing does
	// nothing.
	ChangeTrust(ctx context.Context, c TrustChange) error
	// ConfigVersion grows with every change of what requests are judged by:
	// trusted certificates, and whatever settings an engine keeps besides. It
	// is a cheap read, made for each request, so that a change holds at once in
	// every replica.
	ConfigVersion(ctx context.Context) (int64, error)
}
