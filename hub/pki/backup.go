package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// backupPrefix is the prefix of the bytes that SignBackup signs. A TBSCertificate begins with the
// byte 0x30, so the signature of a backup is never also the signature of a certificate.
const backupPrefix = "gangway backup v1\x00"

// SignBackup signs the hash of a backup with the key of the attestation CA.
func (h *Hub) SignBackup(sum [sha256.Size]byte) ([]byte, error) {
	signature, err := h.aca.key.Sign(rand.Reader, backupDigest(h.aca.hash, sum), h.aca.hash)
	if err != nil {
		return nil, fmt.Errorf("pki: sign the backup: %w", err)
	}
	return signature, nil
}

func backupDigest(hash crypto.Hash, sum [sha256.Size]byte) []byte {
	h := hash.New()
	h.Write([]byte(backupPrefix))
	h.Write(sum[:])
	return h.Sum(nil)
}

// Errors of VerifyBackup.
var (
	ErrOtherHub        = errors.New("pki: the certificates belong to another hub")
	ErrBackupSignature = errors.New("pki: the signature of the backup is not valid")
)

// VerifyBackup verifies a signature made by SignBackup. The arguments `root` and `aca` are
// certificates in PEM that come from the backup itself; `hubName` is the only argument that the
// caller trusts.
func VerifyBackup(hubName string, root, aca []byte, sum [sha256.Size]byte, signature []byte) error {
	top, err := certificateOf(root)
	if err != nil {
		return err
	}
	if name := sha256.Sum256(top.RawSubjectPublicKeyInfo); hex.EncodeToString(name[:]) != hubName {
		return fmt.Errorf("%w: its hub name is %x", ErrOtherHub, name)
	}
	if err := checkAuthority(top, top, authorities[0].title); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	signer, err := certificateOf(aca)
	if err != nil {
		return err
	}
	if err := checkAuthority(signer, top, authorities[1].title); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	key, ok := signer.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return ErrBackupSignature
	}
	hash := crypto.SHA256
	if key.Curve == elliptic.P384() {
		hash = crypto.SHA384
	}
	if !ecdsa.VerifyASN1(key, backupDigest(hash, sum), signature) {
		return ErrBackupSignature
	}
	return nil
}

func certificateOf(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("pki: the file is not a PEM certificate")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	return c, nil
}
