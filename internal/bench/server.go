package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"gangway/internal/fleet"
)

// Server is the cost of a whole hub process, over TLS. Each enrolment has two connections: one for
// the request, and one with the device's certificate for the activation. All times are medians of
// the rounds, in microseconds of the hub's CPU time.
type Server struct {
	EK         string  `json:"ek"`
	Rounds     int     `json:"rounds"`
	Enrolments int     `json:"enrolments"` // number of enrolments in all rounds
	CPU        float64 `json:"cpu_per_enrolment"`
	PerSecond  float64 `json:"enrolments_per_second"`
	// Handshake and MutualHandshake are the times of TLS handshakes in a process that does nothing
	// else. In a MutualHandshake, the client also has a certificate. Crypto is the time of the
	// unavoidable cryptography of an enrolment.
	Handshake       float64 `json:"handshake"`
	MutualHandshake float64 `json:"mutual_handshake"`
	Crypto          float64 `json:"crypto_sum"`
	Ratio           float64 `json:"ratio"` // CPU / (Handshake + MutualHandshake + Crypto)
	// Poll is one request of Pantavisor for new steps over a new connection without a client
	// certificate. Request is the same request on a connection that is already open. HTTP is the
	// simplest request on such a connection. Answer is Request minus HTTP.
	Poll        float64 `json:"poll"`
	PollRatio   float64 `json:"poll_ratio"` // Poll / Handshake
	Request     float64 `json:"poll_request"`
	HTTP        float64 `json:"http_request"`
	Answer      float64 `json:"poll_answer"`
	AnswerRatio float64 `json:"answer_ratio"` // Answer / Handshake
	// IdleKiB is the resident memory of an idle connection with a device's certificate.
	IdleKiB  float64 `json:"idle_connection_kib"`
	IdleOpen int     `json:"idle_connections"`
	// The hub parks an idle connection: it frees the connection's memory until the next request.
	// Parked is the time of a request on such a connection. Kept is the time of the next request on
	// the same connection.
	Parked float64 `json:"request_on_parked_connection"`
	Kept   float64 `json:"request_on_kept_connection"`
}

// rounds is the number of rounds, each of which measures everything once. The medians of several
// rounds are more reliable, because the speed of a busy machine changes.
const rounds = 5

// idleConnections is the number of connections that are open while measureIdle measures their
// memory.
const idleConnections = 8000

// server is the state of measureServer while it measures: the results so far, the hub's process,
// the process that does only raw handshakes, and the clients.
type server struct {
	Server
	hub, raw *child
	load     *load
	ops      []operation
	pollers  []*poller // one for each worker
	client   tls.Certificate
}

func measureServer(maker *fleet.Maker, n int) (*Server, error) {
	const ek = "H-2"
	dir, err := os.MkdirTemp("build", "bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := writeMaker(dir, maker); err != nil {
		return nil, err
	}
	m := &server{Server: Server{EK: ek, Rounds: rounds, Enrolments: n / rounds * rounds}}
	var more []string
	if *profile != "" {
		more = []string{"-cpuprofile", *profile}
	}
	if m.hub, err = startChild("-serve", dir, more...); err != nil {
		return nil, err
	}
	defer m.hub.kill()
	if m.raw, err = startChild("-handshakes", dir); err != nil {
		return nil, err
	}
	defer m.raw.kill()
	fmt.Fprintf(os.Stderr, "making %d emulated devices for a whole server ...\n", m.Enrolments)
	if m.load, err = makeLoad(maker, ek, m.Enrolments+workers, m.hub.tok); err != nil {
		return nil, err
	}
	if m.ops, err = operations(maker, m.hub.tok); err != nil {
		return nil, err
	}
	if err := m.measure(); err != nil {
		return nil, err
	}
	return &m.Server, m.hub.stop()
}

func (m *server) measure() error {
	ctx := context.Background()
	if err := m.makePollers(ctx); err != nil {
		return err
	}
	n := m.Enrolments / rounds
	var all [rounds]Server
	for i := range all {
		if err := m.round(ctx, &all[i], i*n, n); err != nil {
			return err
		}
	}
	for _, of := range []func(*Server) *float64{
		func(s *Server) *float64 { return &s.CPU }, func(s *Server) *float64 { return &s.PerSecond },
		func(s *Server) *float64 { return &s.Handshake }, func(s *Server) *float64 { return &s.MutualHandshake },
		func(s *Server) *float64 { return &s.Crypto }, func(s *Server) *float64 { return &s.Ratio },
		func(s *Server) *float64 { return &s.Poll }, func(s *Server) *float64 { return &s.PollRatio },
		func(s *Server) *float64 { return &s.Request }, func(s *Server) *float64 { return &s.HTTP },
		func(s *Server) *float64 { return &s.Answer }, func(s *Server) *float64 { return &s.AnswerRatio },
	} {
		values := make([]float64, rounds)
		for i := range all {
			values[i] = *of(&all[i])
		}
		slices.Sort(values)
		*of(&m.Server) = values[rounds/2]
	}
	if *profile != "" {
		return nil
	}
	return m.measureIdle(ctx)
}

// round measures everything once, with `n` devices of the load. The first one has the index
// `first`.
func (m *server) round(ctx context.Context, s *Server, first, n int) (err error) {
	per := func(c *child, f func(i int) error) (float64, error) {
		used, err := c.spent(func() error { return parallel(n, f) })
		return micros(used, n), err
	}
	if s.Handshake, err = per(m.raw, func(int) error { return m.shake(ctx, nil) }); err != nil {
		return err
	}
	if *profile != "" && *polled { // the profile contains only polls
		s.Poll, err = per(m.hub, func(i int) error { return m.pollers[i%len(m.pollers)].pollOnce(ctx, m.hub) })
		return err
	}
	start := time.Now()
	if s.CPU, err = per(m.hub, func(i int) error { return m.load.onboard(ctx, first+i, m.hub) }); err != nil {
		return err
	}
	s.PerSecond = float64(n) / time.Since(start).Seconds()
	if *profile != "" { // the profile contains only enrolments
		return nil
	}
	if s.MutualHandshake, err = per(m.raw, func(int) error { return m.shake(ctx, &m.client) }); err != nil {
		return err
	}
	if s.Crypto, err = sum(m.ops, m.load.requests[first:first+n]); err != nil {
		return err
	}
	if s.Poll, err = per(m.hub, func(i int) error { return m.pollers[i%len(m.pollers)].pollOnce(ctx, m.hub) }); err != nil {
		return err
	}
	if s.Request, err = m.onKept(ctx, n, func(i int) []byte { return m.pollers[i].request }); err != nil {
		return err
	}
	simple := fmt.Appendf(nil, "GET /healthz HTTP/1.1\r\nHost: %s\r\n", strings.TrimPrefix(m.hub.tok.Hub, "https://"))
	if s.HTTP, err = m.onKept(ctx, n, func(int) []byte { return simple }); err != nil {
		return err
	}
	s.Answer = s.Request - s.HTTP
	s.Ratio = s.CPU / (s.Handshake + s.MutualHandshake + s.Crypto)
	s.PollRatio, s.AnswerRatio = s.Poll/s.Handshake, s.Answer/s.Handshake
	return nil
}

// onboard enrols and activates a device at the hub of another process, on its own two connections.
func (l *load) onboard(ctx context.Context, i int, hub *child) error {
	client, err := fleet.NewHub(hub.tok)
	if err != nil {
		return err
	}
	defer client.Close()
	d := l.devices[i]
	c, err := d.Enrol(ctx, client, l.requests[i])
	if err != nil {
		return err
	}
	a, err := d.Activate(ctx, client, c)
	if err == nil && a.Status != 200 {
		err = fmt.Errorf("activation: status %d: %.200s", a.Status, a.Body)
	}
	return err
}

// shake does a raw handshake, and waits until the server has closed the connection.
func (m *server) shake(ctx context.Context, cert *tls.Certificate) error {
	c, err := dial(ctx, m.raw, cert)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		return fmt.Errorf("raw handshake: %w", err)
	}
	return nil
}

// dial connects to a process and completes the handshake; with TLS 1.3, the server may still refuse
// the client's certificate afterwards.
func dial(ctx context.Context, c *child, cert *tls.Certificate) (*tls.Conn, error) {
	hub, err := fleet.NewHub(c.tok)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(c.tok.Hub)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: hub.Roots, ServerName: u.Hostname(), MinVersion: tls.VersionTLS13}
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, err
	}
	t := tls.Client(raw, config)
	if err := t.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return t, nil
}

// makePollers onboards the devices that later poll. It runs before the measurement, so that the
// measurement does not include the hub's verification of the maker's CAs.
func (m *server) makePollers(ctx context.Context) error {
	client, err := fleet.NewHub(m.hub.tok)
	if err != nil {
		return err
	}
	defer client.Close()
	m.pollers = make([]*poller, workers)
	err = parallel(workers, func(i int) error {
		d := m.load.devices[m.Enrolments+i]
		c, err := d.Onboard(ctx, client, m.hub.tok)
		if err != nil {
			return err
		}
		if i == 0 {
			m.client = c.TLS(d)
		}
		m.pollers[i], err = newPoller(ctx, client, c.TLS(d))
		return err
	})
	return err
}

// measureIdle opens connections with a device's certificate, sends one request on each, and
// measures how much resident memory they use while they are idle.
func (m *server) measureIdle(ctx context.Context) error {
	client, err := fleet.NewHub(m.hub.tok)
	if err != nil {
		return err
	}
	before, err := m.hub.resident()
	if err != nil {
		return err
	}
	open := make([]*fleet.Conn, idleConnections)
	defer func() {
		for _, c := range open {
			if c != nil {
				c.Close()
			}
		}
	}()
	if err := parallel(idleConnections, func(i int) (err error) {
		if open[i], err = client.Dial(ctx, m.client); err != nil {
			return err
		}
		return showSelf(ctx, open[i])
	}); err != nil {
		return err
	}
	time.Sleep(3 * time.Second) // the hub parks a connection after a second
	after, err := m.hub.resident()
	if err != nil {
		return err
	}
	m.IdleOpen = idleConnections
	m.IdleKiB = float64(after-before) / 1024 / idleConnections
	// The first request on each connection finds the connection parked. The second request comes
	// soon after the first, so the hub has not parked the connection again.
	for _, per := range []*float64{&m.Parked, &m.Kept} {
		used, err := m.hub.spent(func() error {
			return parallel(wakened, func(i int) error { return showSelf(ctx, open[i]) })
		})
		if err != nil {
			return err
		}
		*per = micros(used, wakened)
	}
	return nil
}

// wakened is the number of idle connections whose next requests are measured. It is so small that
// the hub has no time to park the connections again between two requests.
const wakened = 200

func showSelf(ctx context.Context, c *fleet.Conn) error {
	a, err := c.Do(ctx, "GET", "/device", nil)
	if err == nil && a.Status != 200 {
		err = fmt.Errorf("GET /device: status %d", a.Status)
	}
	return err
}

// poller is a device that asks the hub for new revisions as Pantavisor does, which calls them steps.
type poller struct {
	request []byte // without the header Connection, and without the empty line
}

// newPoller posts the device's first revision and signs the device in. The first revision begins
// the device's trail, that is, its list of revisions.
func newPoller(ctx context.Context, hub *fleet.Hub, cert tls.Certificate) (*poller, error) {
	c, err := hub.Dial(ctx, cert)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var self struct{ ID, Token string }
	for _, call := range []struct{ method, path, body string }{
		{"GET", "/device", ""},
		{"POST", "/trails/", `{"#spec":"pantavisor-service-system@1"}`},
		{"POST", "/auth/x509/login", ""},
	} {
		a, err := c.Do(ctx, call.method, call.path, []byte(call.body))
		if err != nil {
			return nil, err
		}
		if a.Status != 200 {
			return nil, fmt.Errorf("%s %s: status %d: %s", call.method, call.path, a.Status, a.Body)
		}
		if call.path != "/trails/" {
			if err := json.Unmarshal(a.Body, &self); err != nil {
				return nil, err
			}
		}
	}
	u, err := url.Parse(hub.URL)
	if err != nil {
		return nil, err
	}
	return &poller{fmt.Appendf(nil, "GET /trails/%s/steps HTTP/1.1\r\nHost: %s\r\nUser-Agent: Pantavisor/2 (Linux x86_64)\r\nAuthorization: Bearer %s\r\n", self.ID, u.Host, self.Token)}, nil
}

// pollOnce polls over a new connection, which the hub closes.
func (p *poller) pollOnce(ctx context.Context, hub *child) error {
	c, err := dial(ctx, hub, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(append(slices.Clip(p.request), "Connection: close\r\n\r\n"...)); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	return checkAnswer(answer)
}

// onKept sends requests on open connections, one connection for each worker. It returns the CPU
// time of one request, without the time for opening the connections.
func (m *server) onKept(ctx context.Context, n int, request func(i int) []byte) (float64, error) {
	conns := make([]*tls.Conn, workers)
	for i := range conns {
		c, err := dial(ctx, m.hub, nil)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		conns[i] = c
	}
	each := max(20, n/workers)
	used, err := m.hub.spent(func() error {
		return parallel(workers, func(i int) error {
			text := append(slices.Clip(request(i)), "\r\n"...)
			for range each {
				if err := ask(conns[i], text); err != nil {
					return err
				}
			}
			return nil
		})
	})
	return micros(used, each*workers), err
}

// ask sends a request and reads its answer. The answer is so short that the hub sends it in one
// TLS record.
func ask(c *tls.Conn, request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	answer := make([]byte, 8<<10)
	n, err := c.Read(answer)
	if err != nil {
		return err
	}
	return checkAnswer(answer[:n])
}

// checkAnswer checks that an answer has the status 200 and a complete JSON body.
func checkAnswer(answer []byte) error {
	body := bytes.TrimSpace(answer)
	if !bytes.HasPrefix(body, []byte("HTTP/1.1 200")) || !bytes.HasSuffix(body, []byte("]")) && !bytes.HasSuffix(body, []byte("}")) {
		return fmt.Errorf("unexpected answer: %.400s", answer)
	}
	return nil
}
