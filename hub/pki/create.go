package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
)

// Options configure a hub's first start. Later starts ignore them, because the authorities already
// exist.
type Options struct {
	// Name is the hub's name, for people, in the subjects of its CAs: the CN of a CA is Name
	// followed by the CA's title. Name has at most 40 printable characters, so that the CN does not
	// exceed 64 (ub-common-name, RFC 5280, appendix A.1). Default: "Gangway".
	Name string
	// Curve of the CA keys: elliptic.P256() (default) or elliptic.P384().
	Curve elliptic.Curve
	// Now is the time of the first start. Default: time.Now().
	Now time.Time
}

// maxName is the maximum length of Options.Name, in characters.
const maxName = 40

func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		o.Name = "Gangway"
	}
	if o.Curve == nil {
		o.Curve = elliptic.P256()
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if !utf8.ValidString(o.Name) || utf8.RuneCountInString(o.Name) > maxName ||
		strings.ContainsFunc(o.Name, func(r rune) bool { return !unicode.IsPrint(r) }) || strings.TrimSpace(o.Name) != o.Name {
		return o, fmt.Errorf("pki: the hub's name must be 1 to %d printable characters without spaces around them", maxName)
	}
	if o.Curve != elliptic.P256() && o.Curve != elliptic.P384() {
		return o, errors.New("pki: the CAs' curve must be P-256 or P-384")
	}
	return o, nil
}

// maker makes the authorities in a temporary folder, flushes the folder to the disk, and then
// renames it, so that after a crash either all authorities exist or none.
type maker struct {
	Options
	// step is called before each change on the disk, so that tests can simulate a crash.
	step func()
}

// create makes the folder `dir` and the authorities in it. If the folder exists already, or another
// process makes it first, create does nothing, and `made` is false.
func (m *maker) create(dir string) (made bool, err error) { return m.createWith(dir, m.fill) }

// createWith is like create, but calls `fill` to write the files.
func (m *maker) createWith(dir string, fill func(dir string) error) (made bool, err error) {
	parent, prefix := filepath.Dir(filepath.Clean(dir)), "."+filepath.Base(dir)+".new-"
	unlock, err := lockDir(parent)
	if err != nil {
		return false, err
	}
	defer unlock()
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	// Remove the temporary folders of processes that were killed. No running process uses such a
	// folder, because this process has the lock.
	if err := removeStale(parent, prefix); err != nil {
		return false, err
	}
	m.step()
	tmp, err := os.MkdirTemp(parent, prefix) // mode 0700
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(tmp) // no effect after the rename
	if err := fill(tmp); err != nil {
		return false, err
	}
	m.step()
	if err := syncDir(tmp); err != nil {
		return false, err
	}
	m.step()
	if err := os.Rename(tmp, dir); err != nil {
		return false, err
	}
	m.step()
	return true, syncDir(parent)
}

// lockDir locks a folder, so that only one process at a time makes authorities in it. It waits
// until the lock is free. The lock ends when the caller calls `unlock`, or when the process ends.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		d.Close()
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { d.Close() }, nil
}

func removeStale(parent, prefix string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), prefix) {
			if err := os.RemoveAll(filepath.Join(parent, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// fill writes the seven files: a key and a certificate for each of the three authorities, and the
// seal key.
func (m *maker) fill(dir string) error {
	var rootCert *x509.Certificate
	var rootKey crypto.Signer
	for i, a := range authorities {
		key, err := ecdsa.GenerateKey(m.Curve, rand.Reader)
		if err != nil {
			return err
		}
		template, err := a.template(m.Name, &key.PublicKey, m.Now)
		if err != nil {
			return err
		}
		parent, parentKey := rootCert, rootKey
		if i == 0 {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
		if err != nil {
			return err
		}
		if i == 0 {
			if rootCert, err = x509.ParseCertificate(der); err != nil {
				return err
			}
			rootKey = key
		}
		if err := m.writePair(dir, a.file, key, der); err != nil {
			return err
		}
	}
	return m.writeSeal(dir)
}

func (m *maker) writeSeal(dir string) error {
	seal := make([]byte, sealSize)
	rand.Read(seal) // never fails
	return m.writeFile(filepath.Join(dir, sealFile), []byte(hex.EncodeToString(seal)+"\n"), 0o600)
}

// template returns a template for the certificate of a CA with the public key `key`. The argument
// `hub` is the name of the CA's hub. The certificate is valid from `now`, and never expires. For the
// TLS CA, whose certificate must expire, the caller changes NotAfter.
func (a authority) template(hub string, key *ecdsa.PublicKey, now time.Time) (*x509.Certificate, error) {
	keyID, err := new(buffer).publicKeyInfo(key)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serialNumber()),
		Subject:      pkix.Name{Organization: []string{organization}, CommonName: hub + " " + a.title},
		NotBefore:    now.Add(-slowClock), NotAfter: forever,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: a != root,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: keyID[:],
	}
	switch a {
	case root:
		t.MaxPathLen = 1
	case tlsCA:
		// With this purpose, the TLS CA cannot issue certificates for devices or attestation keys.
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	default:
		// A policy in a device's certificate is valid only if the certificate of its CA contains
		// the same policy or anyPolicy (RFC 5280, 6.1.3 d). An auditor may require such a policy,
		// for example "verified TPM residency".
		t.Policies = []x509.OID{anyPolicy}
	}
	return t, nil
}

// writePair writes a CA's private key and certificate.
func (m *maker) writePair(dir, name string, key *ecdsa.PrivateKey, cert []byte) error {
	text, err := keyPEM(key)
	if err != nil {
		return err
	}
	if err := m.writeFile(filepath.Join(dir, name+".key"), text, 0o600); err != nil {
		return err
	}
	return m.writeFile(filepath.Join(dir, name+".crt"), certPEM(cert), 0o644)
}

// keyPEM encodes a private key as PKCS #8 in PEM.
func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// certPEM returns a certificate in PEM.
func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// anyPolicy is the OID anyPolicy of RFC 5280, 4.2.1.4.
var anyPolicy = mustOID(2, 5, 29, 32, 0)

func mustOID(arcs ...uint64) x509.OID {
	o, err := x509.OIDFromInts(arcs)
	if err != nil {
		panic(err) // the arcs are constants
	}
	return o
}

func (m *maker) writeFile(path string, content []byte, mode fs.FileMode) error {
	m.step()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	m.step()
	_, err = f.Write(content)
	m.step()
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()) // Chmod overrides the umask
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
