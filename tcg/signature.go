package tcg

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"
)

// MaxSignature is the largest TPMT_SIGNATURE that ParseSignature accepts, in bytes.
const MaxSignature = 1024

// Signature is a TPMT_SIGNATURE (Part 2, 11.3.4) by RSASSA, RSAPSS or ECDSA.
type Signature struct {
	Scheme AlgID
	Hash   AlgID
	RSA    []byte
	R, S   []byte
}

// ParseSignature parses a TPMT_SIGNATURE. It accepts nothing after the structure.
func ParseSignature(raw []byte) (*Signature, error) {
	if len(raw) > MaxSignature {
		return nil, fmt.Errorf("tcg: the TPMT_SIGNATURE has %d bytes; at most %d are allowed", len(raw), MaxSignature)
	}
	c := cursor{b: raw}
	s := &Signature{Scheme: AlgID(c.u16()), Hash: AlgID(c.u16())}
	switch s.Scheme {
	case AlgRSASSA, AlgRSAPSS:
		s.RSA = c.sized(512)
	case AlgECDSA:
		s.R = c.sized(66)
		s.S = c.sized(66)
	default:
		if c.err == nil {
			return nil, fmt.Errorf("tcg: the TPMT_SIGNATURE has the scheme 0x%04x, which is not supported", uint16(s.Scheme))
		}
	}
	if err := c.end(); err != nil {
		return nil, fmt.Errorf("tcg: TPMT_SIGNATURE: %w", err)
	}
	return s, nil
}

// ErrSignature means that the signature is well-formed but does not verify.
var ErrSignature = errors.New("tcg: the signature is not valid")

// Verify checks the signature `s` over `message`. The signature must use the scheme and the hash of
// the key's public area. If the key has no fixed scheme (an RSA IDevID key), the signature may use
// any of the allowed schemes.
func (p *Public) Verify(message []byte, s *Signature) error {
	if p.Scheme != AlgNull && (s.Scheme != p.Scheme || s.Hash != p.SchemeHash) {
		return fmt.Errorf("tcg: the signature has the scheme 0x%04x with hash 0x%04x, but the key's scheme is 0x%04x with hash 0x%04x",
			uint16(s.Scheme), uint16(s.Hash), uint16(p.Scheme), uint16(p.SchemeHash))
	}
	h, err := s.Hash.Hash()
	if err != nil {
		return err
	}
	key, err := p.Key()
	if err != nil {
		return err
	}
	var digest [64]byte
	return s.verifyDigest(key, h, appendHash(digest[:0], h, message))
}

func (s *Signature) verifyDigest(key crypto.PublicKey, h crypto.Hash, digest []byte) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if s.Scheme != AlgECDSA {
			return errors.New("tcg: the signature is RSA, but the key is ECC")
		}
		if !ecdsa.VerifyASN1(k, digest, s.asn1()) {
			return ErrSignature
		}
		return nil
	case *rsa.PublicKey:
		var err error
		switch s.Scheme {
		case AlgRSASSA:
			err = rsa.VerifyPKCS1v15(k, h, digest, s.RSA)
		case AlgRSAPSS:
			// Older TPMs use the longest salt that fits (Part 1, B.7). Newer TPMs use a salt of the
			// digest's size. Both are valid.
			err = rsa.VerifyPSS(k, h, digest, s.RSA, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto})
		default:
			return errors.New("tcg: the signature is ECC, but the key is RSA")
		}
		if err != nil {
			return ErrSignature
		}
		return nil
	}
	return errors.New("tcg: the key is neither RSA nor ECC")
}

// asn1 encodes R and S as the Ecdsa-Sig-Value of RFC 3279 2.2.3. R and S have at most 66 bytes
// each, so the sequence's length takes at most two bytes.
func (s *Signature) asn1() []byte {
	const head = 3
	b := appendUnsigned(make([]byte, head, head+144), s.R)
	b = appendUnsigned(b, s.S)
	n := byte(len(b) - head)
	if n < 0x80 {
		b[1], b[2] = 0x30, n
		return b[1:]
	}
	b[0], b[1], b[2] = 0x30, 0x81, n
	return b
}

// appendUnsigned appends a big-endian unsigned number as an ASN.1 INTEGER.
func appendUnsigned(b, v []byte) []byte {
	for len(v) > 1 && v[0] == 0 {
		v = v[1:]
	}
	if len(v) == 0 || v[0]&0x80 != 0 {
		b = append(b, 0x02, byte(len(v)+1), 0)
	} else {
		b = append(b, 0x02, byte(len(v)))
	}
	return append(b, v...)
}
