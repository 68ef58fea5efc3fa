package tcg

import (
	"crypto"
	"crypto/sha256" // the name algorithms of every template
	"crypto/sha512"
	"fmt"
)

// AlgID is a TPM_ALG_ID (Part 2, 6.3), 16 bits.
type AlgID uint16

// The algorithms that appear in templates and signatures.
const (
	AlgRSA    AlgID = 0x0001
	AlgAES    AlgID = 0x0006
	AlgSHA256 AlgID = 0x000B
	AlgSHA384 AlgID = 0x000C
	AlgSHA512 AlgID = 0x000D
	AlgNull   AlgID = 0x0010
	AlgRSASSA AlgID = 0x0014
	AlgRSAPSS AlgID = 0x0016
	AlgECDSA  AlgID = 0x0018
	AlgECC    AlgID = 0x0023
	AlgCFB    AlgID = 0x0043
)

// CurveID is a TPM_ECC_CURVE (Part 2, 6.4), 16 bits.
type CurveID uint16

// The NIST curves that this package supports. It refuses all other curves.
const (
	CurveP256 CurveID = 0x0003
	CurveP384 CurveID = 0x0004
	CurveP521 CurveID = 0x0005
)

// Hash returns the Go hash of a TPM hash algorithm. It fails for SHA-1 and all other hash
// algorithms that no template uses.
func (a AlgID) Hash() (crypto.Hash, error) {
	switch a {
	case AlgSHA256:
		return crypto.SHA256, nil
	case AlgSHA384:
		return crypto.SHA384, nil
	case AlgSHA512:
		return crypto.SHA512, nil
	}
	return 0, fmt.Errorf("tcg: hash algorithm 0x%04x is not allowed", uint16(a))
}

// appendHash appends the hash of `data` to `b`. For SHA-256 and SHA-384, which nearly every key uses,
// appendHash allocates nothing on the heap.
func appendHash(b []byte, h crypto.Hash, data []byte) []byte {
	switch h {
	case crypto.SHA256:
		sum := sha256.Sum256(data)
		return append(b, sum[:]...)
	case crypto.SHA384:
		sum := sha512.Sum384(data)
		return append(b, sum[:]...)
	}
	d := h.New()
	d.Write(data)
	return d.Sum(b)
}

// Attributes is a TPMA_OBJECT (Part 2, 8.3), 32 bits.
type Attributes uint32

// The bits of TPMA_OBJECT.
const (
	FixedTPM             Attributes = 1 << 1
	STClear              Attributes = 1 << 2
	FixedParent          Attributes = 1 << 4
	SensitiveDataOrigin  Attributes = 1 << 5
	UserWithAuth         Attributes = 1 << 6
	AdminWithPolicy      Attributes = 1 << 7
	NoDA                 Attributes = 1 << 10
	EncryptedDuplication Attributes = 1 << 11
	Restricted           Attributes = 1 << 16
	Decrypt              Attributes = 1 << 17
	SignEncrypt          Attributes = 1 << 18
	X509Sign             Attributes = 1 << 19
)

// Has reports whether all of these bits are set.
func (a Attributes) Has(bits Attributes) bool { return a&bits == bits }
