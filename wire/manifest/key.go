package manifest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// ErrKey means that a key cannot sign manifests.
var ErrKey = errors.New("manifest: the key cannot sign manifests: use a P-256 key, or an RSA key of 2048 to 4096 bits")

// Sizes of RSA keys, in bits. TPMs do not verify signatures of larger keys.
const (
	minRSA = 2048
	maxRSA = 4096
)

// publicExponent is the only public exponent that all TPMs support (TPM 2.0 Library, Part 2,
// 12.2.3.5: the exponent 0 stands for this value).
const publicExponent = 65537

// CheckKey returns an error that wraps ErrKey if the key cannot sign manifests. A machine's TPM
// must be able to verify the key's signatures, because the same key authorises the policies of
// encrypted disks. So Ed25519 and the larger NIST curves are refused.
func CheckKey(key crypto.PublicKey) error {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return fmt.Errorf("%w: the key is on the curve %s, and many TPMs support only the curve P-256", ErrKey, key.Curve.Params().Name)
		}
		if _, err := key.ECDH(); err != nil {
			return fmt.Errorf("%w: %w", ErrKey, err)
		}
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < minRSA || n > maxRSA {
			return fmt.Errorf("%w: the key is an RSA key of %d bits", ErrKey, n)
		}
		if key.E != publicExponent {
			return fmt.Errorf("%w: the RSA key has the public exponent %d, and many TPMs support only %d", ErrKey, key.E, publicExponent)
		}
	case ed25519.PublicKey:
		return fmt.Errorf("%w: the key is an Ed25519 key, and TPMs cannot verify Ed25519 signatures", ErrKey)
	default:
		return fmt.Errorf("%w: it is a %T", ErrKey, key)
	}
	return nil
}

// KeyID returns the SHA-256 of the key's SubjectPublicKeyInfo (RFC 5280, 4.1.2.7), in hexadecimal.
// The header `kid` of a signed manifest has this value.
func KeyID(key crypto.PublicKey) (string, error) {
	if err := CheckKey(key); err != nil {
		return "", err
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("manifest: %w", err)
	}
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:]), nil
}

// pemPublicKey is the PEM type of a SubjectPublicKeyInfo (RFC 7468, 13).
const pemPublicKey = "PUBLIC KEY"

// MarshalKey returns a public key as PEM.
func MarshalKey(key crypto.PublicKey) ([]byte, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPublicKey, Bytes: spki}), nil
}

// ParseKey reads one public key in PEM, and checks that the key can sign manifests.
func ParseKey(text []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return nil, errors.New("manifest: the text has no public key in PEM, which begins with -----BEGIN PUBLIC KEY-----")
	case block.Type != pemPublicKey:
		return nil, fmt.Errorf("manifest: the PEM block is %q, not %q", block.Type, pemPublicKey)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("manifest: the text has more than one PEM block, and one public key is required")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, errors.New("manifest: the public key is damaged, or of an unknown type")
	}
	return key, CheckKey(key)
}
