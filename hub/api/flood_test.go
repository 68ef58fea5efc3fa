package api

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Attackers open many connections: some send nothing, some stop in the middle of the handshake, and
// some do the whole handshake. The hub computes only a few handshakes at the same time, and soon
// serves a good client.
func TestFloodOfHandshakesWaitsForItsTurn(t *testing.T) {
	t.Parallel()
	g := newGarage(t, Timeouts{}, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	var now, most atomic.Int64
	// crypto/tls calls GetConfigForClient after it has read the client's first message. So this
	// function counts the handshakes that the server computes at the same time.
	g.config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(5 * time.Millisecond)
		return nil, nil
	}
	for i := range 100 {
		c, err := net.Dial("tcp", g.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if i%2 == 0 {
			go tls.Client(stopper{c}, &tls.Config{InsecureSkipVerify: true}).Handshake()
		}
	}
	var flood sync.WaitGroup
	for range 100 {
		flood.Go(func() {
			if c, err := tls.Dial("tcp", g.Addr().String(), &tls.Config{InsecureSkipVerify: true}); err == nil {
				c.Close()
			}
		})
	}
	begun := time.Now()
	v := g.connect()
	v.send(get)
	if got := v.answer(); got != "hello" {
		t.Errorf("the answer is %q", got)
	}
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("a good client waits %s", took)
	}
	flood.Wait()
	if limit := int64(shakesPerCPU * runtime.GOMAXPROCS(0)); most.Load() > limit || most.Load() == 0 {
		t.Errorf("%d handshakes computed at the same time, want at most %d", most.Load(), limit)
	}
}

// stopper is a connection whose client sends its first message and then nothing.
type stopper struct{ net.Conn }

func (s stopper) Read(b []byte) (int, error) {
	time.Sleep(20 * time.Second)
	return s.Conn.Read(b)
}
