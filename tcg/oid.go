package tcg

import "encoding/asn1"

// Object identifiers of the TCG (EK profile 3.1.2; DevID 8; OID registry).
var (
	OIDManufacturer     = asn1.ObjectIdentifier{2, 23, 133, 2, 1}  // tcg-at-tpmManufacturer
	OIDModel            = asn1.ObjectIdentifier{2, 23, 133, 2, 2}  // tcg-at-tpmModel
	OIDVersion          = asn1.ObjectIdentifier{2, 23, 133, 2, 3}  // tcg-at-tpmVersion
	OIDTPMSpecification = asn1.ObjectIdentifier{2, 23, 133, 2, 16} // tcg-at-tpmSpecification
	OIDEKCertificate    = asn1.ObjectIdentifier{2, 23, 133, 8, 1}  // tcg-kp-EKCertificate
	OIDAIKCertificate   = asn1.ObjectIdentifier{2, 23, 133, 8, 3}  // tcg-kp-AIKCertificate
)

// The contents of OIDs in DER.
const (
	derManufacturer     = "\x67\x81\x05\x02\x01" // OIDManufacturer
	derModel            = "\x67\x81\x05\x02\x02" // OIDModel
	derVersion          = "\x67\x81\x05\x02\x03" // OIDVersion
	derKeyUsage         = "\x55\x1d\x0f"         // 2.5.29.15
	derBasicConstraints = "\x55\x1d\x13"         // 2.5.29.19
)
