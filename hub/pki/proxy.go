package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// ProxySubject is the common name in the TLS certificate of a proxy, which distinguishes it from
// the certificate of the hub itself.
const ProxySubject = "proxy"

// The shortest and the longest validity of a proxy's TLS certificate.
const (
	minProxyLife = 24 * time.Hour
	maxProxyLife = 366 * 24 * time.Hour
)

// IssueProxy returns a TLS server certificate for a proxy that terminates TLS in front of the hub.
// Devices trust only the CA of their hub, so they connect only to a proxy with such a certificate.
// The result is PEM text: the proxy's certificate and, if a TLS CA issued it, the certificate of
// the TLS CA.
//
// The argument `request` is a PKCS #10 request (RFC 2986) in PEM, made with the proxy's key, which
// is all that IssueProxy uses of the request. The DNS names and IP addresses of the certificate are
// `names`. IssueProxy refuses a request that does not prove the possession of its key, and a
// request for a key of the hub's CAs.
func (h *Hub) IssueProxy(request []byte, names []string, now time.Time, life time.Duration) (chain []byte, leaf *x509.Certificate, err error) {
	if life < minProxyLife || life > maxProxyLife {
		return nil, nil, fmt.Errorf("pki: a proxy's certificate must be valid for 1 to 366 days, not %s", life)
	}
	csr, err := parseProxyRequest(request)
	if err != nil {
		return nil, nil, fmt.Errorf("pki: %w", err)
	}
	for _, c := range h.All() {
		if bytes.Equal(c.RawSubjectPublicKeyInfo, csr.RawSubjectPublicKeyInfo) {
			return nil, nil, fmt.Errorf("pki: the request has the same key as the CA %q: make a new key for the proxy", c.Subject.CommonName)
		}
	}
	issuer, issuerKey := h.tlsIssuer()
	template, err := serverTemplate(ProxySubject, names, now, life, issuer)
	if err != nil {
		return nil, nil, fmt.Errorf("pki: proxy's certificate: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, csr.PublicKey, issuerKey)
	if err != nil {
		return nil, nil, fmt.Errorf("pki: proxy's certificate: %w", err)
	}
	if leaf, err = x509.ParseCertificate(der); err != nil {
		return nil, nil, fmt.Errorf("pki: proxy's certificate: %w", err)
	}
	chain = certPEM(der)
	if h.tlsCA != nil {
		chain = append(chain, certPEM(h.tlsCA.Raw)...)
	}
	return chain, leaf, nil
}

// parseProxyRequest parses PEM text with exactly one request, whose key must be of a type that
// clients accept in TLS 1.3.
func parseProxyRequest(text []byte) (*x509.CertificateRequest, error) {
	if len(text) > maxRequest {
		return nil, fmt.Errorf("the request has %d bytes; at most %d are allowed", len(text), maxRequest)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" || bytes.Contains(rest, []byte("-----BEGIN")) {
		return nil, errors.New("the file is not one certificate request in PEM, as 'openssl req -new' writes it")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the request: %w", err)
	}
	switch key := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return nil, fmt.Errorf("the request has an ECDSA key on %s: use P-256 or P-384", key.Params().Name)
		}
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 || bits > 4096 {
			return nil, fmt.Errorf("the request has an RSA key of %d bits: use 2048 to 4096 bits, or ECDSA", bits)
		}
	default:
		return nil, fmt.Errorf("the request has a key of type %s: use ECDSA on P-256 or P-384, or RSA", csr.PublicKeyAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the request does not prove that the proxy has the key: %w", err)
	}
	return csr, nil
}
