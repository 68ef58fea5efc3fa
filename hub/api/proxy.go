package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/tcg"
	"gangway/wire"
)

// Proxy is a proxy in front of the hub that terminates TLS. It may forward the client certificate
// of a request in the headers of RFC 9440. The hub identifies the proxy only by the client
// certificate that the proxy itself presents.
type Proxy struct {
	// CAs are the CAs that sign the proxy's certificate. They must not be the hub's own CAs.
	CAs []*x509.Certificate
	// Name is the DNS name, or the IP address, in the proxy's certificate.
	Name string
	// Traces says that the proxy replaces its clients' traceparent headers, so the hub can trust
	// this header and continue the proxy's traces.
	Traces bool
}

// The headers of RFC 9440.
const (
	clientCert      = "Client-Cert"
	clientCertChain = "Client-Cert-Chain"
)

// check refuses a configuration in which a device and the proxy could impersonate each other.
func (p *Proxy) check(ca *pki.Hub) error {
	if p.Name == "" || len(p.CAs) == 0 {
		return errors.New("hub: a proxy needs both a CA and a name")
	}
	own := ca.All()
	for _, c := range p.CAs {
		if !c.BasicConstraintsValid || !c.IsCA {
			return fmt.Errorf("hub: the proxy's CA %q is not a CA certificate", c.Subject)
		}
		for _, o := range own {
			if slices.Equal(c.RawSubjectPublicKeyInfo, o.RawSubjectPublicKeyInfo) || c.CheckSignatureFrom(o) == nil {
				return fmt.Errorf("hub: the proxy's CA %q is one of the hub's own CAs, or was signed by one of them: a device could impersonate the proxy; use another CA", c.Subject)
			}
		}
	}
	return nil
}

// origin is the client certificate of a request. The client proved possession of the certificate's
// key to the proxy if `proxied` is true, and otherwise to this hub.
type origin struct {
	certificate store.Hash // SHA-256 of the leaf certificate
	certified   bool       // the request has a client certificate
	proxied     bool
	lost        *pki.Identity // see lostIdentity
}

// clientCertificate returns the SHA-256 of the request's client certificate, that is, of the leaf
// of its chain. The client has proved possession of the certificate's key, either to the hub or to
// the hub's proxy.
func clientCertificate(r *http.Request) (store.Hash, bool) {
	o := originOf(r)
	return o.certificate, o.certified
}

func originOf(r *http.Request) origin { return originIn(r.Context()) }

func originIn(ctx context.Context) origin {
	if f := factsIn(ctx); f != nil {
		return f.origin
	}
	return origin{}
}

// isProxy reports whether a connection comes from the proxy: all verified chains of the client
// certificate end at the proxy's CAs, and the certificate has the proxy's name. If even one chain
// ends at the device CA, the connection comes from a device.
func (s *Server) isProxy(chains [][]*x509.Certificate) (bool, error) {
	if s.cfg.Proxy == nil || len(chains) == 0 {
		return false, nil
	}
	for _, chain := range chains {
		last := chain[len(chain)-1]
		if !slices.ContainsFunc(s.cfg.Proxy.CAs, last.Equal) {
			return false, nil
		}
	}
	if err := chains[0][0].VerifyHostname(s.cfg.Proxy.Name); err != nil {
		return false, fmt.Errorf("hub: a certificate from the proxy's CA does not have the proxy's name: %w", err)
	}
	return true, nil
}

// clientVerifiers returns two verifiers of client certificates: `connection` for the certificate of
// a TLS connection to the hub, and `forwarded` for a device's certificate that the proxy forwards
// in a header.
func clientVerifiers(ca *pki.Hub, p *Proxy) (connection, forwarded *clientVerifier) {
	forwarded = newClientVerifier(false, ca.DeviceCAs()...)
	if p == nil {
		return forwarded, forwarded
	}
	return newClientVerifier(true, append(ca.DeviceCAs(), p.CAs...)...), forwarded
}

// verifyPeer fails the handshake if the peer's certificate is from the proxy's CA but does not have
// the proxy's name. It also fails the handshake if the TLS session was resumed with a client
// certificate, because the peer has then not proved possession of the certificate's key.
func (s *Server) verifyPeer(state tls.ConnectionState) error {
	if resumedWithCertificate(&state) {
		return errResumed
	}
	_, err := s.isProxy(state.VerifiedChains)
	return err
}

// resumedWithCertificate reports whether a TLS session was resumed and has the client certificate
// of an earlier connection. In this case, the peer has not used the certificate's key on this
// connection.
func resumedWithCertificate(state *tls.ConnectionState) bool {
	return state != nil && state.DidResume && len(state.PeerCertificates) > 0
}

// findOrigin finds a request's origin, if necessary from the headers of RFC 9440. It refuses a request
// that has these headers unless it comes from the proxy. `addr` is the address and port of the
// client.
func (s *Server) findOrigin(r *http.Request) (o origin, addr string, err error) {
	// A resumed session with a client certificate gets here only through a listener that does not
	// use TLSConfig: see Handler.
	if resumedWithCertificate(r.TLS) {
		return o, "", problem(http.StatusForbidden, "tls-resumed", "Connect again with a full TLS handshake: without a session ticket, and without a cached session.",
			"The TLS session was resumed, so the certificate's key was not used on this connection.")
	}
	p, err := s.peerOfRequest(r)
	if err != nil {
		return o, "", problem(http.StatusForbidden, "proxy-name", "Give the proxy a certificate with the name of --proxy-name.", "The client certificate is from the proxy's CA, but does not have the proxy's name.")
	}
	cert, chain := r.Header.Values(clientCert), r.Header.Values(clientCertChain)
	proxied := p.proxy
	o.proxied = proxied
	switch {
	case !proxied && len(cert)+len(chain) > 0:
		return o, "", problem(http.StatusBadRequest, "client-cert-header", "Connect with the client certificate itself. A proxy must connect with its own certificate: see docs/operations.md.",
			"The request has a Client-Cert header, but does not come from the hub's proxy.")
	case !proxied && p.certified:
		o.certificate, o.certified, o.lost = p.certificate, true, p.lost
	case proxied && len(cert)+len(chain) > 0:
		leaf, err := s.verifyForwarded(cert, chain)
		if err != nil {
			return o, "", problem(http.StatusBadRequest, "client-cert-header", "Configure the proxy to verify the certificate against the device CA, and to send both headers in the form of RFC 9440.",
				"The client certificate that the proxy forwarded is not accepted: %s.", err)
		}
		o.certificate, o.certified = sha256.Sum256(leaf.Raw), true
		o.lost = s.lostIdentity(leaf)
	}
	addr = r.RemoteAddr
	if proxied {
		if client, ok := forwardedFor(r.Header.Values("X-Forwarded-For")); ok {
			addr = net.JoinHostPort(client, "0")
		}
	}
	return o, addr, nil
}

// verifyForwarded parses the headers of RFC 9440, and verifies the certificate in the same way as a
// TLS handshake with the hub would.
func (s *Server) verifyForwarded(cert, chain []string) (*x509.Certificate, error) {
	if len(cert) != 1 {
		return nil, fmt.Errorf("the request has %d %s headers", len(cert), clientCert)
	}
	raw, err := byteSequence(cert[0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", clientCert, err)
	}
	c, err := x509.ParseCertificate(raw)
	if err != nil || c.IsCA {
		return nil, fmt.Errorf("%s is not a device certificate", clientCert)
	}
	if len(chain) > 0 {
		items := strings.Split(strings.Join(chain, ","), ",")
		if len(items) > wire.MaxIntermediates {
			return nil, fmt.Errorf("%s has more than %d certificates", clientCertChain, wire.MaxIntermediates)
		}
		for _, item := range items {
			der, err := byteSequence(strings.Trim(item, " \t"))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", clientCertChain, err)
			}
			if slices.ContainsFunc(s.cfg.CA.DeviceCAs(), func(c *x509.Certificate) bool { return bytes.Equal(der, c.Raw) }) {
				continue
			}
			if _, err := x509.ParseCertificate(der); err != nil {
				return nil, fmt.Errorf("%s contains an item that is not a certificate", clientCertChain)
			}
		}
	}
	// The device CA signs only devices' certificates and no other CAs, so the hub does not need the
	// other certificates of the chain.
	if _, err := s.forwarded.verify(x509.VerifyOptions{CurrentTime: s.cfg.Now()}, c); err != nil {
		return nil, errors.New("the certificate does not chain to the device CA for client authentication")
	}
	return c, nil
}

// byteSequence strictly parses an Item of RFC 8941 that is a Byte Sequence (section 3.3.5): it
// requires padding and refuses parameters.
func byteSequence(v string) ([]byte, error) {
	v = strings.Trim(v, " ")
	if len(v) < 2 || v[0] != ':' || v[len(v)-1] != ':' || strings.ContainsAny(v, "\r\n") {
		return nil, errors.New("not a byte sequence of RFC 8941")
	}
	b, err := base64.StdEncoding.Strict().DecodeString(v[1 : len(v)-1])
	if err != nil || len(b) == 0 || len(b) > tcg.MaxCertificate {
		return nil, errors.New("not the base64 form of a certificate")
	}
	return b, nil
}

// forwardedFor returns the last address in X-Forwarded-For, which the proxy itself has added. The
// client may have forged the addresses before it.
func forwardedFor(values []string) (string, bool) {
	if len(values) == 0 {
		return "", false
	}
	last := values[len(values)-1]
	last = strings.TrimSpace(last[strings.LastIndex(last, ",")+1:])
	ip, err := netip.ParseAddr(last)
	if err != nil {
		return "", false
	}
	return ip.Unmap().WithZone("").String(), true
}
