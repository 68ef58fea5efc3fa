package api

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"gangway/wire"
)

// maxClientCerts bounds the certificates of a handshake or of a forwarded chain. It bounds the
// signatures that an attacker can make the hub verify.
const maxClientCerts = 1 + wire.MaxIntermediates

// clientVerifier verifies client certificates at the cost of one signature, if the leaf was issued
// by a root. If the client sends the root too, crypto/tls verifies the leaf twice: it uses every
// certificate that the client sent as an intermediate.
type clientVerifier struct {
	roots []*x509.Certificate
	pool  *x509.CertPool // of the roots
	// intermediates is true if there may be CAs between a leaf and its root. There are no CAs below
	// the device CA, because its path length is 0.
	intermediates bool
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
// with the last certificate, because each certificate follows the certificate that it signed (RFC
// 8446, 4.4.2). So links verifies at most one signature for each certificate that names another
// issuer. x509.Verify would verify up to 100 signatures for a few forged intermediates.
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

// configForClient returns the TLS configuration of a connection that Serve accepted. With this
// configuration, the hub verifies the client's certificate itself, and stores the verified chains
// in the connection's state. For the connections of other listeners, configForClient returns nil:
// crypto/tls then verifies the certificate, at a higher cost.
func (s *Server) configForClient(base *tls.Config) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	base = base.Clone()
	base.NextProtos = []string{"h2", "http/1.1"}
	base.ClientAuth = tls.RequestClientCert
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		conn, ok := hello.Context().Value(connKey{}).(*connState)
		if !ok {
			return nil, nil
		}
		own := base.Clone()
		own.VerifyConnection = func(state tls.ConnectionState) error { return s.verifyConnection(conn, &state) }
		return own, nil
	}
}

// verifyConnection verifies a client certificate and stores the verified chains in `conn`. It also
// ends the handshake if verifyPeer returns an error.
func (s *Server) verifyConnection(conn *connState, state *tls.ConnectionState) (err error) {
	conn.chains = nil
	if resumedWithCertificate(state) {
		return errResumed
	}
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	if conn.chains, err = s.clients.verify(x509.VerifyOptions{CurrentTime: s.cfg.Now()}, state.PeerCertificates...); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	_, err = s.isProxy(conn.chains)
	return err
}

var errResumed = errors.New("hub: the TLS session was resumed, so the client did not prove its certificate's key")

// verifiedChains returns the verified chains of a request's client certificate; nil: the request
// has no verified certificate.
func verifiedChains(r *http.Request) [][]*x509.Certificate {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	if len(r.TLS.VerifiedChains) > 0 {
		return r.TLS.VerifiedChains
	}
	conn, ok := r.Context().Value(connKey{}).(*connState)
	if !ok || len(conn.chains) == 0 || !conn.chains[0][0].Equal(r.TLS.PeerCertificates[0]) {
		return nil
	}
	return conn.chains
}
