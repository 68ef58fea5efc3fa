package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// tlsLife is the lifetime of the hub's TLS certificate. When a third of it is left, TLSCertificate
// replaces the certificate and its key.
const tlsLife = 90 * 24 * time.Hour

// TLSCertificate returns a function for tls.Config.GetCertificate, which returns the hub's TLS
// certificate for `names`: DNS names and IP addresses. The TLS CA signs the certificate. If there
// is no TLS CA, the root signs it, and the hub sends no intermediates. The certificate's key is
// ECDSA P-256, and exists only in memory. If a new certificate cannot be made, for example because
// the CA's key is not available, the function returns the old one as long as it is valid.
func (h *Hub) TLSCertificate(now func() time.Time, names []string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	var mu sync.Mutex
	var current *tls.Certificate // guarded by mu
	names = slices.Clone(names)
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		t := now()
		mu.Lock()
		defer mu.Unlock()
		if current != nil && !h.due(current.Leaf, t) && t.After(current.Leaf.NotBefore) && t.Before(current.Leaf.NotAfter) {
			return current, nil
		}
		fresh, err := h.serverCertificate(t, names)
		if err != nil {
			if current != nil && t.After(current.Leaf.NotBefore) && t.Before(current.Leaf.NotAfter) {
				return current, nil
			}
			return nil, err
		}
		current = fresh
		return fresh, nil
	}
}

// The method `due` reports whether it is time to replace a TLS certificate. A certificate that
// expires together with its CA is never due, because a new one would not be valid for longer.
func (h *Hub) due(leaf *x509.Certificate, t time.Time) bool {
	issuer, _ := h.tlsIssuer()
	return leaf.NotAfter.Sub(t) <= tlsLife/3 && leaf.NotAfter.Before(issuer.NotAfter)
}

// tlsIssuer returns the CA that issues the TLS certificates, and its key.
func (h *Hub) tlsIssuer() (*x509.Certificate, crypto.Signer) {
	if h.tlsCA != nil {
		return h.tlsCA, h.tlsKey
	}
	return h.root, h.rootKey
}

func (h *Hub) serverCertificate(now time.Time, names []string) (*tls.Certificate, error) {
	issuer, issuerKey := h.tlsIssuer()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	template, err := serverTemplate("hub", names, now, tlsLife, issuer)
	if err != nil {
		return nil, fmt.Errorf("pki: TLS certificate: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, issuerKey)
	if err != nil {
		return nil, fmt.Errorf("pki: TLS certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("pki: TLS certificate: %w", err)
	}
	chain := [][]byte{der}
	if h.tlsCA != nil {
		chain = append(chain, h.tlsCA.Raw)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}

// serverTemplate returns the template of a TLS certificate for `names`: DNS names and IP addresses.
// The certificate expires after `life`, or together with its issuer if that is earlier.
func serverTemplate(subject string, names []string, now time.Time, life time.Duration, issuer *x509.Certificate) (*x509.Certificate, error) {
	if len(names) == 0 {
		return nil, errors.New("the certificate needs at least one name")
	}
	if now.After(issuer.NotAfter) {
		return nil, fmt.Errorf("the CA %q expired on %s: renew the CA; see 'gangway ca request --help'", issuer.Subject.CommonName, issuer.NotAfter.Format(time.DateOnly))
	}
	end := now.Add(life)
	if end.After(issuer.NotAfter) {
		end = issuer.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serialNumber()),
		Subject:      pkix.Name{Organization: []string{organization}, CommonName: subject},
		NotBefore:    now.Add(-slowClock), NotAfter: end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if !hostName(n) {
			return nil, fmt.Errorf("%q is neither a DNS name nor an IP address", n)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	return template, nil
}

// hostName reports whether `s` can be a dNSName in a SAN (RFC 5280, 4.2.1.6; RFC 6125, 6.4.3),
// which consists of labels of 1 to 63 letters, digits and hyphens. hostName also accepts
// underscores, which some host names contain. The first label may be an asterisk.
func hostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for i, label := range strings.Split(s, ".") {
		if i == 0 && label == "*" && len(s) > 1 {
			continue
		}
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool {
			return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
		}) {
			return false
		}
	}
	return true
}
