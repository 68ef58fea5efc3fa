package tcg

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strconv"
)

// MaxPublic is the largest TPMT_PUBLIC accepted, in bytes: an RSA 4096 key
// with a SHA-512 policy needs 604.
const MaxPublic = 1024

// Public is the public area of an asymmetric TPM key, TPMT_PUBLIC (Part 2, 12.2.4). Raw is the
// marshalled structure. The key's name contains the hash of Raw.
type Public struct {
	Raw        []byte
	Type       AlgID // AlgRSA or AlgECC
	NameAlg    AlgID
	Attributes Attributes
	AuthPolicy []byte

	// The fields of TPMT_SYM_DEF_OBJECT. Symmetric is AlgNull for a signing key.
	Symmetric     AlgID
	SymmetricBits uint16
	SymmetricMode AlgID

	Scheme     AlgID // AlgNull, or the only scheme with which the key signs
	SchemeHash AlgID // 0 if Scheme is AlgNull

	KeyBits  uint16 // RSA
	Exponent uint32 // RSA exponent; 0 means 65537
	Modulus  []byte // RSA, big-endian

	Curve CurveID // ECC
	X, Y  []byte  // ECC coordinates, big-endian, at most as long as the curve's size

	key crypto.PublicKey // cached by Key
}

// ParsePublic parses the TPMT_PUBLIC of an RSA or ECC key. It accepts nothing after the structure.
// It does not check the attributes. The result aliases `raw`.
func ParsePublic(raw []byte) (*Public, error) {
	if len(raw) > MaxPublic {
		return nil, fmt.Errorf("tcg: the TPMT_PUBLIC has %d bytes; at most %d are allowed", len(raw), MaxPublic)
	}
	c := cursor{b: raw}
	p := &Public{
		Raw:        raw,
		Type:       AlgID(c.u16()),
		NameAlg:    AlgID(c.u16()),
		Attributes: Attributes(c.u32()),
		AuthPolicy: c.sized(64),
	}
	if c.err == nil && p.Type != AlgRSA && p.Type != AlgECC {
		return nil, fmt.Errorf("tcg: the TPMT_PUBLIC has type 0x%04x; only RSA and ECC are supported", uint16(p.Type))
	}
	p.Symmetric = AlgID(c.u16())
	switch p.Symmetric {
	case AlgNull:
	case AlgAES:
		p.SymmetricBits = c.u16()
		p.SymmetricMode = AlgID(c.u16())
	default:
		if c.err == nil {
			return nil, fmt.Errorf("tcg: the TPMT_PUBLIC has the symmetric algorithm 0x%04x; only AES and none are supported", uint16(p.Symmetric))
		}
	}
	p.Scheme = AlgID(c.u16())
	switch p.Scheme {
	case AlgNull:
	case AlgRSASSA, AlgRSAPSS, AlgECDSA:
		p.SchemeHash = AlgID(c.u16())
	default:
		if c.err == nil {
			return nil, fmt.Errorf("tcg: the TPMT_PUBLIC has the scheme 0x%04x, which is not supported", uint16(p.Scheme))
		}
	}
	switch p.Type {
	case AlgRSA:
		if p.Scheme == AlgECDSA {
			return nil, errors.New("tcg: the TPMT_PUBLIC of an RSA key has an ECC scheme")
		}
		p.KeyBits = c.u16()
		p.Exponent = c.u32()
		p.Modulus = c.sized(512)
	case AlgECC:
		if p.Scheme == AlgRSASSA || p.Scheme == AlgRSAPSS {
			return nil, errors.New("tcg: the TPMT_PUBLIC of an ECC key has an RSA scheme")
		}
		p.Curve = CurveID(c.u16())
		if kdf := AlgID(c.u16()); c.err == nil && kdf != AlgNull {
			return nil, fmt.Errorf("tcg: the TPMT_PUBLIC has the KDF 0x%04x; no KDF is allowed", uint16(kdf))
		}
		p.X = c.sized(66)
		p.Y = c.sized(66)
	}
	if err := c.end(); err != nil {
		return nil, fmt.Errorf("tcg: TPMT_PUBLIC: %w", err)
	}
	return p, nil
}

// Name returns the key's TPM name: nameAlg (2 bytes, big-endian), then the digest of the public
// area (Part 1, 16).
func (p *Public) Name() ([]byte, error) { return name(p.NameAlg, p.Raw) }

func name(alg AlgID, data ...[]byte) ([]byte, error) {
	h, err := alg.Hash()
	if err != nil {
		return nil, err
	}
	out := make([]byte, 2, 2+h.Size())
	binary.BigEndian.PutUint16(out, uint16(alg))
	if len(data) == 1 {
		return appendHash(out, h, data[0]), nil
	}
	var room [128]byte
	all := room[:0]
	for _, b := range data {
		all = append(all, b...)
	}
	return appendHash(out, h, all), nil
}

// EndorsementQualifiedName computes the qualified name (Part 1, 16) of a primary key of the
// endorsement hierarchy from the key's name. A TPM puts the signing key's qualified name into each
// attestation. This name proves the hierarchy of the signing key.
func EndorsementQualifiedName(keyName []byte) ([]byte, error) {
	if len(keyName) < 2 {
		return nil, errors.New("tcg: the TPM name has fewer than 2 bytes")
	}
	return name(AlgID(binary.BigEndian.Uint16(keyName)), []byte{0x40, 0x00, 0x00, 0x0B}, keyName)
}

// Key returns the key as *ecdsa.PublicKey or *rsa.PublicKey. A point off its curve, an RSA key
// whose modulus does not have exactly KeyBits bits, and sizes below 2048 bits are errors. The first
// call caches the result, so it must not run concurrently with another call.
func (p *Public) Key() (crypto.PublicKey, error) {
	if p.key != nil {
		return p.key, nil
	}
	key, err := p.parseKey()
	if err != nil {
		return nil, err
	}
	p.key = key
	return key, nil
}

func (p *Public) parseKey() (crypto.PublicKey, error) {
	switch p.Type {
	case AlgRSA:
		n := new(big.Int).SetBytes(p.Modulus)
		if p.KeyBits < 2048 || p.KeyBits > 4096 || n.BitLen() != int(p.KeyBits) {
			return nil, fmt.Errorf("tcg: the RSA modulus has %d bits, but the key's size is %d bits", n.BitLen(), p.KeyBits)
		}
		e := int(p.Exponent)
		if e == 0 {
			e = 65537
		}
		if e < 65537 || e%2 == 0 || n.Bit(0) == 0 {
			return nil, errors.New("tcg: the RSA key's exponent must be odd and at least 65537, and its modulus must be odd")
		}
		return &rsa.PublicKey{N: n, E: e}, nil
	case AlgECC:
		curve, err := p.Curve.curve()
		if err != nil {
			return nil, err
		}
		size := (curve.Params().BitSize + 7) / 8
		if len(p.X) > size || len(p.Y) > size {
			return nil, errors.New("tcg: an ECC coordinate is longer than its curve allows")
		}
		point := make([]byte, 1+2*size)
		point[0] = 4
		copy(point[1+size-len(p.X):], p.X)
		copy(point[1+2*size-len(p.Y):], p.Y)
		key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
		if err != nil {
			return nil, fmt.Errorf("tcg: ECC key: %w", err)
		}
		return key, nil
	}
	return nil, errors.New("tcg: the key is neither RSA nor ECC")
}

func (c CurveID) curve() (elliptic.Curve, error) {
	switch c {
	case CurveP256:
		return elliptic.P256(), nil
	case CurveP384:
		return elliptic.P384(), nil
	case CurveP521:
		return elliptic.P521(), nil
	}
	return nil, fmt.Errorf("tcg: curve 0x%04x is not allowed", uint16(c))
}

// Is reports whether `key` has the same public numbers as this public area. If so, and if it is an
// ECC key, later calls of Key return `key` itself, because decoding a P-384 point a second time
// would take as long as a signature.
func (p *Public) Is(key crypto.PublicKey) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		e := int(p.Exponent)
		if e == 0 {
			e = 65537
		}
		modulus := bytes.TrimLeft(p.Modulus, "\x00")
		var room [512]byte // as long as the largest modulus that ParsePublic accepts
		if p.Type != AlgRSA || k.E != e || k.N.BitLen() != int(p.KeyBits) || len(modulus) != (int(p.KeyBits)+7)/8 || len(modulus) > len(room) {
			return false
		}
		return bytes.Equal(modulus, k.N.FillBytes(room[:len(modulus)]))
	case *ecdsa.PublicKey:
		if p.key == key {
			return true
		}
		curve, err := p.Curve.curve()
		if err != nil || p.Type != AlgECC || k.Curve != curve {
			return false
		}
		point, err := k.Bytes()
		if err != nil {
			return false
		}
		size := (len(point) - 1) / 2
		x, y := point[1:1+size], point[1+size:]
		if len(p.X) > size || len(p.Y) > size || !bytes.Equal(bytes.TrimLeft(x, "\x00"), bytes.TrimLeft(p.X, "\x00")) ||
			!bytes.Equal(bytes.TrimLeft(y, "\x00"), bytes.TrimLeft(p.Y, "\x00")) {
			return false
		}
		p.key = key
		return true
	}
	return false
}

// IsCertified reports whether `e` is a certificate of this public area's key. It does the same as
// Is, but usually compares bytes, and decodes no point of an elliptic curve.
func (p *Public) IsCertified(e *EKCertificate) bool {
	var room [maxSPKI]byte
	if spki := p.appendSPKI(room[:0]); len(spki) > 0 && bytes.Equal(spki, e.Certificate.RawSubjectPublicKeyInfo) {
		p.key = e.PublicKey // crypto/x509 has decoded this key from the same bytes
		return true
	}
	return p.Is(e.PublicKey)
}

// Algorithm returns the kind of key in words for people: "ECDSA P-256", "RSA 2048".
func (p *Public) Algorithm() string {
	switch {
	case p.Type == AlgRSA:
		return "RSA " + strconv.Itoa(int(p.KeyBits))
	case p.Type == AlgECC && p.Curve == CurveP256:
		return "ECDSA P-256"
	case p.Type == AlgECC && p.Curve == CurveP384:
		return "ECDSA P-384"
	case p.Type == AlgECC && p.Curve == CurveP521:
		return "ECDSA P-521"
	}
	return fmt.Sprintf("unknown (0x%04x)", uint16(p.Type))
}

// KeyHash returns the function KeyHash of the key. If the key is unusable, it returns the error of
// Key.
func (p *Public) KeyHash() ([32]byte, error) {
	key, err := p.Key()
	if err != nil {
		return [32]byte{}, err
	}
	var room [maxSPKI]byte
	if spki := p.appendSPKI(room[:0]); len(spki) > 0 {
		return sha256.Sum256(spki), nil
	}
	return KeyHash(key)
}

// appendSPKI appends the SubjectPublicKeyInfo (DER) of a P-256 or P-384 key. For other kinds of
// keys, and for coordinates that are too long, it appends nothing. It does not check whether the
// point is on the curve.
func (p *Public) appendSPKI(b []byte) []byte {
	if p.Type != AlgECC {
		return b
	}
	curve, err := p.Curve.curve()
	if err != nil {
		return b
	}
	head, size := spkiHead(curve), (curve.Params().BitSize+7)/8
	if head == "" || len(p.X) > size || len(p.Y) > size {
		return b
	}
	b = append(append(b, head...), 4) // an uncompressed point
	for _, v := range [][]byte{p.X, p.Y} {
		b = append(b, make([]byte, size-len(v))...)
		b = append(b, v...)
	}
	return b
}

// maxSPKI is more than the length of the longest SubjectPublicKeyInfo that begins with an spkiHead.
const maxSPKI = 192

// KeyHash returns the SHA-256 of a key's SubjectPublicKeyInfo (DER). The hub identifies an
// endorsement key by this hash, which does not depend on the key's certificate or template.
func KeyHash(key crypto.PublicKey) ([32]byte, error) {
	if k, ok := key.(*ecdsa.PublicKey); ok {
		if head := spkiHead(k.Curve); head != "" {
			point, err := k.Bytes()
			if err != nil {
				return [32]byte{}, fmt.Errorf("tcg: %w", err)
			}
			var b [maxSPKI]byte
			return sha256.Sum256(append(append(b[:0], head...), point...)), nil
		}
	}
	if k, ok := key.(*rsa.PublicKey); ok && k.E == 65537 && k.N.BitLen() == 2048 && k.N.Sign() > 0 {
		// RSA 2048 keys with the exponent 65537 differ only in the modulus.
		var b [len(spkiHeadRSA2048) + 256 + len(exponent65537)]byte
		copy(b[:], spkiHeadRSA2048)
		k.N.FillBytes(b[len(spkiHeadRSA2048):][:256])
		copy(b[len(spkiHeadRSA2048)+256:], exponent65537)
		return sha256.Sum256(b[:]), nil
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return [32]byte{}, fmt.Errorf("tcg: %w", err)
	}
	return sha256.Sum256(der), nil
}

// The bytes that precede the key itself in the SubjectPublicKeyInfo of common kinds of keys (RFC
// 5480, 2; RFC 3279, 2.3.1). encoding/asn1 makes the same bytes, but takes ten times as long.
const (
	spkiHeadRSA2048 = "\x30\x82\x01\x22\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\x03\x82\x01\x0f\x00\x30\x82\x01\x0a\x02\x82\x01\x01\x00"
	exponent65537   = "\x02\x03\x01\x00\x01"
)

func spkiHead(c elliptic.Curve) string {
	switch c {
	case elliptic.P256():
		return "\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00"
	case elliptic.P384():
		return "\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00"
	}
	return ""
}
