package sig

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// Limits of keys.
const (
	MaxKeys     = 64 << 10 // bytes of a key file
	maxKeyCount = 8
	minRSA      = 2048 // bits
	maxRSA      = 8192 // bits
)

// Keys are the keys by which a device recognises its owner's revisions: public keys, and CAs that
// issue certificates for such keys.
type Keys struct {
	keys []crypto.PublicKey
	cas  []*x509.Certificate
	pem  []byte // the keys and CAs as PEM, sorted and without repetitions
}

// ParseKeys reads a key file: PEM with public keys (PKIX) and certificates. The certificate of a CA
// stands for all keys for which the CA issues a certificate for code signing. Any other certificate
// stands for its key.
func ParseKeys(text []byte) (*Keys, error) {
	if len(text) > MaxKeys {
		return nil, fmt.Errorf("the key file has more than %d bytes", MaxKeys)
	}
	var blocks [][]byte
	k := &Keys{}
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		block, after := pem.Decode(rest)
		if block == nil || !bytes.HasPrefix(rest, []byte("-----BEGIN ")) {
			return nil, errors.New("the key file has text that is not PEM")
		}
		rest = after
		if err := k.add(block); err != nil {
			return nil, err
		}
		blocks = append(blocks, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
	}
	switch n := len(blocks); {
	case n == 0:
		return nil, errors.New("the key file has no key")
	case n > maxKeyCount:
		return nil, fmt.Errorf("the key file has %d keys; at most %d are allowed", n, maxKeyCount)
	}
	slices.SortFunc(blocks, bytes.Compare)
	k.pem = bytes.Join(slices.CompactFunc(blocks, bytes.Equal), nil)
	return k, nil
}

func (k *Keys) add(block *pem.Block) error {
	switch block.Type {
	case "PUBLIC KEY":
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err == nil {
			err = checkKey(key)
		}
		if err != nil {
			return fmt.Errorf("a public key in the key file: %w", err)
		}
		k.keys = append(k.keys, key)
	case "CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err == nil {
			err = checkKey(c.PublicKey)
		}
		if err != nil {
			return fmt.Errorf("a certificate in the key file: %w", err)
		}
		if c.IsCA {
			k.cas = append(k.cas, c)
		} else {
			k.keys = append(k.keys, c.PublicKey)
		}
	default:
		return fmt.Errorf("the key file has a PEM block of the type %.40q; only PUBLIC KEY and CERTIFICATE are allowed", block.Type)
	}
	return nil
}

// checkKey refuses keys with which no accepted algorithm works, and keys that are weak or costly.
func checkKey(key crypto.PublicKey) error {
	if algorithmOf(key) == "" {
		return fmt.Errorf("a key of the type %T is not supported: use P-256, P-384, or RSA with %d to %d bits", key, minRSA, maxRSA)
	}
	return nil
}

// algorithmOf returns the only algorithm that may be used with a key, or "" if the key is not
// supported.
func algorithmOf(key crypto.PublicKey) jose.SignatureAlgorithm {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return jose.ES256
		case elliptic.P384():
			return jose.ES384
		}
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits >= minRSA && bits <= maxRSA {
			return jose.RS256
		}
	}
	return ""
}

// PEM returns the keys as a key file. Equal keys give the same bytes.
func (k *Keys) PEM() []byte { return k.pem }

// Name returns the SHA-256 of PEM, in hexadecimal.
func (k *Keys) Name() string {
	sum := sha256.Sum256(k.pem)
	return hex.EncodeToString(sum[:])
}

// Len returns the number of keys and CAs.
func (k *Keys) Len() int { return len(k.keys) + len(k.cas) }
