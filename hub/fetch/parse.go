package fetch

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxCerts is the largest number of certificates that are read from one response.
const maxCerts = 16

// ParseCertificates parses the response of a caIssuers URL, which is one certificate in DER, one or
// more certificates in PEM, or a PKCS #7 message that contains only certificates (RFC 5652, 5.1 and
// 10.2.3; DER or PEM). It leaves out certificates that cannot be parsed, and returns an error if no
// certificate can be parsed.
func ParseCertificates(b []byte) ([]*x509.Certificate, error) {
	var ders [][]byte
	if bytes.Contains(b, []byte("-----BEGIN ")) {
		for rest := b; len(ders) < maxCerts; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			switch block.Type {
			case "CERTIFICATE":
				ders = append(ders, block.Bytes)
			case "PKCS7", "CMS":
				ders = append(ders, messageCertificates(block.Bytes)...)
			}
		}
	} else if ders = messageCertificates(b); ders == nil {
		ders = [][]byte{b}
	}
	var out []*x509.Certificate
	for _, der := range ders[:min(len(ders), maxCerts)] {
		if c, err := x509.ParseCertificate(der); err == nil {
			out = append(out, c)
		}
	}
	if out == nil {
		return nil, errors.New("the response contains no certificate")
	}
	return out, nil
}

var oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}

// messageCertificates returns the DER of each certificate in a PKCS #7 signedData, or nil if `b` is
// not a signedData.
func messageCertificates(b []byte) (ders [][]byte) {
	zero := casn1.Tag(0).Constructed().ContextSpecific()
	s := cryptobyte.String(b)
	var info, outer, data, certs cryptobyte.String
	var id asn1.ObjectIdentifier
	var version int
	var there bool
	if !s.ReadASN1(&info, casn1.SEQUENCE) || !info.ReadASN1ObjectIdentifier(&id) || !id.Equal(oidSignedData) ||
		!info.ReadASN1(&outer, zero) || !outer.ReadASN1(&data, casn1.SEQUENCE) || !data.ReadASN1Integer(&version) ||
		!data.SkipASN1(casn1.SET) || !data.SkipASN1(casn1.SEQUENCE) || !data.ReadOptionalASN1(&certs, &there, zero) {
		return nil
	}
	for !certs.Empty() && len(ders) < maxCerts {
		var cert cryptobyte.String
		var tag casn1.Tag
		if !certs.ReadAnyASN1Element(&cert, &tag) {
			return ders
		}
		if tag == casn1.SEQUENCE { // other tags are attribute certificates
			ders = append(ders, cert)
		}
	}
	return ders
}
