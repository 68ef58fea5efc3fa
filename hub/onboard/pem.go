package onboard

import "encoding/base64"

// appendPEM appends a certificate in PEM (RFC 7468). The text is the same as that of encoding/pem,
// but needs fewer allocations.
func appendPEM(b, der []byte) []byte {
	const line = 48 // bytes of DER in a line of 64 characters
	b = append(b, "-----BEGIN CERTIFICATE-----\n"...)
	for len(der) > 0 {
		n := min(len(der), line)
		b = base64.StdEncoding.AppendEncode(b, der[:n])
		b = append(b, '\n')
		der = der[n:]
	}
	return append(b, "-----END CERTIFICATE-----\n"...)
}
