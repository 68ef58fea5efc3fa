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
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"gangway/wire"
)

// hub is a client of the hub. It uses TLS 1.3 and trusts only the CA of the token or hub file.
type hub struct {
	at    *addresses
	roots *x509.CertPool
	certs []*x509.Certificate // the certificates in `roots`
	now   func() time.Time
	clock *clockSetter // nil: do not set the clock
	proxy *HTTPProxy   // nil: connect directly
	http  addressed

	connections atomic.Int64 // number of connections that were made so far
}

func newHub(at *addresses, ca string, proxy *HTTPProxy) (*hub, error) {
	certs, err := (&wire.TokenFile{HubCA: ca}).Roots()
	if err != nil {
		return nil, fmt.Errorf("agent: reading the hub's CA: %w", err)
	}
	h := &hub{at: at, roots: x509.NewCertPool(), certs: certs, now: time.Now, proxy: proxy}
	for _, c := range certs {
		h.roots.AddCert(c)
	}
	h.connectAs(nil)
	return h, nil
}

// The method `as` closes the connections of h and returns a new client of the same hub, which uses
// the client certificate `idevid`. The new client sends no intermediate certificate, because the
// hub has the certificate of the CA that issued `idevid`.
func (h *hub) as(idevid *x509.Certificate, key crypto.Signer) *hub {
	h.close()
	n := &hub{at: h.at, roots: h.roots, certs: h.certs, now: h.now, clock: h.clock, proxy: h.proxy}
	n.connectAs(&tls.Certificate{Certificate: [][]byte{idevid.Raw}, PrivateKey: key})
	return n
}

// dial connects to the hub, through the proxy if there is one.
func (h *hub) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return h.proxy.dial(ctx, network, address, h.now)
}

// connectAs sets the client certificate that later connections use. If cert is nil, they use none.
func (h *hub) connectAs(cert *tls.Certificate) {
	h.http = addressed{at: h.at, make: func(url string) *http.Client { return h.newClient(url, cert) }}
}

// url returns the address in use.
func (h *hub) url() string { return h.at.current() }

// hostOf returns the host in a hub's address, without the port.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "" // no certificate matches an empty name
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
			MaxConnsPerHost:       1, // nonces and proofs are valid only on one connection
			TLSClientConfig:       config,
			TLSHandshakeTimeout:   20 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
			MaxIdleConnsPerHost:   1,
			IdleConnTimeout:       90 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the server answered with a redirect; a hub never redirects")
		},
	}
}

// maxAnswer is the size limit of an answer of the hub, in bytes.
const maxAnswer = 1 << 20

// doWithin sends a request to a path of the hub and returns the body of an answer with the status
// 200. If the owner has not yet decided about the device, the error is a *waitingAnswer. For any
// other answer, the error is a *Refused.
//
// If the hub's answer says when to try again, that time is in the field `retryAfter` of the
// *Refused. Until then, doWithin sends no other request with the same method and path, and returns
// the same *Refused instead.
//
// If doWithin cannot connect to the current address of the hub, it immediately tries the hub's
// other addresses. If a connection breaks, doWithin returns the error, and the next request starts
// with another address.
func (h *hub) doWithin(ctx context.Context, method, path string, body io.Reader, prepare func(*http.Request), limit int64) ([]byte, error) {
	if r := h.at.held(method, path); r != nil {
		return nil, r
	}
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
		return nil, errs[0] // the error of the address that was tried first
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
		r := refused(resp, answer)
		h.at.hold(method, path, r)
		return nil, r
	}
	return answer, nil
}

// The function `refused` returns the refusal in the hub's answer. If the body is not a refusal, the
// code is "http" and the reason is the answer's status.
func refused(resp *http.Response, body []byte) *Refused {
	r := &Refused{Status: resp.StatusCode}
	if json.Unmarshal(body, r) != nil || r.Code == "" {
		r.Code, r.Reason = "http", resp.Status
	}
	r.Status = resp.StatusCode
	if r.Status == http.StatusTooManyRequests || r.Status == http.StatusServiceUnavailable {
		r.retryAfter = retryAfter(resp.Header)
	}
	return r
}

// maxRetryAfter is the longest time for which the agent obeys a Retry-After header of the hub, or
// of a proxy in front of the hub.
const maxRetryAfter = 30 * time.Minute

// retryAfter returns the time in a Retry-After header, or 0 if there is no such header or its value
// is not a number of seconds.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(strings.TrimSpace(h.Get("Retry-After")))
	if err != nil || seconds <= 0 {
		return 0
	}
	return time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
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

// deviceView contains the fields that the agent uses from the hub's record of the device.
type deviceView struct {
	ID        string `json:"id"`
	Nick      string `json:"nick"`
	OwnerNick string `json:"owner-nick"`
	TPM       TPM    `json:"tpm"`
}

// The method `activate` sends the activation proof on a connection with the IDevID certificate. The
// proof is bound to the TLS connection, so activate can make the request's body only when the
// connection exists, just before it sends the request.
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
		return errors.New("agent: the hub's answer to the activation is malformed")
	}
	return nil
}

// proofBody is the body of an activation request. Its method `bind` makes the activation proof for
// the TLS connection over which the request is sent.
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
		panic(err) // cannot happen: []byte always has a JSON form
	}
	return b
}

func (p *proofBody) Read(b []byte) (int, error) {
	if p.r == nil {
		return 0, errors.New("agent: binding the activation proof: the connection is not TLS")
	}
	return p.r.Read(b)
}

func (p *proofBody) Close() error { return nil }

// The pause between retries starts at firstWait and doubles up to lastWait. The agent waits for a
// random time between half of the pause and the whole pause, so that devices do not all retry at
// the same time.
const (
	firstWait = time.Second
	lastWait  = time.Minute
)

// retry calls `try`, with pauses, until it succeeds, ctx ends, or the hub refuses permanently. It
// returns the last error.
func (a *Agent) retry(ctx context.Context, at *addresses, try func() error) error {
	wait := cmp.Or(a.cfg.pause, firstWait)
	for {
		asked := at.current()
		err := try()
		if err == nil || ctx.Err() != nil || !temporary(err) {
			return err
		}
		pause := wait/2 + rand.N(wait/2)
		if r := (*Refused)(nil); errors.As(err, &r) && r.retryAfter > 0 {
			pause = r.retryAfter + rand.N(r.retryAfter/4+1)
		}
		if u := (*waitingAnswer)(nil); errors.As(err, &u) {
			pause = u.retryAfter()
			// The agent may wait for days, and the hub answers with the same sentence each time.
			// setWaiting reports it only once.
			a.setWaiting(u.Error())
		} else {
			a.setWaiting(fmt.Sprintf("Waiting for the hub at %s (%s). Retrying in %s.", asked, describe(err), pause.Round(100*time.Millisecond)))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		wait = min(2*wait, lastWait)
	}
}

// waitingAnswer is the hub's answer to a waiting device: the owner has not yet decided.
type waitingAnswer struct{ wire.Waiting }

func (u *waitingAnswer) Error() string {
	return fmt.Sprintf("waiting for the owner to decide: %s To approve the device, check that the hub shows this EK SHA-256 for it: %[3]s. Then run 'gangway device approve %[2]s'.", u.Reason, u.DeviceID, u.EK)
}

// retryAfter returns the pause before the next try. The pause is the hub's value, within bounds,
// plus a random part, so that devices do not all retry at the same time.
func (u *waitingAnswer) retryAfter() time.Duration {
	d := min(max(time.Duration(u.RetryAfter)*time.Second, firstWait), 10*time.Minute)
	return d + rand.N(d/4)
}

// setWaiting stores the sentence that 'gangway-agent status' shows. If the sentence differs from
// the stored sentence, the agent also reports the new sentence.
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

// The function `temporary` reports whether a request that failed with err may succeed later.
func temporary(err error) bool {
	var r *Refused
	if !errors.As(err, &r) {
		return true // a network error, or a hub that is starting
	}
	return r.Temporary()
}

// describe explains to a person why a request to the hub failed.
func describe(err error) string {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var dns *net.DNSError
	var op *net.OpError
	// crypto/tls turns the signer's error into text, so the error can only be recognised by its
	// text.
	_, unsigned, failed := strings.Cut(err.Error(), "failed to sign handshake: ")
	var proxy *proxyError
	var opened *intercepted
	switch {
	case failed:
		return "signing with the TPM for the connection failed: " + unsigned
	case errors.As(err, &proxy):
		return proxy.Error()
	case errors.As(err, &opened):
		return opened.Error()
	case errors.As(err, &unknown):
		return "the server at this address is not the hub that the join token names"
	case errors.As(err, &host):
		return "the hub's certificate is for another name: " + host.Error()
	case errors.As(err, &dns):
		return "looking up its name failed: " + dns.Err
	case errors.As(err, &op):
		return op.Err.Error()
	}
	return err.Error()
}
