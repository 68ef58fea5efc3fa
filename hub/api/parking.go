package api

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A device keeps one connection open and sends a request on it each minute. Between two requests,
// net/http needs more memory for the connection than crypto/tls does: two buffers, and a goroutine
// whose stack has grown during the handshake and the last request. So the hub parks an idle
// connection: it takes the connection back from net/http, waits until the client sends something,
// and then passes the connection to net/http again, as if it were new. One goroutine waits for all
// parked connections, with epoll, because one goroutine for each connection would use a quarter of
// the memory.

// parkAfter is how long a connection is idle before it is parked.
const parkAfter = time.Second

// readBuffer is the length of the buffer that net/http passes to Read when it has no byte of the
// next request yet. If the buffer has any other length, net/http may already have a part of the
// request, so the connection must not be parked.
const readBuffer = 4096

// parking is a listener for http.Server.Serve. It does the TLS handshakes, and parks idle
// connections, that is, holds them without a goroutine until the client sends something.
type parking struct {
	net.Listener
	config *tls.Config
	peer   func(*tls.ConnectionState) (peer, error)
	times  Timeouts
	log    *log.Logger

	ready  chan net.Conn // connections for net/http
	failed chan error    // the error of Listener
	closed chan struct{}
	close  sync.Once
	lot    *lot
	// turns has one element for each handshake that is using the CPU; see socket.Read.
	turns chan struct{}
}

// shakesPerCPU is how many handshakes may run at the same time for each CPU.
const shakesPerCPU = 2

func newParking(l net.Listener, c *tls.Config, peer func(*tls.ConnectionState) (peer, error), t Timeouts, log *log.Logger) (*parking, error) {
	lot, err := newLot()
	if err != nil {
		return nil, fmt.Errorf("wait for idle connections: %w", err)
	}
	p := &parking{Listener: l, config: c, peer: peer, times: t, log: log, ready: make(chan net.Conn), failed: make(chan error, 1), closed: make(chan struct{}), lot: lot, turns: make(chan struct{}, shakesPerCPU*runtime.GOMAXPROCS(0))}
	go p.acceptAll()
	go lot.run()
	return p, nil
}

// acceptAll accepts connections until the listener fails or is closed. Like net/http, it tries
// again after an error that may be temporary, such as too many open files.
func (p *parking) acceptAll() {
	pause := time.Duration(0)
	for {
		c, err := p.Listener.Accept()
		if err == nil {
			pause = 0
			go p.shake(c)
			continue
		}
		var passing interface{ Temporary() bool }
		if !errors.As(err, &passing) || !passing.Temporary() {
			p.failed <- err
			return
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		p.log.Printf("accept: %v; next try in %s", err, pause)
		select {
		case <-time.After(pause):
		case <-p.closed:
		}
	}
}

// shake does the handshake of a new connection and then passes the connection to net/http. A
// handshake needs a large stack, which is freed when this goroutine ends.
func (p *parking) shake(raw net.Conn) {
	defer func() {
		if v := recover(); v != nil {
			p.log.Printf("panic in a handshake with %s: %v", raw.RemoteAddr(), v)
			raw.Close()
		}
	}()
	s := &socket{Conn: raw, state: newConnState(), patience: p.times.Request, turns: p.turns, until: time.Now().Add(min(p.times.Header, p.times.Request))}
	defer s.giveTurnBack() // in case of a panic
	t := tls.Server(s, p.config)
	raw.SetDeadline(s.until)
	begun := time.Now()
	err := t.Handshake()
	s.state.shook.Store(int64(time.Since(begun)))
	state := t.ConnectionState()
	if err == nil {
		s.state.peer, err = p.peer(&state) // only now has the client proven its certificate's key
	}
	s.giveTurnBack()
	s.turns = nil
	if err != nil {
		p.drop(raw, err)
		return
	}
	raw.SetDeadline(time.Time{})
	if state.NegotiatedProtocol == "h2" {
		p.pass(t)
		return
	}
	forgetCertificates(t)
	s.state.holder = s
	(&parkable{Conn: t, parking: p, raw: rawOf(raw)}).lend()
}

// forgetCertificates frees the parsed certificates of the client, which crypto/tls keeps as long as
// the connection and which use a third of an idle connection's memory. The hub needs only the data
// in the connection's state. The TLS state shares its slice of certificates with the connection, so
// that the elements can be removed. After the handshake, crypto/tls on the server's side reads the
// certificates only to resume a session, and the hub resumes none.
func forgetCertificates(t *tls.Conn) { clear(t.ConnectionState().PeerCertificates) }

// drop closes a connection whose handshake failed. If the client uses HTTP without TLS, drop first
// sends the same HTTP answer as net/http.
func (p *parking) drop(raw net.Conn, err error) {
	defer raw.Close()
	var header tls.RecordHeaderError
	if errors.As(err, &header) && header.Conn != nil && speaksHTTP(header.RecordHeader) {
		io.WriteString(header.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
		return
	}
	p.log.Printf("TLS handshake error from %s: %v", raw.RemoteAddr(), err)
}

func speaksHTTP(header [5]byte) bool {
	switch string(header[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		return true
	}
	return false
}

// pass gives a connection to net/http.
func (p *parking) pass(c net.Conn) {
	select {
	case p.ready <- c:
	case <-p.closed:
		c.Close()
	}
}

// Accept implements net.Listener, for net/http.
func (p *parking) Accept() (net.Conn, error) {
	select {
	case c := <-p.ready:
		return c, nil
	case err := <-p.failed:
		return nil, err
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close closes the listener and the parked connections.
func (p *parking) Close() (err error) {
	p.close.Do(func() {
		close(p.closed)
		err = p.Listener.Close()
		p.lot.close()
	})
	return err
}

// socket is a client's connection below TLS, with the state that is shared by all requests on the
// connection.
type socket struct {
	net.Conn
	state *connState
	held  heldBytes
	// patience is how long the client may take to receive the bytes in the field `held`.
	patience time.Duration

	turns chan struct{} // the field of the `parking`; nil after the handshake
	turn  bool          // the handshake has a turn
	until time.Time     // end of the handshake's time
}

// heldBytes collects the bytes that a connection sends, so that a whole answer, with the alert that
// ends the connection, needs only one system call and one packet.
type heldBytes struct {
	holding atomic.Bool
	mu      sync.Mutex
	bytes   []byte // guarded by mu
}

const maxHeld = 32 << 10

// hold makes Write collect bytes until the connection is idle or closed. Call it only if the rest
// of the answer will be written without delay.
func (s *socket) hold() { s.held.holding.Store(true) }

// Write implements net.Conn.
func (s *socket) Write(b []byte) (int, error) {
	if !s.held.holding.Load() {
		return s.Conn.Write(b)
	}
	s.held.mu.Lock()
	if len(s.held.bytes)+len(b) <= maxHeld {
		s.held.bytes = append(s.held.bytes, b...)
		s.held.mu.Unlock()
		return len(b), nil
	}
	s.held.mu.Unlock()
	if err := s.send(); err != nil {
		return 0, err
	}
	return s.Conn.Write(b)
}

// send writes the held bytes. After that, Write no longer holds bytes.
func (s *socket) send() error {
	if !s.held.holding.Load() {
		return nil
	}
	s.held.mu.Lock()
	b := s.held.bytes
	s.held.bytes = nil
	s.held.holding.Store(false)
	s.held.mu.Unlock()
	if len(b) == 0 {
		return nil
	}
	s.Conn.SetWriteDeadline(time.Now().Add(s.patience))
	_, err := s.Conn.Write(b)
	s.Conn.SetWriteDeadline(time.Time{})
	return err
}

// Close implements net.Conn.
func (s *socket) Close() error {
	return errors.Join(s.send(), s.Conn.Close())
}

// holdAnswer makes an HTTP/1 connection collect the bytes of the answer to a request: see
// socket.hold.
func holdAnswer(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*connState); ok && c.holder != nil {
		c.holder.hold()
	}
}

// Read reads from the client. During a handshake, it then waits for the handshake's turn to use the
// CPU. If the handshake's deadline passes meanwhile, Read returns an error, because the client is
// probably gone. A handshake that waits for bytes from its client has no turn, so slow clients do
// not delay other clients.
//
// Without turns, a flood of connections would make thousands of handshakes compete for the CPU.
// Requests would then get hardly any CPU time, and the hub would refuse most of them as overloaded.
func (s *socket) Read(b []byte) (n int, err error) {
	if s.turns == nil {
		return s.Conn.Read(b)
	}
	s.giveTurnBack()
	if n, err = s.Conn.Read(b); err != nil {
		return n, err
	}
	s.turns <- struct{}{}
	s.turn = true
	if time.Now().After(s.until) {
		return 0, os.ErrDeadlineExceeded
	}
	return n, nil
}

func (s *socket) giveTurnBack() {
	if s.turn {
		s.turn = false
		<-s.turns
	}
}

// stateOf returns the state of a connection that net/http got from the type `parking`. It returns
// nil if the connection is from another listener.
func stateOf(c net.Conn) *connState {
	if l, ok := c.(*lent); ok {
		c = l.Conn
	}
	t, ok := c.(*tls.Conn)
	if !ok {
		return nil
	}
	s, ok := t.NetConn().(*socket)
	if !ok {
		return nil
	}
	return s.state
}

// rawOf returns the socket of a connection, even if the connection began with a header of the PROXY
// protocol. It returns nil if there is no socket; such a connection cannot be parked.
func rawOf(c net.Conn) syscall.RawConn {
	if p, ok := c.(interface{ Raw() net.Conn }); ok {
		c = p.Raw()
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// parkable is an HTTP/1 connection that is either lent to net/http, as a value of the type lent, or
// parked.
type parkable struct {
	*tls.Conn
	parking *parking
	raw     syscall.RawConn

	// While the connection is parked, lot.mu guards these fields.
	until      time.Time
	fd         int32
	prev, next *parkable
}

// lend gives the connection to net/http.
func (c *parkable) lend() { c.parking.pass(&lent{Conn: c.Conn, parkable: c}) }

// park adds the connection to the lot, which lends it to net/http again when the client sends
// something. The lot closes the connection if it is idle for too long, or if the listener is
// closed.
func (c *parkable) park() {
	c.SetDeadline(time.Time{})
	c.until = time.Now().Add(c.parking.times.Idle)
	if err := c.parking.lot.add(c); err != nil {
		c.Conn.Close()
	}
}

// leave is called after the connection was removed from the lot. It gives the connection back to
// net/http or, if the client has closed its side and has sent nothing, closes the connection.
func (c *parkable) leave() {
	if c.hasSent() {
		c.lend()
		return
	}
	c.Conn.Close()
}

// hasSent reports whether the socket has data to read. It need not look into the buffer of
// crypto/tls, which contains no complete record, because the last read ended without data.
func (c *parkable) hasSent() (sent bool) {
	var b [1]byte
	err := c.raw.Control(func(fd uintptr) {
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		sent = err == nil && n > 0
	})
	return err == nil && sent
}

// lent is a connection as net/http sees it, until it is parked or closed.
type lent struct {
	*tls.Conn
	parkable *parkable
	idle     atomic.Bool  // net/http waits for the next request
	left     atomic.Bool  // the client has closed its side while the connection was idle
	state    atomic.Int32 // isLent, then isParking or isOver
}

const (
	isLent = iota
	isParking
	isOver // closed, or parked: then another value of the type lent may have the connection
)

// errParked makes net/http stop waiting for the next request.
var errParked = errors.New("hub: the idle connection is parked")

// Read implements net.Conn. If net/http is waiting for the next request and has no byte of it yet,
// Read waits only for parkAfter.
func (l *lent) Read(b []byte) (int, error) {
	if l.state.Load() != isLent {
		return 0, net.ErrClosed
	}
	if !l.idle.Load() || len(b) != readBuffer || l.parkable.raw == nil {
		return l.Conn.Read(b)
	}
	l.Conn.SetReadDeadline(time.Now().Add(min(parkAfter, l.parkable.parking.times.Idle)))
	n, err := l.Conn.Read(b)
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && l.state.CompareAndSwap(isLent, isParking) {
		return 0, errParked
	}
	if n == 0 && err == io.EOF {
		l.left.Store(true)
	}
	l.idle.Store(false)
	return n, err
}

// ConnectionState returns the TLS state without certificates. net/http calls it once, and sets the
// field TLS of all requests to the result.
func (l *lent) ConnectionState() tls.ConnectionState {
	state := l.Conn.ConnectionState()
	state.PeerCertificates = nil // forgetCertificates has removed these certificates
	return state
}

// RemoteAddr implements net.Conn. net/http calls it first in the goroutine of a connection, when the
// stack is almost empty. So this is the cheapest moment to make the stack large enough.
func (l *lent) RemoteAddr() net.Addr {
	enlargeStack()
	return l.Conn.RemoteAddr()
}

// socket returns the connection below TLS.
func (l *lent) socket() *socket { return l.NetConn().(*socket) }

// Close implements net.Conn. It parks the connection if Read has set the state isParking.
func (l *lent) Close() error {
	switch l.state.Swap(isOver) {
	case isLent:
		if l.left.Load() {
			return l.socket().Close() // a client that has left does not read the alert of crypto/tls
		}
		return l.Conn.Close()
	case isParking:
		l.parkable.park()
		return nil
	}
	return net.ErrClosed
}

func (l *lent) Write(b []byte) (int, error) {
	if l.state.Load() != isLent {
		return 0, net.ErrClosed
	}
	return l.Conn.Write(b)
}

func (l *lent) CloseWrite() error {
	if l.state.Load() != isLent {
		return net.ErrClosed
	}
	return errors.Join(l.Conn.CloseWrite(), l.socket().send())
}

func (l *lent) SetDeadline(t time.Time) error {
	if l.state.Load() != isLent {
		return net.ErrClosed
	}
	return l.Conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn. It also notices that a request has begun, because Read must
// not park the connection from then on. While net/http waits for a request, the connection has a
// deadline for the idle time. As soon as net/http has the first bytes of the request, it sets the
// zero deadline, even if it read these bytes together with the previous request.
func (l *lent) SetReadDeadline(t time.Time) error {
	if l.state.Load() != isLent {
		return net.ErrClosed
	}
	if t.IsZero() {
		l.idle.Store(false)
	}
	return l.Conn.SetReadDeadline(t)
}

func (l *lent) SetWriteDeadline(t time.Time) error {
	if l.state.Load() != isLent {
		return net.ErrClosed
	}
	return l.Conn.SetWriteDeadline(t)
}

// noteIdle is the http.Server's ConnState function. When net/http has answered a request, noteIdle
// sends the held bytes of the answer, and allows Read to park the connection.
func noteIdle(c net.Conn, s http.ConnState) {
	if l, ok := c.(*lent); ok && s == http.StateIdle {
		if l.socket().send() != nil {
			l.Conn.Close()
		}
		l.idle.Store(true)
	}
}
