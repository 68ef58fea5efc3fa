package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

// Bounds. A URL or a response that exceeds a bound is an error.
const (
	maxIssuer   = 64 << 10 // bytes of one response with issuers
	maxCRL      = 4 << 20  // bytes of one response with a revocation list
	maxKept     = 64 << 20 // bytes of all cached responses
	maxEntries  = 1024     // cached responses, failures included
	maxURL      = 1024     // bytes of a URL
	maxAtOnce   = 4        // concurrent fetches, from all hosts
	maxWaiting  = 64       // requests that wait for a fetch
	getTimeout  = 5 * time.Second
	waitTimeout = 8 * time.Second // the longest time that a request waits for CA certificates or revocation lists

	keepIssuer  = 24 * time.Hour
	keepFailure = 10 * time.Minute
	hostRate    = 2  // fetches per second from one host
	hostBurst   = 20 // burst of the rate limit
)

// Options configures a Fetcher.
type Options struct {
	// IssuerHosts are the names of the hosts from which CA certificates may be fetched, e.g.
	// "pki.infineon.com". CRLHosts are the names of the hosts from which revocation lists may be
	// fetched. Addresses, ports and wildcards are not allowed.
	IssuerHosts, CRLHosts []string
	// CRLs says how revocation lists are used. The zero value is CRLsOff.
	CRLs CRLMode

	// AllowAddress reports whether the fetcher may connect to an address and port. If it is nil,
	// only public addresses (see IsPublic) at the ports 80 and 443 are allowed. Tests use it to
	// allow their own server.
	AllowAddress func(netip.AddrPort) bool
	// Resolver resolves host names. If it is nil, the machine's resolver is used.
	Resolver *net.Resolver
	// Now returns the current time. If it is nil, time.Now is used.
	Now func() time.Time
}

// Fetcher fetches CA certificates and revocation lists, and caches the responses. It is safe for
// concurrent use.
type Fetcher struct {
	issuerHosts, crlHosts map[string]bool
	crls                  CRLMode
	anyPort               bool // all ports are allowed, because AllowAddress also decides about the port
	now                   func() time.Time
	client                *http.Client
	limits                map[string]*rate.Limiter // by host; the map does not change after New
	atOnce, waiting       chan struct{}
	flight                singleflight.Group

	mu    sync.Mutex
	cache map[string]*answer // cached responses, by URL
	size  int                // bytes of all cached bodies
}

// answer is the cached response of a URL: a body or an error, with an expiry. It also caches the
// parsed body.
type answer struct {
	body  []byte
	err   error
	until time.Time

	parse    sync.Once
	parsed   any
	parseErr error
}

// New makes a fetcher.
func New(o Options) (*Fetcher, error) {
	f := &Fetcher{
		crls: o.CRLs, now: o.Now, anyPort: o.AllowAddress != nil,
		limits: map[string]*rate.Limiter{},
		atOnce: make(chan struct{}, maxAtOnce), waiting: make(chan struct{}, maxWaiting),
		cache: map[string]*answer{},
	}
	if f.now == nil {
		f.now = time.Now
	}
	var err error
	if f.issuerHosts, err = f.hosts(o.IssuerHosts); err != nil {
		return nil, err
	}
	if f.crlHosts, err = f.hosts(o.CRLHosts); err != nil {
		return nil, err
	}
	allow := o.AllowAddress
	if allow == nil {
		allow = func(a netip.AddrPort) bool { return IsPublic(a.Addr()) && (a.Port() == 80 || a.Port() == 443) }
	}
	dialer := &net.Dialer{
		Timeout: getTimeout, Resolver: o.Resolver,
		// Control is called with the address of the socket, immediately before the socket connects.
		Control: func(_, address string, _ syscall.RawConn) error {
			a, err := netip.ParseAddrPort(address)
			if err != nil || !allow(a) {
				return fmt.Errorf("%w: %s", errAddress, address)
			}
			return nil
		},
	}
	f.client = &http.Client{
		Timeout:       getTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: nil, // no proxy, because a proxy would connect to any address
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return dialer.DialContext(ctx, network, address)
			},
			ForceAttemptHTTP2: true, DisableCompression: true, DisableKeepAlives: true,
			TLSHandshakeTimeout: getTimeout, ResponseHeaderTimeout: getTimeout,
			MaxResponseHeaderBytes: 16 << 10,
		},
	}
	return f, nil
}

var (
	errAddress = errors.New("fetching from this address is not allowed")
	errBusy    = errors.New("too many fetches are in progress")
)

// hosts checks the names of allowed hosts, and adds a rate limit for each host.
func (f *Fetcher) hosts(names []string) (map[string]bool, error) {
	allowed := map[string]bool{}
	for _, name := range names {
		host := strings.ToLower(strings.TrimSuffix(strings.TrimSpace(name), "."))
		if _, err := netip.ParseAddr(host); err == nil || host == "" || strings.ContainsAny(host, "/:@*?#%[] \t") {
			return nil, fmt.Errorf("fetch: %q is not a host name: use names like pki.example.com, without scheme, port or wildcard", name)
		}
		allowed[host] = true
		if f.limits[host] == nil {
			f.limits[host] = rate.NewLimiter(hostRate, hostBurst)
		}
	}
	return allowed, nil
}

// target checks a URL from a certificate against the allowed hosts, and returns the URL in
// canonical form.
func (f *Fetcher) target(raw string, allowed map[string]bool) (*url.URL, error) {
	if len(raw) > maxURL {
		return nil, errors.New("the URL is too long")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("the URL is malformed")
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Opaque != "" {
		return nil, errors.New("the URL is not an http or https URL")
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if !allowed[host] {
		return nil, fmt.Errorf("the hub is not allowed to fetch from %.253q", host)
	}
	if p := u.Port(); !f.anyPort && p != "" && p != map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		return nil, errors.New("the URL's port is not the default port of its scheme")
	}
	u.Fragment, u.RawFragment = "", ""
	u.Host = host + strings.TrimPrefix(u.Host, u.Hostname())
	return u, nil
}

// get returns the response of a URL, from the cache or by a fetch. `limit` is the maximum size of
// the body, in bytes. The function `keep` returns how long the body may be cached. If ctx ends
// first, the answer has an error.
func (f *Fetcher) get(ctx context.Context, u *url.URL, limit int64, keep func(*answer) time.Duration) *answer {
	key := u.String()
	if a := f.cached(key); a != nil {
		return a
	}
	select {
	case f.waiting <- struct{}{}:
		defer func() { <-f.waiting }()
	default:
		return &answer{err: errBusy}
	}
	// The fetch continues even if ctx ends, because other requests may be waiting for its result,
	// and later requests will use it.
	done := f.flight.DoChan(key, func() (any, error) {
		if a := f.cached(key); a != nil {
			return a, nil
		}
		a := f.fetch(u, limit)
		if errors.Is(a.err, errBusy) {
			return a, nil // do not cache this error: the hub sent no request, so the host did not fail
		}
		wait := keepFailure
		if a.err == nil {
			wait = keep(a)
		}
		a.until = f.now().Add(wait)
		f.store(key, a)
		return a, nil
	})
	select {
	case r := <-done:
		return r.Val.(*answer)
	case <-ctx.Done():
		return &answer{err: errors.New("the host took too long to answer")}
	}
}

func (f *Fetcher) cached(key string) *answer {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a := f.cache[key]; a != nil && f.now().Before(a.until) {
		return a
	}
	return nil
}

// store caches an answer. If the cache is full, it drops expired answers first, then other answers
// in no particular order.
func (f *Fetcher) store(key string, a *answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	drop := func(k string) {
		f.size -= len(f.cache[k].body)
		delete(f.cache, k)
	}
	if f.cache[key] != nil {
		drop(key)
	}
	full := func() bool { return len(f.cache) >= maxEntries || f.size+len(a.body) > maxKept }
	if full() {
		for k, old := range f.cache {
			if !f.now().Before(old.until) {
				drop(k)
			}
		}
	}
	for k := range f.cache {
		if !full() {
			break
		}
		drop(k)
	}
	f.cache[key] = a
	f.size += len(a.body)
}

// fetch fetches a URL. It returns errBusy if too many fetches are in progress or the host's rate
// limit is reached.
func (f *Fetcher) fetch(u *url.URL, limit int64) *answer {
	if !f.limits[u.Hostname()].Allow() {
		return &answer{err: errBusy}
	}
	select {
	case f.atOnce <- struct{}{}:
		defer func() { <-f.atOnce }()
	default:
		return &answer{err: errBusy}
	}
	ctx, cancel := context.WithTimeout(context.Background(), getTimeout)
	defer cancel()
	body, err := f.read(ctx, u, limit)
	return &answer{body: body, err: err}
}

func (f *Fetcher) read(ctx context.Context, u *url.URL, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("the URL is malformed")
	}
	req.Header.Set("User-Agent", "gangway")
	rsp, err := f.client.Do(req)
	switch {
	case errors.Is(err, errAddress):
		return nil, errAddress
	case err != nil && ctx.Err() != nil:
		return nil, errors.New("the host took too long to answer")
	case err != nil:
		return nil, errors.New("the host cannot be reached")
	}
	defer rsp.Body.Close()
	if rsp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the host answered %d", rsp.StatusCode)
	}
	if rsp.ContentLength > limit {
		return nil, fmt.Errorf("the response has %d bytes; at most %d are allowed", rsp.ContentLength, limit)
	}
	body, err := io.ReadAll(io.LimitReader(rsp.Body, limit+1))
	if err != nil {
		return nil, errors.New("the response was cut off")
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("the response has more than %d bytes", limit)
	}
	return body, nil
}
