// Package trust knows the TPM makers' CA certificates: those that come with
// Gangway, those that files hold, and those that the operator added or took
// away. What comes out of it is an evidence.Anchors.
//
// A certificate is a root when it is signed by its own key, and else a link:
// links help to build chains, and are never trusted by themselves. The folder
// or file that a certificate lies in decides nothing.
package trust

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"path"
	"strings"

	"gangway/hub/evidence"
	"gangway/hub/store"
	"gangway/tcg"
)

// Certificate is a maker's CA certificate.
type Certificate struct {
	Cert        *x509.Certificate
	Fingerprint store.Hash // SHA-256 of the DER
	Root        bool       // signed by its own key
	Maker       string     // for people; says nothing about trust
	Source      string     // where it came from, in words: "built in", "file makers.pem"
	Quirks      []string   // what was tolerated in it, in words
}

// Parse reads one CA certificate (DER, nothing behind it). file is the name
// that it has where it comes from. A certificate that could be neither root
// nor link is an error that says why.
func Parse(der []byte, file string) (Certificate, error) {
	cert, quirks, err := tcg.ParseCertificate(der)
	if err != nil {
		return Certificate{}, err
	}
	if err := evidence.MayIssue(cert); err != nil {
		return Certificate{}, fmt.Errorf("%q cannot issue certificates of TPMs: %w", tcg.Printable(cert.Subject.String()), err)
	}
	return Certificate{
		Cert:        cert,
		Fingerprint: sha256.Sum256(der),
		Root:        selfSigned(cert),
		Maker:       maker(cert, file),
		Source:      file,
		Quirks:      quirks,
	}, nil
}

// selfSigned checks the signature on a certificate with its own key. SHA-1
// will do here (as it does for CheckSignature, and not for a link of a chain):
// that signature tells a root from a link and protects nothing, because what
// makes a root trusted is that the operator, or Gangway, has these very bytes.
func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// maker is the folder above RootCA or IntermediateCA, as collections have
// them, or else who the certificate says it belongs to.
func maker(c *x509.Certificate, file string) string {
	if i := strings.LastIndex(file, ": "); i >= 0 {
		file = file[i+2:] // within a cabinet
	}
	for dir := path.Dir(file); dir != "." && dir != "/"; dir = path.Dir(dir) {
		if kind := path.Base(dir); strings.EqualFold(kind, "RootCA") || strings.EqualFold(kind, "IntermediateCA") {
			if name := tcg.Printable(path.Base(path.Dir(dir))); name != "" && name != "." && name != "/" {
				return name
			}
		}
	}
	for _, name := range append(c.Subject.Organization, c.Subject.CommonName) {
		if name = tcg.Printable(name); name != "" {
			return name
		}
	}
	return "unknown"
}

// Name is what to call a certificate before people.
func (c *Certificate) Name() string {
	if name := tcg.Printable(c.Cert.Subject.CommonName); name != "" {
		return name
	}
	return tcg.Printable(c.Cert.Subject.String())
}
