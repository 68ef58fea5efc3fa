package swtpmtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// NewMaker makes the CA of a TPM maker in the folder `dir`, for swtpm.Options.Maker: a root and an
// intermediate CA with P-256 keys. Without NewMaker, swtpm would make a CA with two RSA keys of
// 3072 bits, which takes a second of processor time.
func NewMaker(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("swtpmtest: %w", err)
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("swtpmtest: %w", err)
	}
	root, err := newCA("swtpm-localca-rootca", rootKey.Public(), nil, rootKey)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("swtpmtest: %w", err)
	}
	issuer, err := newCA("swtpm-localca", key.Public(), root, rootKey)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("swtpmtest: %w", err)
	}
	write := func(name, kind string, der []byte) error {
		return os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
	}
	return errors.Join(
		write("swtpm-localca-rootca-cert.pem", "CERTIFICATE", root.Raw),
		write("issuercert.pem", "CERTIFICATE", issuer.Raw),
		write("signkey.pem", "PRIVATE KEY", private),
	)
}

// newCA makes the certificate of a CA. If `issuer` is nil, the certificate is self-signed.
func newCA(name string, public crypto.PublicKey, issuer *x509.Certificate, signer crypto.Signer) (*x509.Certificate, error) {
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Minute), NotAfter: now.AddDate(100, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if issuer == nil {
		issuer = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, public, signer)
	if err != nil {
		return nil, fmt.Errorf("swtpmtest: %w", err)
	}
	return x509.ParseCertificate(der)
}
