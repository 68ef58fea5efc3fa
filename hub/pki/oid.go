package pki

import "encoding/asn1"

// Extensions and purposes are from RFC 5280 (4.2.1), HardwareModuleName is from RFC 4108 (5), and
// the OIDs of the TCG are from its OID registry and DevID 8.
var (
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidPolicies         = asn1.ObjectIdentifier{2, 5, 29, 32}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidClientAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
	oidHardwareModule   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 4}
	oidAIKCertificate   = asn1.ObjectIdentifier{2, 23, 133, 8, 3}     // tcg-kp-AIKCertificate
	oidTPMHardware      = asn1.ObjectIdentifier{2, 23, 133, 1, 2}     // hwType of a TPM 2.0
	oidVerifiedResident = asn1.ObjectIdentifier{2, 23, 133, 11, 1, 1} // tcg-cap-verifiedTPMResidency
	oidVerifiedFixed    = asn1.ObjectIdentifier{2, 23, 133, 11, 1, 2}
	oidVerifiedRestrict = asn1.ObjectIdentifier{2, 23, 133, 11, 1, 3}

	// Signature algorithms of RFC 5758, 3.2.
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidECDSAWithSHA384 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}

	oidCommonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidSerialNumber = asn1.ObjectIdentifier{2, 5, 4, 5}
	oidOrganization = asn1.ObjectIdentifier{2, 5, 4, 10}

	// Pantacor's extensions, which buffer.raw writes.
	oidPantacorAKName    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 54621, 100, 0}
	oidPantacorOwner     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 54621, 100, 1}
	oidPantacorJoinToken = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 54621, 100, 3}
	oidPantacorDevice    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 54621, 100, 9}
)
