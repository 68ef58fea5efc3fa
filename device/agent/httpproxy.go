package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"gangway/device/install/netfile"
)

// HTTPProxy is the HTTP proxy for connections to the hub. The agent uses CONNECT (RFC 9110, 9.3.6),
// so the TLS connection is between the agent and the hub: the proxy learns the hub's address but
// cannot read the data. A nil *HTTPProxy means a direct connection. The environment variable
// HTTPS_PROXY is ignored.
type HTTPProxy struct {
	URL *url.URL            // http or https, with a port
	CA  []*x509.Certificate // the CA of a proxy with an https URL; trusted only for the proxy's certificate
}

// Limits that apply while the agent connects through a proxy.
const (
	proxyDialTime = 10 * time.Second
	connectTime   = 20 * time.Second // for TLS with the proxy and the proxy's answer together
	connectHeader = 64 << 10         // largest header of the proxy's answer, in bytes
)

// proxyError says what is wrong with the proxy, and what to do.
type proxyError struct {
	text string
	err  error // may be nil
}

func (e *proxyError) Error() string { return e.text }
func (e *proxyError) Unwrap() error { return e.err }

func (p *HTTPProxy) fails(err error, format string, args ...any) error {
	return &proxyError{fmt.Sprintf("the proxy %s %s", netfile.Mask(p.URL), fmt.Sprintf(format, args...)), err}
}

// dial connects to an address, through the proxy if p is not nil. `now` returns the time on the
// machine's clock. If this time cannot be right, the dates of the proxy's certificate are checked
// at the time that verifyAt returns.
func (p *HTTPProxy) dial(ctx context.Context, network, address string, now func() time.Time) (net.Conn, error) {
	d := &net.Dialer{Timeout: proxyDialTime}
	if p == nil {
		return d.DialContext(ctx, network, address)
	}
	conn, err := d.DialContext(ctx, "tcp", p.URL.Host)
	if err != nil {
		return nil, p.fails(err, "cannot be reached: %s", describe(err))
	}
	through, err := p.connect(ctx, conn, address, now)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return through, nil
}

// The method `connect` asks the proxy, over the connection `conn`, for a connection to `address`.
func (p *HTTPProxy) connect(ctx context.Context, conn net.Conn, address string, now func() time.Time) (net.Conn, error) {
	if err := conn.SetDeadline(time.Now().Add(connectTime)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if p.URL.Scheme == "https" {
		roots := x509.NewCertPool()
		for _, c := range p.CA {
			roots.AddCert(c)
		}
		config := verifying(p.URL.Hostname(), roots, p.CA, now)
		config.MinVersion, config.NextProtos = tls.VersionTLS12, []string{"http/1.1"}
		config.ServerName = p.URL.Hostname()
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			if unknown := (x509.UnknownAuthorityError{}); errors.As(err, &unknown) {
				return nil, p.fails(err, "has a certificate from a CA that is not in the network settings: add the proxy's CA to the network settings")
			}
			return nil, p.fails(err, "failed the TLS handshake: %v", err)
		}
		conn = secure
	}
	req := "CONNECT " + address + " HTTP/1.1\r\nHost: " + address + "\r\nUser-Agent: gangway-agent\r\n"
	if p.URL.User != nil {
		password, _ := p.URL.User.Password()
		req += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(p.URL.User.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, req+"\r\n"); err != nil {
		return nil, p.fails(err, "closed the connection: %v", err)
	}
	in := &io.LimitedReader{R: conn, N: connectHeader}
	buffer := bufio.NewReader(in)
	resp, err := http.ReadResponse(buffer, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, p.fails(err, "sent an answer that is not HTTP: %v; is it an HTTP proxy?", err)
	}
	if err := p.refused(resp.StatusCode, address); err != nil {
		return nil, err
	}
	if buffer.Buffered() > 0 { // the hub sends nothing before the client's TLS hello, so the proxy sent these bytes
		return nil, p.fails(nil, "sent data before the hub could answer: is this an HTTP proxy?")
	}
	if !stop() && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return conn, conn.SetDeadline(time.Time{})
}

// The method `refused` explains the status of the proxy's answer to CONNECT. It returns nil if the
// status means success.
func (p *HTTPProxy) refused(status int, address string) error {
	switch {
	case status >= 200 && status < 300:
		return nil
	case status == http.StatusProxyAuthRequired && p.URL.User == nil:
		return p.fails(nil, "requires a name and a password: write the proxy as http://NAME:PASSWORD@HOST:PORT")
	case status == http.StatusProxyAuthRequired:
		return p.fails(nil, "refused the name and password: correct them in the network settings; the agent supports only Basic authentication")
	case status == http.StatusForbidden, status == http.StatusMethodNotAllowed, status == http.StatusUnauthorized:
		return p.fails(nil, "does not allow connections to %s (status %d): allow CONNECT to this address at the proxy", address, status)
	case status >= 500:
		return p.fails(nil, "cannot reach %s (status %d)", address, status)
	}
	return p.fails(nil, "answered CONNECT to %[2]s with status %[1]d: is this an HTTP proxy, and is the port correct?", status, address)
}

// intercepted is the error for a proxy that intercepts TLS connections.
type intercepted struct {
	host, issuer, proxy string
	err                 error
}

func (i *intercepted) Error() string {
	return fmt.Sprintf("the proxy %s intercepts TLS connections: it sent a certificate of the CA %q instead of the hub's certificate. The agent trusts only the hub's CA, so it cannot use an intercepting proxy: exempt %s from TLS inspection at the proxy", i.proxy, i.issuer, i.host)
}

func (i *intercepted) Unwrap() error { return i.err }

// interception returns an *intercepted error if the connection goes through a proxy and err says
// that an unknown CA issued the hub's certificate. Otherwise it returns err unchanged.
func (p *HTTPProxy) interception(host string, err error) error {
	var wrong *tls.CertificateVerificationError
	unknown := x509.UnknownAuthorityError{}
	if p == nil || !errors.As(err, &unknown) || !errors.As(err, &wrong) {
		return err
	}
	issuer := clip(wrong.UnverifiedCertificates[0].Issuer.String())
	return &intercepted{host, issuer, netfile.Mask(p.URL), err}
}
