package api

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/wire"
)

// maxClientCerts bounds the number of certificates in a handshake or in a forwarded chain. So it
// also bounds the number of signatures that an attacker can make the hub verify.
const maxClientCerts = 1 + wire.MaxIntermediates

// clientVerifier verifies client certificates. If a root issued the leaf, clientVerifier verifies
// only one signature, even if the client also sends the root. crypto/tls would then verify two
// signatures, because it would also try the sent root as an intermediate.
type clientVerifier struct {
	roots []*x509.Certificate
	pool  *x509.CertPool // has the roots
	// intermediates is true if there may be CAs between a leaf and its root. There are no CAs below
	// the device CA, because its path length is 0.
	intermediates bool
	// `issuers` is a cache. It maps the SHA-256 of a leaf certificate to the root that issued the
	// leaf certificate. The leaf certificates are those that the hub has verified, or that this
	// process has signed. The cache saves work because a device presents the same certificate again
	// and again, and a proxy forwards this certificate with each request.
	issuers recent[*x509.Certificate]
}

func newClientVerifier(intermediates bool, roots ...*x509.Certificate) *clientVerifier {
	v := &clientVerifier{roots: roots, pool: x509.NewCertPool(), intermediates: intermediates}
	for _, c := range roots {
		v.pool.AddCert(c)
	}
	return v
}

// verify returns the chains from the first certificate to the roots, for client authentication.
func (v *clientVerifier) verify(options x509.VerifyOptions, certs ...*x509.Certificate) ([][]*x509.Certificate, error) {
	if len(certs) > maxClientCerts {
		return nil, fmt.Errorf("hub: the client sent %d certificates; at most %d are allowed", len(certs), maxClientCerts)
	}
	leaf := certs[0]
	sum := sha256.Sum256(leaf.Raw)
	// If `issuers` has this certificate, only the validity periods must be checked again.
	if root, ok := v.issuers.get(sum); ok && validAt(leaf, options.CurrentTime) && validAt(root, options.CurrentTime) {
		return [][]*x509.Certificate{{leaf, root}}, nil
	}
	chains, err := v.build(options, certs)
	if err == nil && len(chains) == 1 && len(chains[0]) == 2 {
		v.issuers.put(sum, chains[0][1])
	}
	return chains, err
}

// knowSigned adds an IDevID certificate that this process has just signed to the cache
// clientVerifier.issuers. So the hub need not verify its own signature when the device connects.
// Without knowSigned, the cache would hardly help, because most devices connect only once between
// their enrolment and the next restart of the hub.
func (s *Server) knowSigned(idevid store.Hash) {
	for _, v := range []*clientVerifier{s.clients, s.forwarded} {
		v.issuers.put(idevid, s.cfg.CA.DeviceCA())
	}
}

func validAt(c *x509.Certificate, t time.Time) bool {
	return !t.Before(c.NotBefore) && !t.After(c.NotAfter)
}

func (v *clientVerifier) build(options x509.VerifyOptions, certs []*x509.Certificate) ([][]*x509.Certificate, error) {
	options.Roots, options.KeyUsages = v.pool, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if !v.intermediates {
		return certs[0].Verify(options)
	}
	// A leaf that a root issued needs no intermediates. With intermediates, the hub could only find
	// a second chain.
	chains, err := certs[0].Verify(options)
	if links := v.links(certs[1:]); err != nil && links != nil {
		options.Intermediates = links
		return certs[0].Verify(options)
	}
	return chains, err
}

// links returns the intermediates that chain to a root, or nil if no intermediate does. It begins
// with the last certificate, which is nearest to the root: each certificate follows the certificate
// that it signed (RFC 8446, 4.4.2). In this order, each certificate's issuer is known before the
// certificate is checked. So a few forged intermediates cost a few signature checks. With
// x509.Verify, they would cost up to 100.
func (v *clientVerifier) links(certs []*x509.Certificate) (pool *x509.CertPool) {
	issuers := slices.Clone(v.roots)
	for _, c := range slices.Backward(certs) {
		if slices.ContainsFunc(issuers, c.Equal) || !slices.ContainsFunc(issuers, func(issuer *x509.Certificate) bool {
			return bytes.Equal(c.RawIssuer, issuer.RawSubject) && c.CheckSignatureFrom(issuer) == nil
		}) {
			continue
		}
		if pool == nil {
			pool = x509.NewCertPool()
		}
		issuers = append(issuers, c)
		pool.AddCert(c)
	}
	return pool
}

// ownTLSConfig returns the TLS configuration of the connections that Serve accepts. With this
// configuration, the hub verifies the client's certificate itself, so the TLS state of a connection
// has no verified chains. The caller gets the peer from peerOfConnection after the handshake.
func (s *Server) ownTLSConfig() *tls.Config {
	c := s.TLSConfig()
	c.NextProtos = []string{"h2", "http/1.1"}
	c.ClientAuth = tls.RequestClientCert
	// After this call, crypto/tls checks that the client has the certificate's key. If the client
	// does not have the key, crypto/tls ends the handshake. So this call cannot yet rely on the
	// peer's identity.
	c.VerifyConnection = func(state tls.ConnectionState) error {
		_, err := s.peerOfConnection(&state)
		return err
	}
	return c
}

// peer has the facts that a handshake proved about a client with a certificate.
type peer struct {
	certified   bool       // the client has a verified certificate, and proved its key
	certificate store.Hash // SHA-256 of the leaf certificate
	proxy       bool       // the certificate is the proxy's
	lost        *pki.Identity
}

// peerOfConnection verifies a client's certificate and returns the peer. It refuses the same
// certificates as verifyPeer. A second call for the same certificate is cheap: see
// clientVerifier.issuers.
func (s *Server) peerOfConnection(state *tls.ConnectionState) (peer, error) {
	if resumedWithCertificate(state) {
		return peer{}, errResumed
	}
	if len(state.PeerCertificates) == 0 {
		return peer{}, nil
	}
	chains, err := s.clients.verify(x509.VerifyOptions{CurrentTime: s.cfg.Now()}, state.PeerCertificates...)
	if err != nil {
		return peer{}, &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	return s.peerOf(chains)
}

var errResumed = errors.New("hub: the TLS session was resumed, so the client did not prove its certificate's key")

// peerOf returns the peer whose certificate has these verified chains.
func (s *Server) peerOf(chains [][]*x509.Certificate) (peer, error) {
	if len(chains) == 0 {
		return peer{}, nil
	}
	proxy, err := s.isProxy(chains)
	if err != nil {
		return peer{}, err
	}
	leaf := chains[0][0]
	return peer{true, sha256.Sum256(leaf.Raw), proxy, s.lostIdentity(leaf)}, nil
}

// peerOfRequest returns the peer of a request's connection.
func (s *Server) peerOfRequest(r *http.Request) (peer, error) {
	if conn, ok := r.Context().Value(connKey{}).(*connState); ok && conn.peer.certified {
		return conn.peer, nil
	}
	if r.TLS == nil {
		return peer{}, nil
	}
	return s.peerOf(r.TLS.VerifiedChains) // the connection is from a listener that does not use ownTLSConfig
}
