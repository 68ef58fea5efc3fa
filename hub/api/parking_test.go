package api

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/pires/go-proxyproto"
)

// garage is an HTTP server whose listener is a `parking`.
type garage struct {
	*testing.T
	*parking
	srv  *http.Server
	open atomic.Int64
	pair tls.Certificate                                // the server's certificate and key
	seen atomic.Pointer[weak.Pointer[x509.Certificate]] // the certificate of the last client that sent one
}

func newGarage(t *testing.T, times Timeouts, h http.HandlerFunc) *garage {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newGarageOn(t, l, times, h)
}

func newGarageOn(t *testing.T, l net.Listener, times Timeouts, h http.HandlerFunc) *garage {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := newAuthority(t, "garage", nil).leaf(key.Public())
	times = times.withDefaults()
	quiet := log.New(io.Discard, "", 0)
	g := &garage{T: t, pair: tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
	config := &tls.Config{Certificates: []tls.Certificate{g.pair}, NextProtos: []string{"h2", "http/1.1"}, ClientAuth: tls.RequestClientCert}
	p, err := newParking(l, config, g.see, times, quiet)
	if err != nil {
		t.Fatal(err)
	}
	g.parking = p
	g.srv = &http.Server{Handler: h, ConnContext: withConnState, ConnState: g.note, ReadHeaderTimeout: times.Header, IdleTimeout: times.Idle, ErrorLog: quiet}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := g.srv.Serve(p); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() { g.srv.Close(); serving.Wait() })
	return g
}

// see is the function peer of the `parking`.
func (g *garage) see(state *tls.ConnectionState) (peer, error) {
	if len(state.PeerCertificates) > 0 {
		c := weak.Make(state.PeerCertificates[0])
		g.seen.Store(&c)
	}
	return peer{}, nil
}

// The method `note` counts the connections that net/http holds.
func (g *garage) note(c net.Conn, s http.ConnState) {
	noteIdle(c, s)
	switch s {
	case http.StateNew:
		g.open.Add(1)
	case http.StateClosed:
		g.open.Add(-1)
	}
}

// The method `ends` waits until net/http holds no connection.
func (g *garage) ends() {
	g.Helper()
	for range 500 {
		if g.open.Load() == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	g.Errorf("%d connections are open", g.open.Load())
}

// parked returns the number of parked connections.
func (g *garage) parked() int {
	g.lot.mu.Lock()
	defer g.lot.mu.Unlock()
	n := 0
	for c := g.lot.oldest; c != nil; c = c.next {
		n++
	}
	if n != len(g.lot.parked) {
		g.Errorf("%d connections in the list, %d in the map", n, len(g.lot.parked))
	}
	return n
}

// await waits until `n` connections are parked.
func (g *garage) await(n int) {
	g.Helper()
	for range 500 {
		if g.parked() == n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	g.Fatalf("%d connections are parked, want %d", g.parked(), n)
}

// visit is a client's connection.
type visit struct {
	*garage
	*tls.Conn
	in *bufio.Reader
}

func (g *garage) connect() *visit {
	g.Helper()
	raw, err := net.Dial("tcp", g.Addr().String())
	if err != nil {
		g.Fatal(err)
	}
	return g.over(raw)
}

// The method `over` returns a visit on the connection `raw`.
func (g *garage) over(raw net.Conn) *visit {
	g.Helper()
	return g.with(raw, nil)
}

// The method `with` returns a visit on the connection `raw`, by a client with these certificates.
func (g *garage) with(raw net.Conn, certs []tls.Certificate) *visit {
	g.Helper()
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, Certificates: certs})
	g.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &visit{g, c, bufio.NewReader(c)}
}

func (v *visit) send(text string) {
	v.Helper()
	if _, err := io.WriteString(v.Conn, text); err != nil {
		v.Fatal(err)
	}
}

// answer reads an answer and returns its body.
func (v *visit) answer() string {
	v.Helper()
	resp, err := http.ReadResponse(v.in, nil)
	if err != nil {
		v.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		v.Fatalf("%s, %v", resp.Status, err)
	}
	return string(b)
}

// The method `closed` checks that the server closes the connection, perhaps after sending an
// answer.
func (v *visit) closed() {
	v.Helper()
	if b, err := io.ReadAll(v.in); errors.Is(err, os.ErrDeadlineExceeded) {
		v.Errorf("the connection is open: %q, %v", b, err)
	} else if len(b) > 0 {
		v.Logf("%q", b)
	}
}

const get = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n"

// A connection that was parked serves the next request with the same TLS keys and the same state,
// on which activations, measurements and the client's certificate depend.
func TestParkedConnectionKeepsItsState(t *testing.T) {
	t.Parallel()
	g := newGarage(t, Timeouts{}, func(w http.ResponseWriter, r *http.Request) {
		keys, err := r.TLS.ExportKeyingMaterial("test", nil, 8)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%x %p", keys, r.Context().Value(connKey{}))
	})
	v, other := g.connect(), g.connect()
	v.send(get)
	first := v.answer()
	v.send(get)
	if again := v.answer(); again != first {
		t.Errorf("%s, then %s", first, again)
	}
	for range 2 {
		g.await(1)
		v.send(get)
		if again := v.answer(); again != first {
			t.Errorf("%s, after parking %s", first, again)
		}
	}
	other.send(get)
	if other.answer() == first {
		t.Error("two connections have the same state")
	}
	g.await(2)
}

// The parsed certificate of a device would be a fifth of the memory of its idle connection.
func TestConnectionKeepsNoParsedCertificate(t *testing.T) {
	t.Parallel()
	g := newGarage(t, Timeouts{}, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, len(r.TLS.PeerCertificates)) })
	raw, err := net.Dial("tcp", g.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	v := g.with(raw, []tls.Certificate{g.pair})
	v.send(get)
	if n := v.answer(); n != "0" {
		t.Errorf("the request has %s certificates", n)
	}
	g.await(1)
	seen := g.seen.Load()
	if seen == nil {
		t.Fatal("the client sent no certificate")
	}
	for i := 0; seen.Value() != nil; i++ {
		if i == 5 {
			t.Fatal("the connection keeps the parsed certificate")
		}
		runtime.GC()
	}
	v.send(get) // the connection works without the certificate
	v.answer()
}

// A connection is not parked if net/http already has a part of the next request, because that part
// would be lost. The part may arrive in the same TLS record as the last request, or while the hub
// handles the last request.
func TestPartOfARequestIsNotLostByParking(t *testing.T) {
	t.Parallel()
	running, proceed := make(chan bool), make(chan bool)
	g := newGarage(t, Timeouts{}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			running <- true
			<-proceed
		}
		io.WriteString(w, r.URL.Path)
	})
	pipelined, early := g.connect(), g.connect()
	pipelined.send(get + get[:3])
	early.send(strings.Replace(get, "/a", "/slow", 1))
	<-running
	early.send(get[:1])
	time.Sleep(50 * time.Millisecond) // net/http reads this byte in the background
	close(proceed)
	if a, b := pipelined.answer(), early.answer(); a != "/a" || b != "/slow" {
		t.Fatalf("%q, %q", a, b)
	}
	time.Sleep(parkAfter + 200*time.Millisecond)
	if n := g.parked(); n != 0 {
		t.Errorf("%d connections are parked", n)
	}
	pipelined.send(get[3:])
	early.send(get[1:])
	if a, b := pipelined.answer(), early.answer(); a != "/a" || b != "/a" {
		t.Errorf("%q, %q", a, b)
	}
	g.await(2) // after a complete request, the connections may be parked again
}

// Attack: a client tries to keep a parked connection open, by sending nothing or by sending only a
// part of a request. The hub closes the connection.
func TestClientCannotHoldAParkedConnection(t *testing.T) {
	t.Parallel()
	g := newGarage(t, Timeouts{Header: 3 * time.Second, Request: 3 * time.Second, Idle: 4 * time.Second}, func(w http.ResponseWriter, r *http.Request) {})
	silent, slow, gone := g.connect(), g.connect(), g.connect()
	for _, v := range []*visit{silent, slow, gone} {
		v.send(get)
		v.answer()
	}
	g.await(3)
	slow.send(get[:5])
	gone.Close()
	g.await(1)
	slow.closed()
	silent.closed()
	g.await(0)
}

// When the hub ends, it closes the parked connections at once, and parks no further connections.
func TestParkedConnectionsEndWithTheHub(t *testing.T) {
	t.Parallel()
	g := newGarage(t, Timeouts{}, func(w http.ResponseWriter, r *http.Request) {})
	v := g.connect()
	v.send(get)
	v.answer()
	g.await(1)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := g.srv.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	v.closed()
	if n := g.parked(); n != 0 {
		t.Errorf("%d connections are parked", n)
	}
	if err := g.lot.add(&parkable{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed lot: %v", err)
	}
}

// The hub holds the bytes of an answer until it can send them together (see socket.hold). The
// client gets the complete answer even in these cases:
//   - The answer is larger than the bytes that may be held.
//   - The client closes its side first.
//   - The server closes the connection after the answer. The end of the connection is
//     authenticated.
func TestHeldAnswersComeWhole(t *testing.T) {
	t.Parallel()
	g := newGarage(t, Timeouts{}, func(w http.ResponseWriter, r *http.Request) {
		holdAnswer(r)
		n, _ := strconv.Atoi(r.URL.Path[1:])
		w.Header().Set("Content-Length", strconv.Itoa(n))
		io.WriteString(w, strings.Repeat("x", n))
	})
	v := g.connect()
	for _, n := range []int{0, 1, 3000, 5000, maxHeld - 1000, maxHeld, 3 * maxHeld, 7} {
		v.send(fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: h\r\n\r\n", n))
		if got := v.answer(); len(got) != n {
			t.Errorf("%d bytes of %d", len(got), n)
		}
	}
	for name, leave := range map[string]func(v *visit){"client": func(v *visit) { v.CloseWrite() }, "server": func(*visit) {}} {
		v := g.connect()
		v.send("GET /300 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		leave(v)
		if got := v.answer(); len(got) != 300 {
			t.Errorf("the %s closes: %d bytes of 300", name, len(got))
		}
		if b, err := io.ReadAll(v.in); len(b) > 0 || err != nil {
			t.Errorf("the %s closes: %d bytes after the answer, %v", name, len(b), err)
		}
	}
}

// Attack: a client sends requests and never reads the answers. The hub closes the connection when
// the time that a client may take to receive an answer has passed.
func TestClientThatReadsNothingCannotHoldAnAnswer(t *testing.T) {
	t.Parallel()
	var answers atomic.Int64
	g := newGarage(t, Timeouts{Request: time.Second}, func(w http.ResponseWriter, r *http.Request) {
		holdAnswer(r)
		answers.Add(1)
		w.Write(make([]byte, maxHeld/2))
	})
	v := g.connect()
	go io.WriteString(v.Conn, strings.Repeat(get, 20_000)) // fails when the hub closes the connection
	for last := int64(-1); last != answers.Load(); time.Sleep(300 * time.Millisecond) {
		last = answers.Load()
	}
	if n := answers.Load(); n == 20_000 {
		t.Fatal("the client has received all answers, so the test tests nothing")
	}
	g.ends()
}

// An earlier version failed here: the server read the first bytes of a request while it finished
// the previous answer. It then considered the connection idle while it waited for the rest of the
// request, and parked the connection after a second.
func TestConnectionIsNotParkedInARequestThatCameEarly(t *testing.T) {
	t.Parallel()
	const head = "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n"
	for _, early := range []string{head[:1], head[:3], head[:30], head, head + "b"} {
		t.Run(strconv.Itoa(len(early)), func(t *testing.T) {
			t.Parallel()
			g := newGarage(t, Timeouts{}, func(w http.ResponseWriter, r *http.Request) {
				b, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				fmt.Fprintf(w, "%s %s", r.URL.Path, b)
			})
			v := g.connect()
			v.send(get + early)
			if got := v.answer(); got != "/a " {
				t.Fatal(got)
			}
			time.Sleep(parkAfter / 3)
			rest := (head + "body")[len(early):]
			v.send(rest[:len(rest)-2])
			time.Sleep(parkAfter + parkAfter/2)
			if n := g.parked(); n != 0 {
				t.Errorf("%d connections are parked in a request", n)
			}
			v.send(rest[len(rest)-2:])
			if got := v.answer(); got != "/b body" {
				t.Error(got)
			}
		})
	}
}

// Each request is answered, even if it arrives at the moment when its connection is being parked.
func TestRequestsWhileConnectionsAreParked(t *testing.T) {
	t.Parallel()
	g := newGarage(t, Timeouts{}, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })
	var clients sync.WaitGroup
	for i := range 30 {
		clients.Go(func() {
			v := g.connect()
			for n := range 3 {
				path := fmt.Sprintf("/%d/%d", i, n)
				if _, err := io.WriteString(v.Conn, strings.Replace(get, "/a", path, 1)); err != nil {
					t.Error(err)
					return
				}
				resp, err := http.ReadResponse(v.in, nil)
				if err != nil {
					t.Errorf("%s: %v", path, err)
					return
				}
				if b, err := io.ReadAll(resp.Body); string(b) != path {
					t.Errorf("%s: %s, %v", path, b, err)
				}
				time.Sleep(parkAfter + time.Duration(i-15)*3*time.Millisecond)
			}
		})
	}
	clients.Wait()
}

// Clients that use HTTP/2, and clients that use HTTP without TLS, get the same answers as from
// net/http.
func TestParkingServesOtherProtocols(t *testing.T) {
	t.Parallel()
	g := newGarage(t, Timeouts{}, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto, r.TLS != nil, r.Context().Value(connKey{}) != nil)
	})
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	defer c.CloseIdleConnections()
	resp, err := c.Get("https://" + g.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); string(b) != "HTTP/2.0true true" && string(b) != "HTTP/2.0 true true" {
		t.Errorf("HTTP/2: %q, %v", b, err)
	}
	plain, err := http.Get("http://" + g.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Body.Close()
	if b, _ := io.ReadAll(plain.Body); plain.StatusCode != 400 || !strings.Contains(string(b), "HTTPS") {
		t.Errorf("HTTP without TLS: %s %q", plain.Status, b)
	}
}

// A TCP proxy sends a PROXY protocol header with the client's address before the client's bytes.
// The hub parks such a connection, when it is idle, like any other. A later request on the
// connection still has the client's address.
func TestConnectionThroughATCPProxyIsParked(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{cfg: Config{Timeouts: Timeouts{}.withDefaults(), ProxyProtocol: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}}
	g := newGarageOn(t, s.behindProxies(l), Timeouts{}, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) })
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711}
	if _, err := proxyproto.HeaderProxyFromAddrs(2, client, l.Addr()).WriteTo(raw); err != nil {
		t.Fatal(err)
	}
	v := g.over(raw)
	for n := range 3 {
		v.send(get)
		if a := v.answer(); a != "192.0.2.7:4711" {
			t.Errorf("the client's address is %q", a)
		}
		if n < 2 {
			g.await(1)
		}
	}
}
