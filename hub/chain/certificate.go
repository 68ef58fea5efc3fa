package chain

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"gangway/tcg"
)

// Certificate describes one certificate of the chain, for display. Its texts may contain any
// printable character, so the caller must escape them.
type Certificate struct {
	Name    string // the certificate's name in URLs: "ek", "maker-1"
	Title   string
	Subject string // may be empty: many EK certificates have none
	Issuer  string
	Serial  string // hexadecimal
	From    time.Time
	Until   time.Time // zero if the certificate does not expire
	Key     string
	SHA256  string // of the DER, hexadecimal
	Problem string // why the certificate cannot be parsed; if Problem is set, only Name, Title, SHA256 and DER are set too
	DER     []byte
}

// NewCertificate parses a DER certificate. If the certificate cannot be parsed, the result's
// Problem says why.
func NewCertificate(name, title string, der []byte) Certificate {
	sum := sha256.Sum256(der)
	c := Certificate{Name: name, Title: title, SHA256: hex.EncodeToString(sum[:]), DER: der}
	cert, err := parse(der)
	if err != nil {
		c.Problem = tcg.Printable(err.Error())
		return c
	}
	c.Subject, c.Issuer = tcg.Printable(cert.Subject.String()), tcg.Printable(cert.Issuer.String())
	c.Serial, c.From = cert.SerialNumber.Text(16), cert.NotBefore
	if cert.NotAfter.Year() < 9999 { // RFC 5280, 4.1.2.5
		c.Until = cert.NotAfter
	}
	c.Key = keyWords(cert)
	return c
}

// parse parses a certificate. It tolerates the same deviations from standards as the hub does in EK
// certificates, some of which crypto/x509 refuses.
func parse(der []byte) (*x509.Certificate, error) {
	if e, err := tcg.ParseEKCertificate(der); err == nil {
		return e.Certificate, nil
	}
	return x509.ParseCertificate(der)
}

func keyWords(c *x509.Certificate) string {
	signed := ", signed with " + c.SignatureAlgorithm.String()
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d bits", k.N.BitLen()) + signed
	case *ecdsa.PublicKey:
		return "ECC " + k.Curve.Params().Name + signed
	case ed25519.PublicKey:
		return "Ed25519" + signed
	}
	return strings.TrimPrefix(signed, ", ")
}
