package agent

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"gangway/wire"
)

// hub is a connection to the hub: TLS 1.3, trusting the CA of the join token
// and nothing else.
type hub struct {
	at    *addresses
	roots *x509.CertPool
	certs []*x509.Certificate // those of roots
	now   func() time.Time
	clock *clockSetter // nil: the clock is somebody else's to set
	proxy *HTTPProxy   // nil: none
	http  addressed

	connections atomic.Int64 // that were made
}

func newHub(at *addresses, ca string, proxy *HTTPProxy) (*hub, error) {
	certs, err := (&wire.TokenFile{HubCA: ca}).Roots()
	if err != nil {
		return nil, fmt.Errorf("agent: the hub's CA cannot be read: %w", err)
	}
	h := &hub{at: at, roots: x509.NewCertPool(), certs: certs, now: time.Now, proxy: proxy}
	for _, c := range certs {
		h.roots.AddCert(c)
	}
	h.connectAs(nil)
	return h, nil
}

// as returns the same hub under a client certificate. The hub's other
// connections are closed.
func (h *hub) as(chain [][]byte, key crypto.Signer) *hub {
	h.close()
	n := &hub{at: h.at, roots: h.roots, certs: h.certs, now: h.now, clock: h.clock, proxy: h.proxy}
	n.connectAs(&tls.Certificate{Certificate: chain, PrivateKey: key})
	return n
}

// dial connects to the hub, through the proxy if there is one.
func (h *hub) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return h.proxy.dial(ctx, network, address, h.now)
}

// connectAs has connections made under a client certificate, unless it is nil.
func (h *hub) connectAs(cert *tls.Certificate) {
	h.http = addressed{at: h.at, make: func(url string) *http.Client { return h.newClient(url, cert) }}
}

// url is the address in use.
func (h *hub) url() string { return h.at.current() }

// hostOf is the hub's name in its URL, without the port.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "" // which no certificate is for
	}
	return u.Hostname()
}

func (h *hub) close() { h.http.close() }

func (h *hub) newClient(url string, cert *tls.Certificate) *http.Client {
	config := h.trusting(hostOf(url))
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return &http.Client{
		Timeout: 60 * time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				h.connections.Add(1)
				return h.dial(ctx, network, address)
			},
			MaxConnsPerHost:       1, // what is bound to a connection is asked and answered on one
			TLSClientConfig:       config,
			TLSHandshakeTimeout:   20 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
			MaxIdleConnsPerHost:   1,
			IdleConnTimeout:       90 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the hub answered with a redirect, which it never does")
		},
	}
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 1 << 20

// doWithin sends a request to a path of the hub. An answer of another status than
// 200 is a *Refused. Where no connection can be made, the hub's other addresses
// are tried at once; where one breaks, with the next request.
func (h *hub) doWithin(ctx context.Context, method, path string, body io.Reader, prepare func(*http.Request), limit int64) ([]byte, error) {
	var resp *http.Response
	var errs []error
	for range h.at.all() {
		client, at := h.http.get()
		connected := false
		trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected = true }}
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), method, at+path, body)
		if err != nil {
			return nil, err
		}
		req.Header.Set("User-Agent", "gangway-agent")
		prepare(req)
		if resp, err = client.Do(req); err == nil {
			h.at.worked(at, resp.Header)
			errs = nil
			break
		}
		errs = append(errs, err)
		if ctx.Err() == nil {
			h.at.failed(at)
		}
		if connected || ctx.Err() != nil {
			break
		}
	}
	if len(errs) > 0 {
		return nil, errs[0] // of the address that was in use
	}
	defer resp.Body.Close()
	h.clock.heard(h.now(), h.certs, resp)
	answer, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(answer)) > limit {
		return nil, fmt.Errorf("the hub's answer to %s %s has more than %d bytes", method, path, limit)
	}
	if resp.StatusCode == http.StatusAccepted {
		u := new(waitingAnswer)
		if json.Unmarshal(answer, u) == nil && u.Status == wire.WaitingStatus {
			return nil, u
		}
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refused(resp, answer)
	}
	return answer, nil
}

// refused is what an answer's body says, or its status alone.
func refused(resp *http.Response, body []byte) *Refused {
	r := &Refused{Status: resp.StatusCode}
	if json.Unmarshal(body, r) != nil || r.Code == "" {
		r.Code, r.Reason = "http", resp.Status
	}
	r.Status = resp.StatusCode
	return r
}

func (h *hub) send(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	return h.sendWithin(ctx, method, path, contentType, body, maxAnswer)
}

func (h *hub) sendWithin(ctx context.Context, method, path, contentType string, body []byte, limit int64) ([]byte, error) {
	return h.doWithin(ctx, method, path, bytes.NewReader(body), func(req *http.Request) {
		if contentType != "" {
			req.Header.Set("Content-Type", contentType)
		}
	}, limit)
}

func (h *hub) post(ctx context.Context, path, contentType string, body []byte) ([]byte, error) {
	return h.send(ctx, http.MethodPost, path, contentType, body)
}

// deviceView is what the agent wants to know of the hub's answer.
type deviceView struct {
	ID        string `json:"id"`
	Nick      string `json:"nick"`
	OwnerNick string `json:"owner-nick"`
	TPM       TPM    `json:"tpm"`
}

// activate sends the activation proof on a connection under the IDevID. The
// proof depends on the connection, so the body is made when the connection
// is there and before anything is written to it.
func (h *hub) activate(ctx context.Context, keys wire.Keys, certHash [32]byte, d *deviceView) error {
	proof := &proofBody{keys: keys, certHash: certHash}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { proof.bind(info.Conn) },
	})
	body, err := h.doWithin(ctx, http.MethodPost, "/onboard/activate", proof, func(req *http.Request) {
		req.ContentLength = int64(len(proof.encode(make([]byte, 32))))
		req.Header.Set("Content-Type", "application/json")
	}, maxAnswer)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, d); err != nil || d.ID == "" {
		return errors.New("agent: the hub's answer to the activation cannot be read")
	}
	return nil
}

// proofBody is the body of an activation on the connection it was bound to.
type proofBody struct {
	keys     wire.Keys
	certHash [32]byte
	r        io.Reader
}

func (p *proofBody) bind(conn net.Conn) {
	c, ok := conn.(*tls.Conn)
	if !ok {
		return
	}
	state := c.ConnectionState()
	exporter, err := state.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterSize)
	if err != nil {
		return
	}
	p.r = bytes.NewReader(p.encode(wire.ActivationProof(p.keys, exporter, p.certHash)))
}

func (p *proofBody) encode(proof []byte) []byte {
	b, err := json.Marshal(wire.ActivationRequest{Proof: proof})
	if err != nil {
		panic(err) // bytes always marshal
	}
	return b
}

func (p *proofBody) Read(b []byte) (int, error) {
	if p.r == nil {
		return 0, errors.New("agent: no TLS connection to bind the activation proof to")
	}
	return p.r.Read(b)
}

func (p *proofBody) Close() error { return nil }

// Waiting times between tries: from the first, doubled up to the last, each
// drawn at random from its upper half, so that a fleet does not come back all
// at once.
const (
	firstWait = time.Second
	lastWait  = time.Minute
)

// retry asks the hub at one of its addresses until it works, ctx ends, or the
// answer is a refusal that waiting does not change.
func (a *Agent) retry(ctx context.Context, at *addresses, try func() error) error {
	wait := cmp.Or(a.cfg.pause, firstWait)
	for {
		asked := at.current()
		err := try()
		if err == nil || ctx.Err() != nil || !temporary(err) {
			return err
		}
		pause := wait/2 + rand.N(wait/2)
		if u := (*waitingAnswer)(nil); errors.As(err, &u) {
			pause = u.retryAfter()
			// Said once: the hub is asked again and again for days.
			a.setWaiting(u.Error())
		} else {
			a.setWaiting(fmt.Sprintf("Waiting for the hub at %s (%s); next try in %s.", asked, describe(err), pause.Round(100*time.Millisecond)))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		wait = min(2*wait, lastWait)
	}
}

// waitingAnswer is the hub's answer while a person has yet to decide.
type waitingAnswer struct{ wire.Waiting }

func (u *waitingAnswer) Error() string {
	return fmt.Sprintf("waiting for the owner to decide: %s Approve with 'gangway device approve %s', after comparing the EK's SHA-256: %s.", u.Reason, u.DeviceID, u.EK)
}

// retryAfter is when to ask retryAfter: as the hub says, within reason, and not all of a
// fleet at once.
func (u *waitingAnswer) retryAfter() time.Duration {
	d := min(max(time.Duration(u.RetryAfter)*time.Second, firstWait), 10*time.Minute)
	return d + rand.N(d/4)
}

// setWaiting says in one line what for, where 'gangway-agent status' finds it.
func (a *Agent) setWaiting(line string) {
	news := false
	err := a.edit(func(s *State) { news, s.Waiting = s.Waiting != line, line })
	if news {
		a.say("waiting", "%s", line)
	}
	if err != nil {
		a.cfg.Log.Warn("state", "err", err)
	}
}

// temporary reports whether trying again may help.
func temporary(err error) bool {
	var r *Refused
	if !errors.As(err, &r) {
		return true // the network, or a hub that is just starting
	}
	return r.Temporary()
}

// describe says what a network error means.
func describe(err error) string {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var dns *net.DNSError
	var op *net.OpError
	// crypto/tls keeps the text alone of what the key's signer said.
	_, unsigned, failed := strings.Cut(err.Error(), "failed to sign handshake: ")
	var proxy *proxyError
	var opened *intercepted
	switch {
	case failed:
		return "the TPM does not sign for the connection: " + unsigned
	case errors.As(err, &proxy):
		return proxy.Error()
	case errors.As(err, &opened):
		return opened.Error()
	case errors.As(err, &unknown):
		return "who answers there is not the hub that the join token names"
	case errors.As(err, &host):
		return "the hub's certificate is for another name: " + host.Error()
	case errors.As(err, &dns):
		return "its name cannot be looked up: " + dns.Err
	case errors.As(err, &op):
		return op.Err.Error()
	}
	return err.Error()
}
