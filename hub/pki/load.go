package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gangway/hub/pki/cakey"
)

// load reads the authorities. It refuses a folder in which any file is missing or wrong. A hub that
// signed with a wrong key would do permanent harm, whereas a hub that does not start does none: the
// operator can restore the folder from its backup.
func load(dir string) (*Hub, error) {
	h := &Hub{clientCAs: x509.NewCertPool()}
	if err := h.loadRoot(dir); err != nil {
		return nil, withRemedy(dir, err)
	}
	acaCert, acaKey, err := h.loadPair(dir, aca)
	if err != nil {
		return nil, withRemedy(dir, err)
	}
	deviceCert, deviceKey, err := h.loadPair(dir, deviceCA)
	if err != nil {
		return nil, withRemedy(dir, err)
	}
	if err := h.loadPrevious(dir); err != nil {
		return nil, withRemedy(dir, err)
	}
	if h.sealKey, err = loadSeal(dir); err != nil {
		return nil, withRemedy(dir, err)
	}
	if h.aca, err = newIssuer(acaCert, acaKey, []asn1.ObjectIdentifier{oidAIKCertificate},
		[]asn1.ObjectIdentifier{oidVerifiedResident, oidVerifiedFixed, oidVerifiedRestrict}); err != nil {
		return nil, err
	}
	if h.device, err = newIssuer(deviceCert, deviceKey, []asn1.ObjectIdentifier{oidClientAuth},
		[]asn1.ObjectIdentifier{oidVerifiedResident, oidVerifiedFixed}); err != nil {
		return nil, err
	}
	h.name = hubName(h.root)
	h.rootPEM, h.acaPEM, h.devicePEM = certPEM(h.root.Raw), certPEM(acaCert.Raw), certPEM(deviceCert.Raw)
	for _, c := range h.DeviceCAs() {
		h.clientCAs.AddCert(c)
	}
	return h, nil
}

// hubName returns the lower-case hexadecimal SHA-256 of a root's SubjectPublicKeyInfo.
func hubName(root *x509.Certificate) string {
	sum := sha256.Sum256(root.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// loadRoot loads the root and, if there is one, the TLS CA. The root's key may be missing if there
// is a TLS CA.
func (h *Hub) loadRoot(dir string) (err error) {
	if h.root, err = loadCertificate(dir, root.file); err != nil {
		return err
	}
	if err := checkAuthority(h.root, h.root, root.title); err != nil {
		return fmt.Errorf("%s.crt: %w", root.file, err)
	}
	h.rootKey, err = loadKey(dir, root.file, h.root)
	withoutKey := errors.Is(err, fs.ErrNotExist)
	if err != nil && !withoutKey {
		return err
	}
	missing := err
	h.tlsCA, h.tlsKey, err = h.loadPair(dir, tlsCA)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// If any of the TLS CA's files exists, the hub has a TLS CA, so the missing file is an error.
	for _, suffix := range []string{".crt", ".key", uriSuffix} {
		if present(dir, tlsCA.file+suffix) {
			return err
		}
	}
	h.tlsCA, h.tlsKey = nil, nil
	if withoutKey {
		return fmt.Errorf("%w, and there is no TLS CA, which a hub with an offline root needs", missing)
	}
	return nil
}

func present(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return !errors.Is(err, fs.ErrNotExist)
}

// loadPair loads a CA below the root.
func (h *Hub) loadPair(dir string, a authority) (*x509.Certificate, crypto.Signer, error) {
	cert, err := loadCertificate(dir, a.file)
	if err != nil {
		return nil, nil, err
	}
	key, err := loadKey(dir, a.file, cert)
	if err != nil {
		return nil, nil, err
	}
	if err := checkAuthority(cert, h.root, a.title); err != nil {
		return nil, nil, fmt.Errorf("%s.crt: %w", a.file, err)
	}
	return cert, key, nil
}

// Files whose names end with previousSuffix contain the certificates of former CAs. The hub no
// longer has the keys of these CAs, but devices still have certificates that they issued.
const previousSuffix = ".previous.crt"

// loadPrevious loads the certificates of former ACAs and device CAs.
func (h *Hub) loadPrevious(dir string) error {
	for _, a := range []authority{aca, deviceCA} {
		name := a.file + previousSuffix
		text, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		list, err := parseCertificates(text)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, c := range list {
			if err := checkAuthority(c, h.root, a.title); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		h.previous = append(h.previous, list...)
	}
	return nil
}

func loadSeal(dir string) ([]byte, error) {
	text, err := cakey.ReadSecret(filepath.Join(dir, sealFile))
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(key) != sealSize {
		return nil, fmt.Errorf("%s is not %d bytes in hexadecimal", sealFile, sealSize)
	}
	return key, nil
}

// withRemedy adds the remedy "restore from the backup" to an error, unless the cause is the file's
// permissions, which a backup does not help with.
func withRemedy(dir string, err error) error {
	if errors.Is(err, cakey.ErrReadable) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("pki: %w", err)
	}
	return fmt.Errorf("pki: %w; restore %s from its backup", err, dir)
}

// checkAuthority checks that the root signed the certificate `c`, and that the CN of `c` ends with
// `title`. The CN shows whether somebody has exchanged the files of the ACA and the device CA,
// after which every IAK could be a TLS client.
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

// loadCertificate loads the certificate of a CA.
func loadCertificate(dir, name string) (*x509.Certificate, error) {
	text, err := os.ReadFile(filepath.Join(dir, name+".crt"))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s.crt is not a PEM certificate", name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s.crt: %w", name, err)
	}
	return cert, nil
}

// A file whose name ends with uriSuffix contains the URI of a CA's private key, which is then not
// in the folder itself: see package cakey.
const uriSuffix = ".uri"

// loadKey loads the private key of a CA's certificate. If the key is at a URI, loadKey does not
// try to reach it.
func loadKey(dir, name string, cert *x509.Certificate) (crypto.Signer, error) {
	text, err := os.ReadFile(filepath.Join(dir, name+uriSuffix))
	if err == nil {
		return loadURI(dir, name, string(text), cert)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	k, err := loadKeyFile(dir, name)
	if err != nil {
		return nil, err
	}
	if !k.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s.key is not the key of %s.crt", name, name)
	}
	return k, nil
}

func loadURI(dir, name, text string, cert *x509.Certificate) (crypto.Signer, error) {
	if present(dir, name+".key") {
		return nil, fmt.Errorf("%s has both %s.key and %[2]s%s: a CA may have only one of them", dir, name, uriSuffix)
	}
	uri, err := cakey.Parse(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("%s%s: %w", name, uriSuffix, err)
	}
	public, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%s.crt has no ECDSA key", name)
	}
	return cakey.Open(uri, public)
}

// loadKeyFile loads a private key from its file.
func loadKeyFile(dir, name string) (*ecdsa.PrivateKey, error) {
	return cakey.ReadFile(filepath.Join(dir, name+".key"), name+".key")
}

// parseCertificates parses the certificates in a PEM text. It refuses other kinds of PEM blocks.
func parseCertificates(text []byte) (list []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("the file has a PEM block of type %q; only certificates are allowed", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	if len(list) == 0 || bytes.Contains(text, []byte("-----BEGIN")) {
		return nil, errors.New("the file is not a complete list of PEM certificates")
	}
	return list, nil
}
