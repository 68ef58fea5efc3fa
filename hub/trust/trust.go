// Package trust manages the TPM makers' CA certificates: built-in certificates, certificates from
// files, and certificates that the operator added or distrusted. Set.Anchors converts them for
// package evidence.
//
// A certificate that is signed by its own key is a root. Any other certificate is a link (an
// intermediate CA certificate): links help to build chains, but are never trusted by themselves. In
// which folder or file a certificate is found makes no difference.
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
	Maker       string     // for people; it does not affect trust
	Source      string     // where the certificate comes from, for people: "built in", "file makers.pem"
	Quirks      []string   // tolerated deviations, for people
}

// Parse parses one CA certificate in DER. It returns an error if other bytes follow the
// certificate, or if the certificate may not issue EK certificates. `file` is the name of the
// certificate's file.
func Parse(der []byte, file string) (Certificate, error) {
	cert, quirks, err := tcg.ParseCertificate(der)
	if err != nil {
		return Certificate{}, err
	}
	if err := evidence.MayIssue(cert); err != nil {
		return Certificate{}, fmt.Errorf("%q cannot issue EK certificates: %w", tcg.Printable(cert.Subject.String()), err)
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

// selfSigned reports whether a certificate is signed by its own key. It accepts signatures with
// SHA-1, although package evidence refuses them in a chain, because here the signature only tells
// whether the certificate is a root or a link. The hub trusts a root not because of its signature,
// but because this very certificate is built in or was added by the operator.
func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// maker returns the name of the TPM maker to which the CA certificate `c` belongs, for display
// only. This is the name of the folder above RootCA or IntermediateCA, as in the known collections
// of certificates. If the path `file` has no such folder, maker returns the organization or the
// common name in the certificate's subject.
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

// Name returns a name for the certificate, for display.
func (c *Certificate) Name() string {
	if name := tcg.Printable(c.Cert.Subject.CommonName); name != "" {
		return name
	}
	return tcg.Printable(c.Cert.Subject.String())
}
