package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gangway/wire"

	"golang.org/x/sys/unix"
)

// maxAnswer bounds the body of an answer, in bytes. Pantavisor has the same limit.
const maxAnswer = 2 << 20

// A conn is one TLS connection to the hub, for HTTP/1.1 requests one after another. Between two
// requests it has no goroutine and no buffer of its own, because each of 100,000 devices may keep a
// connection.
type conn struct {
	tls  *tls.Conn
	host string
	used bool // the hub has answered a request on this connection
	// requests is the number of forged requests that the hub has answered on this connection.
	requests int
}

// answer is an HTTP answer with its whole body.
type answer struct {
	status int
	body   []byte
}

// code returns the stable code of a refusal, or the status if the body has no code.
func (a *answer) code() string {
	var p struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(a.body, &p) == nil && p.Error != "" {
		return p.Error
	}
	return "status-" + strconv.Itoa(a.status)
}

// refusal is the error for an answer with a status other than 200.
type refusal struct {
	status int
	code   string
	body   []byte
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the hub answered %d %s: %.300s", r.status, r.code, r.body)
}

// If the status is not 200, the method `ok` returns a refusal.
func (a *answer) ok() error {
	if a.status == http.StatusOK {
		return nil
	}
	return &refusal{a.status, a.code(), a.body}
}

// target is the hub's address, and the TLS configurations for it. All connections share them.
type target struct {
	host string         // host and port, for the Host header
	addr netip.AddrPort // address to which connections go
	// device presents the certificate of the device in the handshake's context (see withDevice).
	// anonymous and pantavisor present no certificate. pantavisor offers only the key exchange
	// groups that Pantavisor's TLS library supports.
	device, anonymous, pantavisor *tls.Config
	spread                        *spread // source addresses; nil: the kernel chooses
	timeout                       time.Duration
	handshakes                    atomic.Int64 // number of completed TLS handshakes
}

type deviceKey struct{}

// withDevice returns a context for a handshake with this device's certificate.
func withDevice(ctx context.Context, d *device) context.Context {
	return context.WithValue(ctx, deviceKey{}, d)
}

func newTarget(t *wire.TokenFile, host, name string, addr netip.AddrPort, timeout time.Duration) (*target, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(t.HubCA)) {
		return nil, errors.New("the token file has no CA certificate of the hub")
	}
	common := func() *tls.Config {
		return &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS13}
	}
	to := &target{host: host, addr: addr, device: common(), anonymous: common(), pantavisor: common(), timeout: timeout}
	to.device.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		d, _ := info.Context().Value(deviceKey{}).(*device)
		if d == nil {
			return nil, errors.New("fleet: a handshake has no device in its context")
		}
		return &tls.Certificate{Certificate: [][]byte{d.cert, d.ca}, PrivateKey: d.key}, nil
	}
	to.pantavisor.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256}
	return to, nil
}

// dialRaw opens a TCP connection, from the source address with this number.
func (t *target) dialRaw(ctx context.Context, source int) (net.Conn, error) {
	d := net.Dialer{Timeout: t.timeout, KeepAlive: -1}
	if t.spread != nil {
		d.LocalAddr = t.spread.address(source)
		// Without this option, the kernel would reserve the port for all destinations when the
		// socket is bound. Then no port would be left after 28,000 connections in all.
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var err error
			if e := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
			}); e != nil {
				return e
			}
			return err
		}
	}
	return d.DialContext(ctx, "tcp", t.addr.String())
}

// dial opens a connection and completes its TLS handshake.
func (t *target) dial(ctx context.Context, source int, c *tls.Config) (*conn, error) {
	raw, err := t.dialRaw(ctx, source)
	if err != nil {
		return nil, err
	}
	if err := raw.SetDeadline(time.Now().Add(t.timeout)); err != nil {
		raw.Close()
		return nil, err
	}
	secure := tls.Client(raw, c)
	if err := secure.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	t.handshakes.Add(1)
	return &conn{tls: secure, host: t.host}, nil
}

// close closes the connection without waiting for the peer.
func (c *conn) close() {
	c.tls.NetConn().SetWriteDeadline(time.Now().Add(time.Second))
	c.tls.Close()
}

var (
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}
	buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}
)

// errReused means that the hub closed a connection that was open before this request, and sent no
// byte of an answer. The request may be sent again on a new connection, as HTTP clients do.
var errReused = errors.New("the hub closed the connection while it was idle")

// request is a request without its connection.
type request struct {
	method, path string
	token        string // bearer token; may be empty
	agent        string // User-Agent
	last         bool   // "Connection: close"
	body         []byte
}

// The method `do` sends a request and reads the whole answer. If the connection cannot be used for
// another request, `open` is false, and the connection is closed.
func (c *conn) do(ctx context.Context, within time.Duration, q request) (a *answer, open bool, err error) {
	defer func() {
		if !open {
			c.close()
		}
	}()
	if err := c.tls.SetDeadline(time.Now().Add(within)); err != nil {
		return nil, false, err
	}
	stop := context.AfterFunc(ctx, func() { c.tls.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := c.write(q); err != nil {
		if c.used && !isTimeout(err) {
			err = errReused
		}
		return nil, false, err
	}
	r := readers.Get().(*bufio.Reader)
	r.Reset(c.tls)
	defer func() { r.Reset(nil); readers.Put(r) }()
	if _, err := r.Peek(1); err != nil {
		if c.used && !isTimeout(err) && !isAlert(err) {
			err = errReused
		}
		return nil, false, err
	}
	resp, err := http.ReadResponse(r, &http.Request{Method: q.method})
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, false, err
	}
	if len(body) > maxAnswer {
		return nil, false, fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	}
	c.used = true
	return &answer{resp.StatusCode, body}, !resp.Close && !q.last && r.Buffered() == 0 && ctx.Err() == nil, nil
}

func (c *conn) write(q request) error {
	b := buffers.Get().(*bytes.Buffer)
	defer func() { b.Reset(); buffers.Put(b) }()
	fmt.Fprintf(b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\n", q.method, q.path, c.host, q.agent)
	if q.token != "" {
		fmt.Fprintf(b, "Authorization: Bearer %s\r\n", q.token)
	}
	if q.last {
		b.WriteString("Connection: close\r\n")
	}
	if q.body != nil || q.method != http.MethodGet {
		fmt.Fprintf(b, "Content-Length: %d\r\n", len(q.body))
	}
	b.WriteString("\r\n")
	b.Write(q.body)
	_, err := c.tls.Write(b.Bytes())
	return err
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func isAlert(err error) bool {
	var alert tls.AlertError
	var op *net.OpError
	return errors.As(err, &alert) || errors.As(err, &op) && op.Op == "remote error"
}

// errorCode returns a short code for an error. The report counts errors by these codes.
func errorCode(ctx context.Context, err error) string {
	var refused *refusal
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	switch {
	case errors.As(err, &refused):
		return refused.code
	case ctx.Err() != nil:
		return codeUnfinished
	case errors.Is(err, errAccepted):
		return "accepted"
	case isTimeout(err), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection-refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection-reset"
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EADDRINUSE):
		return "no-port"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, os.ErrPermission):
		return "no-descriptor"
	case errors.As(err, &unknown), errors.As(err, &invalid), errors.As(err, &host):
		return "hub-certificate"
	case isAlert(err):
		return "tls-alert"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errReused):
		return "connection-closed"
	}
	return "other"
}

// codeUnfinished is the code of requests that had no answer yet when the run ended.
const codeUnfinished = "unfinished"
