package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// load reads the authorities. It refuses every folder that the method `create` could not have made.
// A hub that signs with a wrong key does permanent harm. A hub that does not start can be repaired
// from its backup.
func load(dir string) (*Hub, error) {
	var certs [3]*x509.Certificate
	var keys [3]crypto.Signer
	for i, a := range authorities {
		var err error
		if certs[i], keys[i], err = loadPair(dir, a.file); err != nil {
			return nil, withRemedy(dir, err)
		}
		if err := checkAuthority(certs[i], certs[0], a.title); err != nil {
			return nil, withRemedy(dir, fmt.Errorf("%s.crt: %w", a.file, err))
		}
	}
	root := certs[0]
	h := &Hub{root: root, rootKey: keys[0], clientCAs: x509.NewCertPool()}
	seal, err := readSecret(filepath.Join(dir, sealFile))
	if err != nil {
		return nil, withRemedy(dir, err)
	}
	if h.sealKey, err = hex.DecodeString(string(bytes.TrimSpace(seal))); err != nil || len(h.sealKey) != sealSize {
		return nil, withRemedy(dir, fmt.Errorf("%s is not %d bytes in hexadecimal", sealFile, sealSize))
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

// errReadable means that other users can read a file. Restoring a backup would not correct the
// permissions.
var errReadable = errors.New("can be read by other users")

// withRemedy adds the remedy "restore from the backup" to an error. If the cause is the file's
// permissions, a backup does not help, and withRemedy returns the error unchanged.
func withRemedy(dir string, err error) error {
	if errors.Is(err, errReadable) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("pki: %w", err)
	}
	return fmt.Errorf("pki: %w; restore %s from its backup", err, dir)
}

// checkAuthority checks that the certificate `c` is the CA of its file name, and that the root
// signed `c`. The title at the end of the CN must match. Without this check, an exchange of the
// files of ACA and device CA would be accepted, and every IAK could be a TLS client.
func checkAuthority(c, root *x509.Certificate, title string) error {
	if !strings.HasSuffix(c.Subject.CommonName, " "+title) {
		return fmt.Errorf("%q is not a %s", c.Subject.CommonName, title)
	}
	if !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 || len(c.SubjectKeyId) == 0 {
		return fmt.Errorf("%q is not a CA certificate", c.Subject.CommonName)
	}
	if err := c.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("%q is not signed by this hub's root: %w", c.Subject.CommonName, err)
	}
	return nil
}

func loadPair(dir, name string) (*x509.Certificate, crypto.Signer, error) {
	text, err := os.ReadFile(filepath.Join(dir, name+".crt"))
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, nil, fmt.Errorf("%s.crt is not a PEM certificate", name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s.crt: %w", name, err)
	}
	if text, err = readSecret(filepath.Join(dir, name+".key")); err != nil {
		return nil, nil, err
	}
	if block, _ = pem.Decode(text); block == nil {
		return nil, nil, fmt.Errorf("%s.key is not a PEM key", name)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s.key: %w", name, err)
	}
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
		return nil, nil, fmt.Errorf("%s.key is not an ECDSA key on P-256 or P-384", name)
	}
	if !k.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("%s.key is not the key of %s.crt", name, name)
	}
	return cert, k, nil
}

// private reports whether the mode of a file keeps a secret from other users. Only the owner may read
// the file. If root owns the file and the hub is not root, the group may read it too, because the hub
// can read it in no other way: Kubernetes mounts a Secret like this. PostgreSQL has the same rule.
func private(mode fs.FileMode, owner uint32, hub int) bool {
	if owner == 0 && hub != 0 {
		return mode&^0o640 == 0
	}
	return mode&0o077 == 0
}

// readSecret reads a file, and returns an error if other users may read the file. It checks the
// permissions of the open file, not of the path. So nobody can exchange the file between the check
// and the read.
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
	if !private(info.Mode().Perm(), info.Sys().(*syscall.Stat_t).Uid, os.Geteuid()) {
		return nil, fmt.Errorf("%s %w (mode %04o): run 'chmod 600' on the file, and find out who may have read the file", path, errReadable, info.Mode().Perm())
	}
	return io.ReadAll(io.LimitReader(f, 16<<10))
}
