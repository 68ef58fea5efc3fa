package api

import (
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limiter limits the rate of requests of each client.
type limiter[K comparable] struct {
	every rate.Limit
	burst int

	mu      sync.Mutex
	clients map[K]*client // guarded by mu
}

type client struct {
	rate.Limiter
	last time.Time
}

// maxClients bounds the memory of a limiter. When a limiter has that many clients, it forgets the
// idle ones.
const maxClients = 65536

func newLimiter[K comparable](every rate.Limit, burst int) *limiter[K] {
	return &limiter[K]{every: every, burst: burst, clients: make(map[K]*client)}
}

// network returns the key of a client's rate limit: its IPv4 address, or the /64 network of its
// IPv6 address.
func network(addr string) netip.Prefix {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.Prefix{} // all unparsable addresses share one limit
	}
	bits := 32
	if ip = ip.Unmap(); ip.Is6() {
		bits = 64
	}
	key, _ := ip.WithZone("").Prefix(bits)
	return key
}

func (l *limiter[K]) allow(key K, now time.Time) bool { return l.charge(key, 1, now) }

// charge is like the method `allow`, but the request counts as `n` requests, or as a whole burst of
// the rate limit if `n` is larger than that.
func (l *limiter[K]) charge(key K, n int, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.clients[key]
	if c == nil {
		if len(l.clients) >= maxClients {
			l.forget(now)
		}
		c = &client{Limiter: *rate.NewLimiter(l.every, l.burst)}
		l.clients[key] = c
	}
	c.last = now
	return c.AllowN(now, min(n, l.burst))
}

// forget drops the clients that have been idle for a minute. If maxClients clients are still left,
// it drops all of them, because an attacker with that many addresses must not keep other clients
// out.
func (l *limiter[K]) forget(now time.Time) {
	for k, c := range l.clients {
		if now.Sub(c.last) > time.Minute {
			delete(l.clients, k)
		}
	}
	if len(l.clients) >= maxClients {
		clear(l.clients)
	}
}

var errTooFast = problem(http.StatusTooManyRequests, "too-many-requests", "Wait a few seconds and try again.", "Too many requests from this address.")
