// Package pki is the hub's certificate authorities: a root, the attestation CA
// (ACA) that signs IAK certificates, the device CA that signs IDevID
// certificates, and the hub's own TLS certificate.
//
// The keys are files for now (PKCS#8 PEM, mode 0600), behind crypto.Signer.
// The CAs never end, as the identities that they sign never do (IEEE 802.1AR):
// what ends an identity is its row in the store.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// Options are for a hub's first start; afterwards what was made then counts.
type Options struct {
	// Name goes into the CAs' subjects, for people: printable ASCII of at most
	// 40 characters. Default: "Gangway".
	Name string
	// Curve of the CA keys: elliptic.P256() (default) or elliptic.P384().
	Curve elliptic.Curve
	// Now is the time of the first start. Default: time.Now().
	Now time.Time
}

// Hub is a hub's authorities. It is safe for concurrent use.
type Hub struct {
	root       *x509.Certificate
	rootKey    crypto.Signer
	aca        *issuer
	device     *issuer
	sealKey    []byte
	name       string
	rootPEM    []byte
	acaPEM     []byte
	devicePEM  []byte
	clientCAs  *x509.CertPool
	firstStart bool
}

const (
	sealFile = "seal.key"
	sealSize = 32
)

// authorities are the files' names and, for a new hub, what they become.
var authorities = []struct{ file, title string }{
	{"root", "Root CA"},
	{"aca", "Attestation CA"},
	{"device-ca", "Device CA"},
}

// Open loads the authorities in dir, or makes them if dir is not there or
// empty. They are made in a folder beside it that is renamed when it is
// complete: a crash leaves all of them or none. It refuses a folder that is
// incomplete, keys that others may read, and keys that do not fit their
// certificates; it never makes a new key beside old ones.
func Open(dir string, o Options) (*Hub, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("pki: %w", err)
	}
	first := len(entries) == 0
	if first {
		if err := create(dir, o); err != nil {
			return nil, err
		}
	}
	h, err := load(dir)
	if err != nil {
		return nil, err
	}
	h.firstStart = first
	return h, nil
}

// Made reports whether Open made the authorities.
func (h *Hub) Made() bool { return h.firstStart }

func create(dir string, o Options) error {
	if o.Name == "" {
		o.Name = "Gangway"
	}
	if o.Curve == nil {
		o.Curve = elliptic.P256()
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if len(o.Name) > 40 || !ascii(o.Name) {
		return errors.New("pki: the hub's name is not printable ASCII of at most 40 characters")
	}
	if o.Curve != elliptic.P256() && o.Curve != elliptic.P384() {
		return errors.New("pki: the CAs' curve is P-256 or P-384")
	}
	parent := filepath.Dir(filepath.Clean(dir))
	tmp, err := os.MkdirTemp(parent, "."+filepath.Base(dir)+".new-") // mode 0700
	if err != nil {
		return fmt.Errorf("pki: making the authorities: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := fill(tmp, o); err != nil {
		return fmt.Errorf("pki: making the authorities: %w", err)
	}
	if err := errors.Join(syncDir(tmp), os.Rename(tmp, dir), syncDir(parent)); err != nil {
		return fmt.Errorf("pki: making the authorities: %w", err)
	}
	return nil
}

func fill(dir string, o Options) error {
	var root *x509.Certificate
	var rootKey crypto.Signer
	for i, a := range authorities {
		key, err := ecdsa.GenerateKey(o.Curve, rand.Reader)
		if err != nil {
			return err
		}
		_, keyID, err := publicKeyInfo(&key.PublicKey)
		if err != nil {
			return err
		}
		template := &x509.Certificate{
			SerialNumber: new(big.Int).SetBytes(serialNumber()),
			Subject:      pkix.Name{Organization: []string{"Gangway"}, CommonName: o.Name + " " + a.title},
			NotBefore:    o.Now.Add(-slowClock), NotAfter: forever,
			IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: i > 0,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: keyID,
		}
		parent, parentKey := root, rootKey
		if i == 0 {
			template.MaxPathLen = 1
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
		if err != nil {
			return err
		}
		if i == 0 {
			if root, err = x509.ParseCertificate(der); err != nil {
				return err
			}
			rootKey = key
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		if err := errors.Join(
			writeFile(filepath.Join(dir, a.file+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600),
			writeFile(filepath.Join(dir, a.file+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644),
		); err != nil {
			return err
		}
	}
	seal := make([]byte, sealSize)
	rand.Read(seal) // never fails
	return writeFile(filepath.Join(dir, sealFile), []byte(hex.EncodeToString(seal)+"\n"), 0o600)
}

func writeFile(path string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func load(dir string) (*Hub, error) {
	var certs [3]*x509.Certificate
	var keys [3]crypto.Signer
	for i, a := range authorities {
		var err error
		if certs[i], keys[i], err = loadPair(dir, a.file); err != nil {
			return nil, fmt.Errorf("pki: %w; restore %s from its backup", err, dir)
		}
	}
	root := certs[0]
	for _, c := range certs {
		if err := c.CheckSignatureFrom(root); err != nil {
			return nil, fmt.Errorf("pki: %q is not signed by this hub's root; restore %s from its backup: %w", c.Subject, dir, err)
		}
	}
	h := &Hub{root: root, rootKey: keys[0], clientCAs: x509.NewCertPool()}
	seal, err := readSecret(filepath.Join(dir, sealFile))
	if err != nil {
		return nil, fmt.Errorf("pki: %w; restore %s from its backup", err, dir)
	}
	if h.sealKey, err = hex.DecodeString(string(bytes.TrimSpace(seal))); err != nil || len(h.sealKey) != sealSize {
		return nil, fmt.Errorf("pki: %s is damaged; restore %s from its backup", sealFile, dir)
	}
	if h.aca, err = newIssuer(certs[1], keys[1], []asn1.ObjectIdentifier{oidAIKCertificate},
		[]asn1.ObjectIdentifier{oidVerifiedResident, oidVerifiedFixed, oidVerifiedRestrict}); err != nil {
		return nil, err
	}
	if h.device, err = newIssuer(certs[2], keys[2], []asn1.ObjectIdentifier{oidClientAuth},
		[]asn1.ObjectIdentifier{oidVerifiedResident, oidVerifiedFixed}); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(root.RawSubjectPublicKeyInfo)
	h.name = hex.EncodeToString(sum[:])
	for i, p := range []*[]byte{&h.rootPEM, &h.acaPEM, &h.devicePEM} {
		*p = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certs[i].Raw})
	}
	h.clientCAs.AddCert(certs[2])
	return h, nil
}

func loadPair(dir, name string) (*x509.Certificate, crypto.Signer, error) {
	text, err := os.ReadFile(filepath.Join(dir, name+".crt"))
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, nil, fmt.Errorf("%s.crt is no PEM certificate", name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s.crt: %w", name, err)
	}
	if text, err = readSecret(filepath.Join(dir, name+".key")); err != nil {
		return nil, nil, err
	}
	if block, _ = pem.Decode(text); block == nil {
		return nil, nil, fmt.Errorf("%s.key is no PEM key", name)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s.key: %w", name, err)
	}
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok || !k.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("%s.key is not the key of %s.crt", name, name)
	}
	return cert, k, nil
}

// readSecret reads a file that nobody else may read.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o): 'chmod 600' it, and ask yourself who has read it", path, info.Mode().Perm())
	}
	b := make([]byte, 16<<10)
	n, err := f.Read(b)
	return b[:n], err
}

// HubName is the lower-case hexadecimal SHA-256 of the root's
// SubjectPublicKeyInfo (DER): the name that ownership proofs are bound to.
func (h *Hub) HubName() string { return h.name }

// SealKey is the 32-byte secret that per-request secrets and device ids are
// derived from. It must not be changed.
func (h *Hub) SealKey() []byte { return h.sealKey }

// RootPEM is the root certificate: what devices are given to trust.
func (h *Hub) RootPEM() []byte { return h.rootPEM }

// ACAPEM and DeviceCAPEM are the certificates that replies carry, in PEM.
func (h *Hub) ACAPEM() []byte      { return h.acaPEM }
func (h *Hub) DeviceCAPEM() []byte { return h.devicePEM }

// Root, ACA and DeviceCA are the authorities' certificates.
func (h *Hub) Root() *x509.Certificate     { return h.root }
func (h *Hub) ACA() *x509.Certificate      { return h.aca.cert }
func (h *Hub) DeviceCA() *x509.Certificate { return h.device.cert }

// ClientCAs holds the device CA alone, so that nothing else that this hub (or
// anybody) signed passes for a device in TLS.
func (h *Hub) ClientCAs() *x509.CertPool { return h.clientCAs }
