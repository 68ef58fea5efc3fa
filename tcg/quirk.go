package tcg

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// The known mistakes of TPM makers, in the words of EKCertificate.Quirks. Each mistake was found in
// the certificate of a real TPM, by this project or by others; see docs/trust.md.
const (
	QuirkWrapped        = "wrapped as in a TPM 1.2"
	QuirkPadded         = "padded in its NV area"
	QuirkOAEP           = "key of type id-RSAES-OAEP"
	QuirkSHA1           = "signed with SHA-1"
	QuirkSerialNegative = "negative serial number"
	QuirkSerialLong     = "serial number of more than 20 bytes"
	QuirkSerialPadded   = "serial number with redundant leading bytes"
	QuirkNoKeyUsage     = "no key usage"
	QuirkKeyUsage       = "key usage that does not fit the key"
	QuirkNoEKUsage      = "no extended key usage for endorsement keys"
	QuirkNotCritical    = "SAN not critical though the subject is empty"
	QuirkNoMaker        = "no TPM manufacturer in the SAN"
	QuirkSubject        = "the TPM's attributes are in the subject, not in the SAN"
	QuirkStringType     = "the TPM's attributes are not of type UTF8String"
	QuirkSetOrder       = "a name's attributes are not in DER order"
	QuirkDefault        = "a default value is encoded, which DER forbids"
	QuirkBits           = "a bit string has trailing zero bits, which DER forbids"
)

func (e *EKCertificate) quirk(q string) {
	if !slices.Contains(e.Quirks, q) {
		e.Quirks = append(e.Quirks, q)
	}
}

// readUsage adds the quirks about the certificate's key usage and signature.
func (e *EKCertificate) readUsage() {
	c := e.Certificate
	switch c.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1:
		e.quirk(QuirkSHA1)
	}
	switch want := e.requiredKeyUsage(); {
	case c.KeyUsage == 0:
		e.quirk(QuirkNoKeyUsage)
	case c.KeyUsage&want == 0:
		e.quirk(QuirkKeyUsage)
	}
	if !e.HasEKUsage() {
		e.quirk(QuirkNoEKUsage)
	}
}

// requiredKeyUsage returns the key usage that EK profile 3.2.9 requires: key encipherment for RSA,
// key agreement for ECC.
func (e *EKCertificate) requiredKeyUsage() x509.KeyUsage {
	switch e.PublicKey.(type) {
	case *rsa.PublicKey:
		return x509.KeyUsageKeyEncipherment
	case *ecdsa.PublicKey:
		return x509.KeyUsageKeyAgreement
	}
	return 0
}

// readEncoding adds the quirks about encodings that DER forbids but crypto/x509 accepts. Other
// programs refuse certificates with such encodings, so a maker may later replace these certificates
// with corrected ones.
func (e *EKCertificate) readEncoding() {
	c := e.Certificate
	for _, name := range [][]byte{c.RawIssuer, c.RawSubject} {
		eachAttribute(name, func(*attribute) {}, func() { e.quirk(QuirkSetOrder) })
	}
	for _, raw := range rawExtensions(c.RawTBSCertificate) {
		var id, value cryptobyte.String
		if !raw.ReadASN1(&id, casn1.OBJECT_IDENTIFIER) {
			continue
		}
		if raw.PeekASN1Tag(casn1.BOOLEAN) {
			var critical cryptobyte.String
			if raw.ReadASN1(&critical, casn1.BOOLEAN) && bytes.Equal(critical, []byte{0}) {
				e.quirk(QuirkDefault)
			}
		}
		if !raw.ReadASN1(&value, casn1.OCTET_STRING) {
			continue
		}
		switch string(id) {
		case derBasicConstraints:
			var ca, seq cryptobyte.String
			if value.ReadASN1(&seq, casn1.SEQUENCE) && seq.ReadASN1(&ca, casn1.BOOLEAN) && bytes.Equal(ca, []byte{0}) {
				e.quirk(QuirkDefault)
			}
		case derKeyUsage:
			var bits cryptobyte.String
			if value.ReadASN1(&bits, casn1.BIT_STRING) && len(bits) > 1 && bits[0] < 8 && bits[len(bits)-1]>>bits[0]&1 == 0 {
				e.quirk(QuirkBits)
			}
		}
	}
}

// rawExtensions returns the content of each extension of a TBSCertificate.
func rawExtensions(tbs []byte) []cryptobyte.String {
	s := cryptobyte.String(tbs)
	var fields, outer, list cryptobyte.String
	if !s.ReadASN1(&fields, casn1.SEQUENCE) {
		return nil
	}
	for !fields.Empty() {
		var tag casn1.Tag
		if !fields.ReadAnyASN1(&outer, &tag) {
			return nil
		}
		if tag != casn1.Tag(3).Constructed().ContextSpecific() {
			continue
		}
		if !outer.ReadASN1(&list, casn1.SEQUENCE) {
			return nil
		}
	}
	out := make([]cryptobyte.String, 0, 12) // most certificates have fewer extensions
	for !list.Empty() {
		var one cryptobyte.String
		if !list.ReadASN1(&one, casn1.SEQUENCE) {
			return out
		}
		out = append(out, one)
	}
	return out
}
