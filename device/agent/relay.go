package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// relaySlots is the maximum number of connections to the hub. Each connection carries one
	// request at a time.
	relaySlots = 8
	// slotWait is the longest time for which a request waits until one of these connections is
	// free.
	slotWait = 10 * time.Second
	// relayStall is the time without progress after which the relay cancels a request.
	relayStall = time.Minute
	// slotFresh is the longest idle time after which the relay still uses a connection at once.
	// After a longer time the connection may have been closed, so the relay first asks the hub
	// again whether it admits the device.
	slotFresh = 20 * time.Second
)

var errBusy = errors.New("agent: all of the proxy's connections to the hub are in use")

// relay forwards requests to the hub with the IDevID certificate. relay is an http.RoundTripper.
type relay struct {
	agent *Agent
	tpm   tpm
	slots chan *slot

	measuring sync.Mutex // guards `measured` and the agent's state, and allows one measurement at a time
	measured  time.Time  // time of the last measurement
}

// slot is one connection to the hub. If the connection is lost, the slot's next request makes a new
// connection.
type slot struct {
	hub      *hub
	at       string    // the hub's address of the current connection
	admitted int64     // the value of hub.connections when the hub last admitted the device on this slot
	used     time.Time // when the slot last became free
	dropped  bool      // the connection must be replaced before the next use
}

func newRelay(a *Agent, t tpm, connect func() *hub) *relay {
	r := &relay{agent: a, tpm: t, slots: make(chan *slot, relaySlots)}
	for range relaySlots {
		r.slots <- &slot{hub: connect()}
	}
	return r
}

func (r *relay) close() {
	for {
		select {
		case s := <-r.slots:
			s.hub.close()
		default:
			return
		}
	}
}

// RoundTrip sends one request on a connection on which the hub admits the device.
func (r *relay) RoundTrip(req *http.Request) (*http.Response, error) {
	s, err := r.acquire(req.Context())
	if err != nil {
		return nil, err
	}
	resp, err := r.on(s, req)
	if err != nil {
		s.dropped = true
		r.release(s)
		return nil, err
	}
	return resp, nil
}

func (r *relay) release(s *slot) {
	if s.dropped {
		s.hub.close()
	}
	s.used = time.Now()
	r.slots <- s
}

func (r *relay) acquire(ctx context.Context) (*slot, error) {
	timer := time.NewTimer(slotWait)
	defer timer.Stop()
	select {
	case s := <-r.slots:
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
		return nil, errBusy
	}
}

// The method `on` sends a request on a slot. When the answer's body is closed, the slot becomes
// free.
func (r *relay) on(s *slot, req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	// Only a request without a body can be sent again.
	replay := req.Body == nil || req.Body == http.NoBody
	for again := false; ; again = true {
		client, err := r.admit(ctx, s)
		if err != nil {
			cancel()
			return nil, err
		}
		w := &watch{cancel: cancel}
		out := req.Clone(ctx)
		toHub(out, s.at)
		if !replay {
			out.Body = &watched{ReadCloser: req.Body, watch: w}
		}
		w.start()
		resp, err := client.Transport.RoundTrip(out)
		if err != nil {
			if ctx.Err() == nil {
				s.hub.at.failed(s.at)
			}
			w.stop()
			cancel()
			return nil, err
		}
		if code := bootRefusal(resp); code != "" && !r.measuredJustNow(code) {
			// Replace the connection, and measure the boot again on the new connection. The hub
			// refuses for one of three reasons: the policy has changed, the owner has accepted
			// another boot, or the request went over a new connection, for which the hub had no
			// measurement yet.
			s.dropped = true
			if replay && !again {
				w.stop()
				resp.Body.Close()
				continue
			}
		}
		resp.Body = &watched{ReadCloser: resp.Body, watch: w, done: func(whole bool) {
			w.stop()
			cancel()
			s.dropped = s.dropped || !whole // net/http closes the connection if the body was not read to its end
			r.release(s)
		}}
		return resp, nil
	}
}

// bootRefusal returns the code of the hub's refusal if resp is a refusal because of the device's
// boot measurement, or because the hub has no measurement. For every other answer, bootRefusal
// returns "". The caller can still read the answer's whole body.
func bootRefusal(resp *http.Response) string {
	if resp.StatusCode != http.StatusForbidden {
		return ""
	}
	const most = 64 << 10
	text, err := io.ReadAll(io.LimitReader(resp.Body, most))
	rest := resp.Body
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(text), rest), rest}
	var refused Refused
	if err != nil || json.Unmarshal(text, &refused) != nil || !strings.HasPrefix(refused.Code, "boot-") {
		return ""
	}
	return refused.Code
}

// measuredJustNow reports whether a new measurement would be useless, because the last one was made
// less than vainPause ago. If `code` says that the hub has no measurement, the result is false.
// Without this check, a program that always retries would keep the TPM busy.
func (r *relay) measuredJustNow(code string) bool {
	r.measuring.Lock()
	defer r.measuring.Unlock()
	return code != codeUnmeasured && time.Since(r.measured) < vainPause
}

const (
	codeUnmeasured = "boot-unmeasured" // the hub has no measurement of this connection; only a new measurement can help
	vainPause      = 30 * time.Second
)

// The method `admit` asks the hub, once for each connection, whether the owner's policy admits the
// device on the slot's connection. If the hub refuses because of the boot, admit sends a boot
// measurement. It returns the HTTP client for the address s.at.
func (r *relay) admit(ctx context.Context, s *slot) (*http.Client, error) {
	now := s.hub.connections.Load()
	if client, at := s.hub.http.get(); !s.dropped && now > 0 && now == s.admitted && at == s.at && time.Since(s.used) < slotFresh {
		return client, nil
	}
	if s.dropped {
		s.hub.close()
		s.dropped = false
	}
	_, err := s.hub.send(ctx, http.MethodGet, "/devices/"+r.agent.state.DeviceID, "", nil)
	var refused *Refused
	if errors.As(err, &refused) && strings.HasPrefix(refused.Code, "boot-") && !r.measuredJustNow(refused.Code) {
		err = r.measure(ctx, s.hub)
	}
	// Ignore any other refusal: the hub will refuse the program's own request for the same reason.
	if errors.As(err, &refused) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	client, at := s.hub.http.get()
	s.at, s.admitted = at, s.hub.connections.Load()
	return client, nil
}

// toHub changes a request so that it goes to the hub at `address`.
func toHub(req *http.Request, address string) {
	if u, err := url.Parse(address); err == nil {
		req.URL.Scheme, req.URL.Host, req.Host = u.Scheme, u.Host, ""
	}
}

func (r *relay) measure(ctx context.Context, h *hub) error {
	r.measuring.Lock()
	defer r.measuring.Unlock()
	r.measured = time.Now()
	_, err := r.agent.measure(ctx, h, r.tpm)
	return err
}

// watch cancels a request that makes no progress for relayStall.
type watch struct {
	cancel context.CancelFunc
	timer  atomic.Pointer[time.Timer]
}

func (w *watch) start() { w.timer.Store(time.AfterFunc(relayStall, w.cancel)) }

func (w *watch) progress() {
	if t := w.timer.Load(); t != nil {
		t.Reset(relayStall)
	}
}

func (w *watch) stop() {
	if t := w.timer.Swap(nil); t != nil {
		t.Stop()
	}
}

// watched is the body of a request or of an answer. Each read from it tells `watch` that the
// request makes progress.
type watched struct {
	io.ReadCloser
	watch *watch
	done  func(whole bool) // nil, or called once when the body is closed; `whole`: the body was read to its end
	whole bool
	once  sync.Once
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.watch.progress()
	}
	b.whole = b.whole || err == io.EOF
	return n, err
}

func (b *watched) Close() error {
	err := b.ReadCloser.Close()
	if b.done != nil {
		b.once.Do(func() { b.done(b.whole) })
	}
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	return nil
}
