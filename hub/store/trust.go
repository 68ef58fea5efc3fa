package store

import (
	"context"
	"time"
)

// TrustKind is what the operator has decided about a CA certificate.
type TrustKind string

const (
	// TrustedRoot means that the certificate is trusted: a chain may end at it.
	TrustedRoot TrustKind = "root"
	// TrustedLink means that the certificate is an intermediate CA certificate. It only helps to
	// build chains.
	TrustedLink TrustKind = "link"
	// Distrusted means that every chain that contains the certificate is invalid, even if the
	// certificate is built in.
	Distrusted TrustKind = "distrusted"
)

// TrustedCertificate is the operator's decision about a TPM maker's CA certificate. For a built-in
// root, the store has one only if the operator has made a decision.
type TrustedCertificate struct {
	Fingerprint Hash   // SHA-256 of DER
	DER         []byte // the certificate
	Kind        TrustKind
	Source      string // where the operator got the certificate, in words
	Added       time.Time
}

// TrustChange is a set of changes that is made in one transaction.
type TrustChange struct {
	Put    []TrustedCertificate // each replaces the decision on the certificate with the same fingerprint
	Remove []Hash               // fingerprints of certificates; the decisions about them are removed
	Event  Event                // for the audit trail; if its Kind is empty, no event is appended
}

// TrustStore stores the operator's decisions about TPM makers' CA certificates.
type TrustStore interface {
	// TrustedCertificates lists all decisions, in the order of fingerprints.
	TrustedCertificates(ctx context.Context) ([]TrustedCertificate, error)
	// ChangeTrust makes the changes and increases ConfigVersion. An empty change does nothing.
	// ErrNotFound: there is no decision about one of the fingerprints in Remove, and nothing was
	// changed.
	ChangeTrust(ctx context.Context, c TrustChange) error
}

// Config lets readers detect a change of the configuration.
type Config interface {
	// ConfigVersion returns a number that increases with every change of the rules by which the hub
	// judges requests: trusted certificates, policies and EK lists. The hub calls this method for
	// each request, so that every replica applies a change at once. Therefore it must be fast.
	ConfigVersion(ctx context.Context) (int64, error)
}
