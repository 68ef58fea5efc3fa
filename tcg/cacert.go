package tcg

import (
	"crypto/x509"
	"fmt"
)

// ParseCertificate parses a maker's CA certificate (DER, nothing behind it) as
// ParseEKCertificate parses a TPM's: what crypto/x509 refuses though makers
// have done it is tolerated, and named in quirks. It checks no signature and
// no purpose.
func ParseCertificate(der []byte) (cert *x509.Certificate, quirks []string, err error) {
	if len(der) > MaxCertificate {
		return nil, nil, fmt.Errorf("tcg: certificate of %d bytes, at most %d are allowed", len(der), MaxCertificate)
	}
	if cert, quirks, err = parseLenient(der); err != nil {
		return nil, nil, fmt.Errorf("tcg: certificate: %w", err)
	}
	return cert, quirks, nil
}
