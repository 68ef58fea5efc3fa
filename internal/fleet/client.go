package fleet

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"gangway/internal/brief"
	"gangway/wire"
)

// Answer is an HTTP response with its status and its whole body.
type Answer struct {
	Status int
	Body   Body
}

// Body is the body of an answer. Error messages print only its beginning.
type Body []byte

// String returns a short form of the body for error messages. string(b) is the whole body.
func (b Body) String() string { return brief.Of([]byte(b)) }

// Code returns the stable code of a refusal, or "" if the body has none.
func (a *Answer) Code() string {
	var p struct {
		Error string `json:"error"`
	}
	if a.Status == http.StatusOK || json.Unmarshal(a.Body, &p) != nil {
		return ""
	}
	return p.Error
}

// Hub is a hub to which emulated devices connect.
type Hub struct {
	URL   string
	Roots *x509.CertPool
	plain *http.Client
}

// NewHub returns the hub that a token file names.
func NewHub(t *wire.TokenFile) (*Hub, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(t.HubCA)) {
		return nil, errors.New("fleet: the token file has no CA certificate of the hub")
	}
	h := &Hub{URL: t.Hub, Roots: roots}
	h.plain = &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
		MaxIdleConnsPerHost: 64,
	}}
	return h, nil
}

// Post sends a body to a path, without a client certificate.
func (h *Hub) Post(ctx context.Context, path string, body io.Reader) (*Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := h.plain.Do(req)
	if err != nil {
		return nil, err
	}
	return read(resp)
}

func read(resp *http.Response) (*Answer, error) {
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	return &Answer{resp.StatusCode, b}, nil
}

// Certificates contains a device's new certificates, and the keys with which the device proves that
// it has opened the reply.
type Certificates struct {
	IDevID, DeviceCA, IAK, ACA *x509.Certificate
	Keys                       wire.Keys
}

// Open decrypts the reply to a request with the device's emulated TPM.
func (d *Device) Open(request, reply []byte) (*Certificates, error) {
	r, err := wire.ParseReply(reply)
	if err != nil {
		return nil, err
	}
	secret, err := d.ActivateCredential(r.CredentialBlob, r.Secret)
	if err != nil {
		return nil, err
	}
	keys, err := wire.DeriveKeys(secret, sha256.Sum256(request))
	if err != nil {
		return nil, err
	}
	content, err := wire.Open(keys, r.Sealed)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for len(content) > 0 {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			return nil, errors.New("fleet: the reply's certificates are not PEM")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(certs) != 4 {
		return nil, fmt.Errorf("fleet: the reply has %d certificates; it must have 4", len(certs))
	}
	return &Certificates{certs[0], certs[1], certs[2], certs[3], keys}, nil
}

// Enrol sends a request and decrypts the reply.
func (d *Device) Enrol(ctx context.Context, h *Hub, request []byte) (*Certificates, error) {
	a, err := h.Post(ctx, "/onboard", bytes.NewReader(request))
	if err != nil {
		return nil, err
	}
	if a.Status != http.StatusOK {
		return nil, fmt.Errorf("fleet: status %d: %.200s", a.Status, a.Body)
	}
	return d.Open(request, a.Body)
}

// Conn is one TLS connection with a client certificate, for HTTP requests one after another. It
// never connects again, so a request fails if the hub has closed the connection.
type Conn struct {
	tls *tls.Conn
	in  *bufio.Reader
	url string
}

// Dial connects with a client certificate and completes the handshake. With TLS 1.3, the hub's
// refusal of the certificate shows only at the first request.
func (h *Hub) Dial(ctx context.Context, cert tls.Certificate) (*Conn, error) {
	u, err := url.Parse(h.URL)
	if err != nil {
		return nil, err
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, &tls.Config{
		RootCAs: h.Roots, ServerName: u.Hostname(), MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	})
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return &Conn{tls: c, in: bufio.NewReader(c), url: h.URL}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.tls.Close() }

// Exporter returns the TLS keying material to which an activation proof on this connection is
// bound.
func (c *Conn) Exporter() ([]byte, error) {
	state := c.tls.ConnectionState()
	return state.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterSize)
}

// Do sends a request on the connection and returns the answer. After an error, the connection
// cannot be used.
//
// Do does not use an http.Transport. A Transport keeps a connection only if it learns within 50 ms
// that the request is written, which a busy machine does not guarantee.
func (c *Conn) Do(ctx context.Context, method, path string, body []byte) (*Answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.tls.NetConn().Close() })
	defer stop()
	a, err := c.exchange(req)
	if err != nil {
		return nil, fmt.Errorf("fleet: %s %s: %w", method, path, cmp.Or(ctx.Err(), err))
	}
	return a, nil
}

func (c *Conn) exchange(req *http.Request) (*Answer, error) {
	// The hub may answer, and close the connection, before it has read the whole body. So an error
	// of Write counts only if there is no answer.
	unsent := req.Write(c.tls)
	resp, err := http.ReadResponse(c.in, req)
	for err == nil && resp.StatusCode < http.StatusOK {
		resp, err = http.ReadResponse(c.in, req)
	}
	if err != nil {
		return nil, cmp.Or(unsent, err)
	}
	if resp.Close {
		defer c.tls.Close()
	}
	return read(resp)
}

// Activate sends this activation proof and returns the hub's answer.
func (c *Conn) Activate(ctx context.Context, proof []byte) (*Answer, error) {
	b, err := json.Marshal(wire.ActivationRequest{Proof: proof})
	if err != nil {
		return nil, err
	}
	return c.Do(ctx, http.MethodPost, "/onboard/activate", b)
}

// IDevIDHash returns the SHA-256 of the IDevID certificate.
func (c *Certificates) IDevIDHash() [32]byte { return sha256.Sum256(c.IDevID.Raw) }

// TLS returns the IDevID certificate and its key as a TLS client certificate.
func (c *Certificates) TLS(d *Device) tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{c.IDevID.Raw}, PrivateKey: d.IDevID.Private}
}

// Activate connects with the IDevID certificate and sends the activation proof.
func (d *Device) Activate(ctx context.Context, h *Hub, c *Certificates) (*Answer, error) {
	conn, err := h.Dial(ctx, c.TLS(d))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	exporter, err := conn.Exporter()
	if err != nil {
		return nil, err
	}
	return conn.Activate(ctx, wire.ActivationProof(c.Keys, exporter, c.IDevIDHash()))
}

// Onboard enrols and activates the device.
func (d *Device) Onboard(ctx context.Context, h *Hub, t *wire.TokenFile) (*Certificates, error) {
	request, err := d.Request(t, RequestChange{})
	if err != nil {
		return nil, err
	}
	c, err := d.Enrol(ctx, h, request)
	if err != nil {
		return nil, err
	}
	a, err := d.Activate(ctx, h, c)
	if err != nil {
		return nil, err
	}
	if a.Status != http.StatusOK {
		return nil, fmt.Errorf("fleet: activation: status %d: %.200s", a.Status, a.Body)
	}
	return c, nil
}

// Close closes the connections that are not in use.
func (h *Hub) Close() { h.plain.CloseIdleConnections() }
