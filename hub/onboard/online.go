package onboard

import (
	"context"
	"crypto/x509"

	"gangway/hub/evidence"
)

// Online looks up on the web what neither a request nor the hub has; package
// fetch is one. It bounds its own time.
type Online interface {
	// Links returns CA certificates above an EK certificate, which are no
	// roots, and notes for the verdict.
	Links(ctx context.Context, leaf *x509.Certificate) ([]*x509.Certificate, []string)
	// ChecksCRLs reports whether Revocation does anything.
	ChecksCRLs() bool
	// Revocation asks whether the EK certificate or one of the chain above it,
	// issuer first and root last, is revoked.
	Revocation(ctx context.Context, leaf *x509.Certificate, chain []*x509.Certificate) ([]string, *evidence.Refusal)
}
