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

// HTTPProxy is the proxy by which the hub is reached: by CONNECT (RFC 9110,
// 9.3.6), so that TLS is between agent and hub, and the proxy sees the hub's
// address only. Nil: the hub is reached directly. The environment's variables
// (HTTPS_PROXY) are not read.
type HTTPProxy struct {
	URL *url.URL            // http or https, with a port
	CA  []*x509.Certificate // of a proxy with https; nothing else trusts them
}

// Bounds of a proxy's answer.
const (
	proxyDialTime = 10 * time.Second
	connectTime   = 20 * time.Second // for TLS with the proxy, and its answer
	connectHeader = 64 << 10         // bytes
)

// proxyError is what is wrong with the proxy, and what to do about it.
type proxyError struct {
	text string
	err  error // may be nil
}

func (e *proxyError) Error() string { return e.text }
func (e *proxyError) Unwrap() error { return e.err }

func (p *HTTPProxy) fails(err error, format string, args ...any) error {
	return &proxyError{fmt.Sprintf("the proxy %s %s", netfile.Mask(p.URL), fmt.Sprintf(format, args...)), err}
}

// dial connects to an address, through the proxy if there is one. now is the
// time by which the proxy's certificate is checked, as the hub's is.
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

// connect asks the proxy for a connection to an address.
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
				return nil, p.fails(err, "shows a certificate of another CA than the one in the network settings: put the proxy's CA there")
			}
			return nil, p.fails(err, "does not speak TLS as it should: %v", err)
		}
		conn = secure
	}
	req := "CONNECT " + address + " HTTP/1.1\r\nHost: " + address + "\r\nUser-Agent: gangway-agent\r\n"
	if p.URL.User != nil {
		password, _ := p.URL.User.Password()
		req += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(p.URL.User.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, req+"\r\n"); err != nil {
		return nil, p.fails(err, "ended the connection: %v", err)
	}
	in := &io.LimitedReader{R: conn, N: connectHeader}
	buffer := bufio.NewReader(in)
	resp, err := http.ReadResponse(buffer, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, p.fails(err, "gives no answer that can be read: %v; is it an HTTP proxy?", err)
	}
	if err := p.refused(resp.StatusCode, address); err != nil {
		return nil, err
	}
	if buffer.Buffered() > 0 { // the hub waits for us to begin
		return nil, p.fails(nil, "sends something of its own in the hub's place")
	}
	if !stop() && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return conn, conn.SetDeadline(time.Time{})
}

// refused says what a proxy's status means.
func (p *HTTPProxy) refused(status int, address string) error {
	switch {
	case status >= 200 && status < 300:
		return nil
	case status == http.StatusProxyAuthRequired && p.URL.User == nil:
		return p.fails(nil, "asks for a name and a password: write the proxy as http://NAME:PASSWORD@HOST:PORT")
	case status == http.StatusProxyAuthRequired:
		return p.fails(nil, "does not take the name and password: correct them in the network settings; Basic is the way that is known here")
	case status == http.StatusForbidden, status == http.StatusMethodNotAllowed, status == http.StatusUnauthorized:
		return p.fails(nil, "does not allow connections to %s (status %d): allow CONNECT to it at the proxy", address, status)
	case status >= 500:
		return p.fails(nil, "does not reach %s (status %d)", address, status)
	}
	return p.fails(nil, "answers status %d to CONNECT %s: is it a proxy, and its port right?", status, address)
}

// intercepted is that somebody on the way opens TLS connections.
type intercepted struct {
	host, issuer, proxy string
	err                 error
}

func (i *intercepted) Error() string {
	return fmt.Sprintf("the proxy %s opens TLS connections: it shows a certificate of %q in the place of the hub's. The hub is known by its own CA only, so an intercepting proxy cannot be used: exempt %s from TLS inspection at the proxy", i.proxy, i.issuer, i.host)
}

func (i *intercepted) Unwrap() error { return i.err }

// interception makes an error of its own of a certificate of another CA than the
// hub's that comes through a proxy.
func (p *HTTPProxy) interception(host string, err error) error {
	var wrong *tls.CertificateVerificationError
	unknown := x509.UnknownAuthorityError{}
	if p == nil || !errors.As(err, &unknown) || !errors.As(err, &wrong) {
		return err
	}
	issuer := clip(wrong.UnverifiedCertificates[0].Issuer.String())
	return &intercepted{host, issuer, netfile.Mask(p.URL), err}
}
