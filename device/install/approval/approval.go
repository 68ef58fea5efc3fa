// Package approval makes and checks an owner's approvals of systems. An approval is the owner's
// signature over a TPM policy, which requires that PCR 11 has the value that the approved system
// leaves in it. A disk's key is sealed to the owner's public key (TPM2_PolicyAuthorize), so the TPM
// releases it to each system that the owner has approved, and a new system does not require that
// the key is sealed again. The format is that of the file tpm2-pcr-signature.json of
// systemd-measure (version 252).
package approval

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"gangway/tcg"
)

// PCR is the PCR into which systemd's stub measures a unified kernel image.
const PCR = 11

// MaxSize is the maximum size of a file of approvals, in bytes.
const MaxSize = 64 << 10

// Paths of two files that systemd's stub adds to the initial file system. Their contents are the
// sections .pcrsig and .pcrpkey of the unified kernel image.
const (
	SignaturePath = "/.extra/tpm2-pcr-signature.json"
	KeyPath       = "/.extra/tpm2-pcr-public-key.pem"
)

// Approval is one entry of the file.
type Approval struct {
	PCRs []int `json:"pcrs"`
	// Key is the SHA-256 of the owner's public key, in hexadecimal; see Fingerprint.
	Key string `json:"pkfp"`
	// Policy is the approved policy: the digest of TPM2_PolicyPCR for the value of PCR 11, in
	// hexadecimal.
	Policy    string `json:"pol"`
	Signature []byte `json:"sig"` // RSASSA-PKCS1-v1_5, or ECDSA in ASN.1, with SHA-256, over the bytes of Policy
}

// CheckKey accepts P-256 keys, and RSA keys of 2048, 3072 and 4096 bits. It returns an error for
// every other public key. Every TPM 2.0 supports P-256 and RSA of 2048 bits; only some TPMs support
// larger RSA keys.
func CheckKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n != 2048 && n != 3072 && n != 4096 {
			return fmt.Errorf("approval: the RSA key has %d bits; use 2048, because not every TPM supports more", n)
		}
		return nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return fmt.Errorf("approval: the curve of the key is %s; use P-256", k.Curve.Params().Name)
		}
		return nil
	}
	return fmt.Errorf("approval: a TPM cannot verify signatures of a %T; use RSA of 2048 bits, or P-256", key)
}

// Fingerprint returns the name by which approvals refer to a public key: the SHA-256 of the key as
// systemd encodes it, that is, as PKCS #1 for RSA and as the uncompressed point for P-256.
func Fingerprint(key crypto.PublicKey) (string, error) {
	if err := CheckKey(key); err != nil {
		return "", err
	}
	var b []byte
	switch k := key.(type) {
	case *rsa.PublicKey:
		b = x509.MarshalPKCS1PublicKey(k)
	case *ecdsa.PublicKey:
		public, err := k.ECDH()
		if err != nil {
			return "", fmt.Errorf("approval: %w", err)
		}
		b = public.Bytes()
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// Sign makes the approval of the system that leaves `value` in PCR 11 of the SHA-256 bank.
func Sign(key crypto.Signer, value []byte) (Approval, error) {
	fingerprint, err := Fingerprint(key.Public())
	if err != nil {
		return Approval{}, err
	}
	if len(value) != sha256.Size {
		return Approval{}, fmt.Errorf("approval: the value of PCR 11 has %d bytes; want %d", len(value), sha256.Size)
	}
	policy := tcg.PolicyPCR(tcg.AlgSHA256, map[int][]byte{PCR: value})
	sum := sha256.Sum256(policy)
	random := rand.Reader
	if _, ok := key.(*ecdsa.PrivateKey); ok {
		random = nil // a signature without a random part (RFC 6979), so that images can be reproduced
	}
	sig, err := key.Sign(random, sum[:], crypto.SHA256)
	if err != nil {
		return Approval{}, fmt.Errorf("approval: %w", err)
	}
	return Approval{PCRs: []int{PCR}, Key: fingerprint, Policy: hex.EncodeToString(policy), Signature: sig}, nil
}

// By reports whether the approval `a` is signed with the key `owner`, and is for the system that
// leaves `value` in PCR 11.
func (a Approval) By(owner crypto.PublicKey, value []byte) bool {
	fingerprint, err := Fingerprint(owner)
	if err != nil || a.Key != fingerprint || len(a.PCRs) != 1 || a.PCRs[0] != PCR || len(value) != sha256.Size {
		return false
	}
	policy := tcg.PolicyPCR(tcg.AlgSHA256, map[int][]byte{PCR: value})
	if a.Policy != hex.EncodeToString(policy) {
		return false
	}
	sum := sha256.Sum256(policy)
	switch k := owner.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], a.Signature) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, sum[:], a.Signature)
	}
	return false
}

// file is the JSON of tpm2-pcr-signature.json: approvals by bank.
type file map[string][]Approval

// Marshal returns the text of the file with the approvals.
func Marshal(all []Approval) ([]byte, error) { return json.Marshal(file{"sha256": all}) }

// Parse returns the approvals for the SHA-256 bank. It does not verify the signatures, because the
// TPM does.
func Parse(text []byte) ([]Approval, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("approval: the file has more than %d bytes", MaxSize)
	}
	var f file
	// The stub pads the file with zeros.
	if err := json.Unmarshal(bytes.TrimRight(text, "\x00"), &f); err != nil {
		return nil, fmt.Errorf("approval: %w", err)
	}
	return f["sha256"], nil
}

// ParseKey returns the public key in a PEM file.
func ParseKey(text []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(bytes.TrimRight(text, "\x00"))
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("approval: the file has no PEM block of the type PUBLIC KEY")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("approval: %w", err)
	}
	return key, CheckKey(key)
}
