package onboard

import (
	"context"
	"crypto/x509"

	"gangway/hub/evidence"
)

// Online fetches CA certificates and revocation lists from makers' web servers. Package fetch
// implements it. An implementation must limit the duration of each lookup.
type Online interface {
	// Links returns the intermediate CA certificates above an EK certificate, and notes for the
	// verdict.
	Links(ctx context.Context, leaf *x509.Certificate) ([]*x509.Certificate, []string)
	// ChecksCRLs reports whether Revocation looks for revocation lists at all.
	ChecksCRLs() bool
	// Revocation looks for the certificates of a chain in revocation lists: for the EK certificate
	// `leaf`, and for the CA certificates `chain` above it, with the issuer first and the root
	// last. It returns notes about certificates that no list covered, and a refusal if a
	// certificate is revoked.
	Revocation(ctx context.Context, leaf *x509.Certificate, chain []*x509.Certificate) ([]string, *evidence.Refusal)
}
