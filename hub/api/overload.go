package api

import (
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// urgency says how important it is to answer a request while the hub is overloaded.
type urgency int

// The urgencies of requests. The urgency `always` means that the hub admits the request even when
// it is overloaded. These kinds of requests have this urgency:
//   - requests that wait in a separate queue,
//   - requests that run for a long time,
//   - requests that show whether the hub works.
const (
	always urgency = iota
	onboardingFirst
	ordinary
	heartbeat // periodic requests, which the device soon repeats by itself
)

// shares bounds the running requests, in eighths of the capacity. A request is admitted only if the
// number of running requests stays within the share of its urgency. So the last quarter
// of the capacity is only for onboarding.
//
// These are the bounds of a hub that is overloaded for longer than a stall: see the type overload.
var shares = map[urgency]int64{onboardingFirst: 8, ordinary: 6, heartbeat: 4}

// stalls says how long requests may exceed their shares by the factor stallFactor. Onboarding may
// do so for longest. So when more requests arrive than the hub can serve, the surplus of heartbeats
// has ended before the hub refuses onboarding requests. The factor also bounds the memory for bodies
// that clients without a certificate can make the hub read at the same time.
var stalls = map[urgency]time.Duration{onboardingFirst: 2 * time.Second, ordinary: 1500 * time.Millisecond, heartbeat: time.Second}

const stallFactor = 4

// urgencyOf returns the urgency of a route's requests.
func urgencyOf(rt *route) urgency {
	switch {
	case rt.rate == onboardRate, rt.rate == registerRate:
		return onboardingFirst
	case rt.rate != unlimited && rt.rate != bootRate, rt.who == urlHolder, rt.body == announcedBody, alwaysAdmitted[rt.name()]:
		return always
	case heartbeats[rt.name()]:
		return heartbeat
	}
	return ordinary
}

var heartbeats = map[string]bool{
	"PATCH /device/meta": true, "PUT /devices/{id}/device-meta": true, "PATCH /devices/{id}/device-meta": true, "GET /devices/{id}/user-meta": true,
	"GET /trails/{id}/steps": true, "POST /logs": true,
}

// alwaysAdmitted lists routes that are for monitoring, or that run for long without using CPU time.
var alwaysAdmitted = map[string]bool{
	"GET /healthz": true, "GET /readyz": true, "GET /hub-ca.pem": true, "GET /assets/{file}": true, "GET /ui/live": true,
	"GET /ui/devices.csv": true, "GET /ui/devices.json": true, "GET /ui/devices/{id}/log.txt": true, "POST /ui/onboard/image": true,
}

// overload bounds the requests that run at the same time, and tells the clients of refused requests
// when to try again. After a power cut, all devices of a site contact the hub at the same time. The
// hub spreads their next requests over the time that it needs to serve all of them.
//
// Many running requests do not always mean that the hub is overloaded. While a garbage collection,
// a checkpoint of the database or another program stalls the hub for 100 ms, the reports of a large
// fleet fill the capacity, although the hub can serve all of them within the next second. So the
// hub refuses the requests beyond the shares only if it has not been calm for the time of a stall.
// An overloaded hub does not become calm before most of its requests have ended.
type overload struct {
	capacity int64
	running  atomic.Int64
	served   atomic.Int64 // requests that were served in the current second
	calm     atomic.Int64 // when at most an eighth of the capacity was last in use, in Unix nanoseconds

	mu      sync.Mutex
	second  int64         // guarded by mu: the current second, in Unix time
	refused int64         // guarded by mu: requests that were refused in the current second
	backlog time.Duration // guarded by mu: how long the hub needs to serve the requests that it has refused
}

// maxBacklog bounds `backlog`, and so the time after which clients try again.
const maxBacklog = 10 * time.Minute

// perCPU is the number of requests for each CPU that may run at the same time. It is large because
// the store commits concurrent requests together.
const perCPU = 128

func defaultCapacity() int { return perCPU * runtime.GOMAXPROCS(0) }

// enter reports whether a request may run. If it returns true, the caller must call the method
// `leave` when the request has ended.
func (o *overload) enter(u urgency, now time.Time) bool {
	running, share := o.running.Add(1), o.capacity*shares[u]/8
	if running <= o.capacity/8 {
		o.calm.Store(now.UnixNano())
	}
	if running <= share || running <= stallFactor*share && o.stalled(now) < stalls[u] {
		return true
	}
	o.running.Add(-1)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tick(now)
	o.refused++
	return false
}

// stalled returns for how long the hub has not been calm. If the clock was set back since then, the
// result is the longest duration.
func (o *overload) stalled(now time.Time) time.Duration {
	if d := now.UnixNano() - o.calm.Load(); d >= 0 {
		return time.Duration(d)
	}
	return math.MaxInt64
}

func (o *overload) leave() {
	o.running.Add(-1)
	o.served.Add(1)
}

// tick begins a new second if the clock shows another second than o.second. This second may also be
// an earlier one, if the clock was set back. The caller holds o.mu.
func (o *overload) tick(now time.Time) {
	passed := now.Unix() - o.second
	if passed == 0 {
		return
	}
	served := max(o.served.Swap(0), 1)
	o.backlog += min(time.Duration(float64(o.refused)/float64(served)*float64(time.Second)), maxBacklog)
	o.backlog -= time.Duration(min(max(passed, 1), int64(maxBacklog/time.Second))) * time.Second
	o.backlog = min(max(o.backlog, 0), maxBacklog)
	o.second, o.refused = now.Unix(), 0
}

// comeBack returns the number of seconds after which a client should repeat a request that the
// overloaded hub refused. The number is random, so that clients do not all try again at the same
// time. Onboarding clients get the smallest numbers, and heartbeats get the largest.
func (o *overload) comeBack(u urgency, now time.Time) int {
	o.mu.Lock()
	o.tick(now)
	backlog := max(int(o.backlog/time.Second), 5)
	o.mu.Unlock()
	switch u {
	case onboardingFirst:
		return 1 + rand.N(max(backlog/4, 5))
	case heartbeat:
		return backlog + 1 + rand.N(backlog)
	}
	return 1 + rand.N(backlog)
}

var errOverloaded = problem(http.StatusServiceUnavailable, "overloaded", "Try again after the time in the header Retry-After; the agent does this by itself.", "The hub has too many requests at the moment.")

// admit returns an error if the hub is overloaded. Otherwise, the request may run. The caller must
// call the returned function when the request has ended.
func (s *Server) admit(rt *route, r *http.Request) (leave func(), err error) {
	u := urgencyOf(rt)
	if u == always {
		return func() {}, nil
	}
	if !s.overload.enter(u, s.cfg.Now()) {
		s.metrics.overloaded.Inc()
		return nil, errOverloaded
	}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &waitingBody{r.Body, &s.overload}
	}
	return s.overload.leave, nil
}

// waitingBody is a request's body. While the hub waits for the client to send the body, the request
// does not count as running. Otherwise, a few slow clients could make the hub refuse all other
// clients.
type waitingBody struct {
	io.ReadCloser
	o *overload
}

func (b *waitingBody) Read(p []byte) (int, error) {
	b.o.running.Add(-1)
	defer b.o.running.Add(1)
	return b.ReadCloser.Read(p)
}

// retryAfter returns the value of the header Retry-After for an answer with status 429 or 503.
func (s *Server) retryAfter(r *http.Request) int {
	u := ordinary
	if rt, ok := s.routeOf(r); ok {
		u = urgencyOf(rt)
	}
	return s.overload.comeBack(u, s.cfg.Now())
}

// routeOf returns the route of a request that the router has matched.
func (s *Server) routeOf(r *http.Request) (*route, bool) {
	rt, ok := s.routes[r.Pattern]
	return rt, ok
}
