package onboard

import "encoding/base64"

// appendPEM appends a certificate in PEM (RFC 7468): the same as encoding/pem
// makes, without a writer behind a writer behind a buffer.
func appendPEM(b, der []byte) []byte {
	const line = 48 // bytes, which are 64 characters
	b = append(b, "-----BEGIN CERTIFICATE-----\n"...)
	for len(der) > 0 {
		n := min(len(der), line)
		b = base64.StdEncoding.AppendEncode(b, der[:n])
		b = append(b, '\n')
		der = der[n:]
	}
	return append(b, "-----END CERTIFICATE-----\n"...)
}
