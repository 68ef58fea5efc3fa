package tcg

import (
	"crypto/x509"
	"fmt"
)

// ParseCertificate parses a TPM maker's CA certificate: DER, with nothing after it. Like
// ParseEKCertificate, it accepts known mistakes of makers that crypto/x509 refuses, and lists them
// in `quirks`. It does not check the signature or the key usage.
func ParseCertificate(der []byte) (cert *x509.Certificate, quirks []string, err error) {
	if len(der) > MaxCertificate {
		return nil, nil, fmt.Errorf("tcg: the certificate has %d bytes; at most %d are allowed", len(der), MaxCertificate)
	}
	if cert, quirks, err = parseLenient(der); err != nil {
		return nil, nil, fmt.Errorf("tcg: certificate: %w", err)
	}
	return cert, quirks, nil
}
