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

// Bounds. What a certificate names beyond them is not looked up.
const (
	maxIssuer   = 64 << 10 // bytes of one answer with issuers
	maxCRL      = 4 << 20  // bytes of one revocation list
	maxKept     = 64 << 20 // bytes kept of all answers
	maxEntries  = 1024     // answers kept, failures included
	maxURL      = 1024     // bytes of a URL
	maxAtOnce   = 4        // fetches under way, of all hosts
	maxWaiting  = 64       // requests that wait for one
	getTimeout  = 5 * time.Second
	waitTimeout = 8 * time.Second // all that one request waits for links or lists

	keepIssuer  = 24 * time.Hour
	keepFailure = 10 * time.Minute
	hostRate    = 2  // fetches a second from one host
	hostBurst   = 20 // and at once
)

// Options say what may be fetched.
type Options struct {
	// IssuerHosts and CRLHosts are the names of hosts that CA certificates and
	// revocation lists may be fetched from, e.g. "pki.infineon.com". Names
	// alone: no address, no port, no wildcard.
	IssuerHosts, CRLHosts []string
	// CRLs is what to do about revocation; the zero value is CRLsOff.
	CRLs CRLMode

	// AllowAddress decides which addresses may be dialled. Nil: those that are
	// Public, at the ports 80 and 443. Tests allow their own server with it.
	AllowAddress func(netip.AddrPort) bool
	// Resolver resolves host names. Nil: the machine's.
	Resolver *net.Resolver
	// Now is the time. Nil: time.Now.
	Now func() time.Time
}

// Fetcher fetches and keeps what it fetched. It is safe for concurrent use.
type Fetcher struct {
	issuerHosts, crlHosts map[string]bool
	crls                  CRLMode
	anyPort               bool // the caller decides on addresses
	now                   func() time.Time
	client                *http.Client
	limits                map[string]*rate.Limiter // by host; never changes
	atOnce, waiting       chan struct{}
	flight                singleflight.Group

	mu   sync.Mutex
	kept map[string]*answer // by URL
	size int                // bytes of all bodies kept
}

// answer is what a URL answered: a body or an error, and until when it is
// believed. What was made of the body is kept with it.
type answer struct {
	body  []byte
	err   error
	until time.Time

	parse sync.Once
	made  any
	fault error
}

// New makes a fetcher.
func New(o Options) (*Fetcher, error) {
	f := &Fetcher{
		crls: o.CRLs, now: o.Now, anyPort: o.AllowAddress != nil,
		limits: map[string]*rate.Limiter{},
		atOnce: make(chan struct{}, maxAtOnce), waiting: make(chan struct{}, maxWaiting),
		kept: map[string]*answer{},
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
		// Called with the address of the socket, right before it connects.
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
			Proxy: nil, // it would connect in this process's stead, to anywhere
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
	errAddress = errors.New("this address may not be fetched from")
	errBusy    = errors.New("too many look-ups are under way")
)

// hosts checks and adds the hosts that may be fetched from.
func (f *Fetcher) hosts(names []string) (map[string]bool, error) {
	allowed := map[string]bool{}
	for _, name := range names {
		host := strings.ToLower(strings.TrimSuffix(strings.TrimSpace(name), "."))
		if _, err := netip.ParseAddr(host); err == nil || host == "" || strings.ContainsAny(host, "/:@*?#%[] \t") {
			return nil, fmt.Errorf("fetch: %q is no host name: give names such as pki.example.com, without scheme, port or wildcard", name)
		}
		allowed[host] = true
		if f.limits[host] == nil {
			f.limits[host] = rate.NewLimiter(hostRate, hostBurst)
		}
	}
	return allowed, nil
}

// target checks a URL out of a certificate and returns it in one form.
func (f *Fetcher) target(raw string, allowed map[string]bool) (*url.URL, error) {
	if len(raw) > maxURL {
		return nil, errors.New("the address is too long")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("the address is no URL")
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Opaque != "" {
		return nil, errors.New("the address is not one of http or https")
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if !allowed[host] {
		return nil, fmt.Errorf("the hub may not fetch from %.253q", host)
	}
	if p := u.Port(); !f.anyPort && p != "" && p != map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		return nil, errors.New("the address has a port of its own")
	}
	u.Fragment, u.RawFragment = "", ""
	u.Host = host + strings.TrimPrefix(u.Host, u.Hostname())
	return u, nil
}

// get returns what a URL answers: kept, or fetched now. keep says for how long
// a body is believed. It waits no longer than ctx.
func (f *Fetcher) get(ctx context.Context, u *url.URL, limit int64, keep func(*answer) time.Duration) *answer {
	key := u.String()
	if a := f.known(key); a != nil {
		return a
	}
	select {
	case f.waiting <- struct{}{}:
		defer func() { <-f.waiting }()
	default:
		return &answer{err: errBusy}
	}
	// The fetch goes on when this request gives up: another may wait for it,
	// and the next wants its result.
	done := f.flight.DoChan(key, func() (any, error) {
		if a := f.known(key); a != nil {
			return a, nil
		}
		a := f.fetch(u, limit)
		if errors.Is(a.err, errBusy) {
			return a, nil // not the host's fault: nothing to keep
		}
		wait := keepFailure
		if a.err == nil {
			wait = keep(a)
		}
		a.until = f.now().Add(wait)
		f.keep(key, a)
		return a, nil
	})
	select {
	case r := <-done:
		return r.Val.(*answer)
	case <-ctx.Done():
		return &answer{err: errors.New("it took too long")}
	}
}

func (f *Fetcher) known(key string) *answer {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a := f.kept[key]; a != nil && f.now().Before(a.until) {
		return a
	}
	return nil
}

// keep keeps an answer, and lets go of some others when there are too many:
// those that ended first, then any.
func (f *Fetcher) keep(key string, a *answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	drop := func(k string) {
		f.size -= len(f.kept[k].body)
		delete(f.kept, k)
	}
	if f.kept[key] != nil {
		drop(key)
	}
	full := func() bool { return len(f.kept) >= maxEntries || f.size+len(a.body) > maxKept }
	if full() {
		for k, old := range f.kept {
			if !f.now().Before(old.until) {
				drop(k)
			}
		}
	}
	for k := range f.kept {
		if !full() {
			break
		}
		drop(k)
	}
	f.kept[key] = a
	f.size += len(a.body)
}

// fetch fetches now, unless too much is under way.
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
		return nil, errors.New("the address is no URL")
	}
	req.Header.Set("User-Agent", "gangway")
	rsp, err := f.client.Do(req)
	switch {
	case errors.Is(err, errAddress):
		return nil, errAddress
	case err != nil && ctx.Err() != nil:
		return nil, errors.New("it took too long")
	case err != nil:
		return nil, errors.New("the host cannot be reached")
	}
	defer rsp.Body.Close()
	if rsp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the host answered %d", rsp.StatusCode)
	}
	if rsp.ContentLength > limit {
		return nil, fmt.Errorf("the answer has %d bytes, at most %d are read", rsp.ContentLength, limit)
	}
	body, err := io.ReadAll(io.LimitReader(rsp.Body, limit+1))
	if err != nil {
		return nil, errors.New("the answer broke off")
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("the answer has more than %d bytes", limit)
	}
	return body, nil
}
