package secureboot

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

const (
	// bits is the RSA key size in bits, which all firmware supports.
	bits = 2048
	// years is how long the certificates are valid. Firmware ignores the dates, but other programs
	// check them.
	years = 30
)

// Set contains an owner's Secure Boot certificates as signed variables, which firmware enrols.
type Set struct {
	// Signed holds the bytes of each signed variable. Writing these bytes to firmware in setup mode
	// enrols the certificates.
	Signed map[Variable][]byte
	// Certificates contains the certificates in each signed variable.
	Certificates map[Variable][]*x509.Certificate
}

// New makes keys in a folder that does not exist or is empty:
//
//	PK.key, KEK.key, db.key     the private keys, PEM (PKCS #8), mode 0600
//	PK.pem, KEK.pem, db.pem     their certificates
//	PK.auth, KEK.auth, db.auth  the signed variables
//
// `name` is the owner's name in the certificates. The variable db contains the new db certificate
// and the certificates `also`. `now` is both the start of the certificates' validity and the time
// in the signed variables.
func New(dir, name string, also []*x509.Certificate, now time.Time) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("secureboot: %w", err)
	}
	if there, err := os.ReadDir(dir); err != nil || len(there) > 0 {
		return errors.Join(err, fmt.Errorf("secureboot: %s is not empty: choose an empty folder, so that no keys are overwritten", dir))
	}
	pk, err := newKey(dir, PK, name, now)
	if err != nil {
		return err
	}
	kek, err := newKey(dir, KEK, name, now)
	if err != nil {
		return err
	}
	db, err := newKey(dir, DB, name, now)
	if err != nil {
		return err
	}
	for _, s := range []struct {
		v     Variable
		certs []*x509.Certificate
		by    *pair
	}{
		{DB, append([]*x509.Certificate{db.cert}, also...), kek},
		{KEK, []*x509.Certificate{kek.cert}, pk},
		{PK, []*x509.Certificate{pk.cert}, pk},
	} {
		b, err := sign(s.v, s.certs, pk.owner(), s.by.key, s.by.cert, now)
		if err != nil {
			return err
		}
		if err := write(dir, string(s.v)+".auth", b, 0o644); err != nil {
			return err
		}
	}
	_, err = Load(dir)
	return err
}

type pair struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

// owner returns the SignatureOwner of the signature lists that this key signs: a GUID, which the
// signer may choose freely, and which is derived here from the certificate.
func (p *pair) owner() (guid [16]byte) {
	h := sha256.Sum256(p.cert.Raw)
	copy(guid[:], h[:])
	guid[7] = guid[7]&0x0F | 0x80 // RFC 9562, version 8; in UEFI's byte order, the version is in byte 7
	guid[8] = guid[8]&0x3F | 0x80
	return guid
}

func newKey(dir string, v Variable, name string, now time.Time) (*pair, error) {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return nil, fmt.Errorf("secureboot: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("secureboot: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name + " " + string(v)},
		NotBefore: now.UTC().Truncate(time.Second), NotAfter: now.UTC().AddDate(years, 0, 0).Truncate(time.Second),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("secureboot: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("secureboot: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("secureboot: %w", err)
	}
	err = write(dir, string(v)+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600)
	if err == nil {
		err = write(dir, string(v)+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
	}
	return &pair{key, cert}, err
}

func write(dir, name string, b []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("secureboot: %w", err)
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("secureboot: %w", err)
	}
	return nil
}

// Load reads the signed variables from a folder that New made. The folder need not contain the
// private keys any more.
func Load(dir string) (*Set, error) {
	signed := map[Variable][]byte{}
	for _, v := range []Variable{PK, KEK, DB} {
		b, err := os.ReadFile(filepath.Join(dir, string(v)+".auth"))
		if err != nil {
			return nil, fmt.Errorf("secureboot: %w; make the folder with `gangway image keys`", err)
		}
		signed[v] = b
	}
	return NewSet(signed)
}

// NewSet checks the signatures of these variables as firmware in setup mode does, and returns them
// as a Set. PK must be signed by its own key, KEK by PK's key and db by KEK's key.
func NewSet(signed map[Variable][]byte) (*Set, error) {
	s := &Set{Signed: signed, Certificates: map[Variable][]*x509.Certificate{}}
	var by []*x509.Certificate
	for _, v := range []Variable{PK, KEK, DB} {
		b := signed[v]
		if v == PK { // PK is self-signed, so its signer is in its own content
			content, err := unverified(b)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", v, err)
			}
			if by = content; len(by) != 1 {
				return nil, fmt.Errorf("%s: %w: the file has %d certificates; exactly one is required", v, ErrVariable, len(by))
			}
		}
		certs, err := parse(v, b, by...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v, err)
		}
		s.Certificates[v], by = certs, certs
	}
	return s, nil
}

// Trusts reports whether firmware that has enrolled this set starts a program that was signed with
// the certificate `c`.
func (s *Set) Trusts(c *x509.Certificate) bool {
	for _, in := range s.Certificates[DB] {
		if bytes.Equal(in.Raw, c.Raw) || c.CheckSignatureFrom(in) == nil {
			return true
		}
	}
	return false
}
