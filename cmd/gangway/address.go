package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"gangway/wire"
)

// lookupTime is the time limit for resolving each host name in the hub's URLs, when 'gangway serve'
// starts.
const lookupTime = 3 * time.Second

// addresses returns the hub's URLs, and the names for the hub's TLS certificate. The first URL is
// the public URL.
func addresses(publicURL string, also []string, l net.Addr) (urls, names []string, err error) {
	if publicURL == "" {
		tcp := l.(*net.TCPAddr)
		if !tcp.IP.IsLoopback() {
			return nil, nil, usagef("--url is missing: the hub does not listen on loopback; give the URL that devices and people use, such as https://hub.example:12443")
		}
		publicURL = "https://" + tcp.String()
	}
	if len(also) >= wire.MaxAddresses {
		return nil, nil, usagef("--also-url is given %d times; at most %d are allowed", len(also), wire.MaxAddresses-1)
	}
	for i, text := range append([]string{publicURL}, also...) {
		if !wire.IsHubURL(text) {
			return nil, nil, usagef("%s %q is not of the form https://host[:port]; write it like https://hub.example:12443", [...]string{"--url", "--also-url"}[min(i, 1)], text)
		}
		u, err := url.Parse(text)
		if err != nil {
			return nil, nil, err
		}
		if s := "https://" + u.Host; !slices.Contains(urls, s) {
			urls = append(urls, s)
		}
		if !slices.Contains(names, u.Hostname()) {
			names = append(names, u.Hostname())
		}
	}
	for _, more := range []string{"localhost", "127.0.0.1", "::1"} {
		if !slices.Contains(names, more) {
			names = append(names, more)
		}
	}
	return urls, names, nil
}

// reach checks whether the hub listens on the host and port of a URL.
type reach struct {
	listens []netip.AddrPort
	local   []netip.Addr // addresses of this machine
	lookup  func(ctx context.Context, host string) ([]netip.Addr, error)
}

// newReach returns a reach for the listeners. It uses the local addresses and the resolver of this
// machine.
func newReach(listeners []net.Listener) (*reach, error) {
	r := &reach{lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}}
	for _, l := range listeners {
		r.listens = append(r.listens, l.Addr().(*net.TCPAddr).AddrPort())
	}
	local, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, a := range local {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			r.local = append(r.local, p.Addr())
		}
	}
	return r, nil
}

// The method `missing` compares the URL `address` with the hub's listeners. It returns "" if a
// listener has the URL's port and one of the IP addresses of the URL's host. Otherwise it returns
// the reason why no listener matches. This machine's resolver resolves the host.
func (r *reach) missing(ctx context.Context, address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return err.Error()
	}
	host, port := u.Hostname(), u.Port()
	if port == "" {
		port = "443"
	}
	var open, all []string // the listeners' addresses; open: only those with the URL's port
	var listens []netip.Addr
	for _, l := range r.listens {
		all = append(all, l.String())
		if fmt.Sprint(l.Port()) == port {
			open, listens = append(open, l.String()), append(listens, l.Addr().Unmap())
		}
	}
	if len(open) == 0 {
		return fmt.Sprintf("the URL names port %s, but the hub listens on %s only", port, strings.Join(all, ", "))
	}
	var named []netip.Addr
	if ip, err := netip.ParseAddr(host); err == nil {
		named = []netip.Addr{ip}
	} else {
		ctx, cancel := context.WithTimeout(ctx, lookupTime)
		defer cancel()
		if named, err = r.lookup(ctx, host); err != nil {
			var dns *net.DNSError
			if errors.As(err, &dns) {
				return fmt.Sprintf("the name %s cannot be looked up here: %s", host, dns.Err)
			}
			return fmt.Sprintf("the name %s cannot be looked up here: %v", host, err)
		}
	}
	for _, ip := range named {
		ip = ip.Unmap().WithZone("")
		for _, l := range listens {
			if l.WithZone("") == ip || l.IsUnspecified() && (ip.IsLoopback() || slices.Contains(r.local, ip)) {
				return ""
			}
		}
	}
	if !slices.ContainsFunc(listens, func(l netip.Addr) bool { return !l.IsLoopback() }) {
		return fmt.Sprintf("the hub listens on loopback only (%s), which other machines cannot reach", strings.Join(open, ", "))
	}
	return fmt.Sprintf("no listener of the hub has the address %s; the hub listens on %s of this machine", host, strings.Join(open, ", "))
}

// noteAddresses prints two kinds of warnings when the hub starts. The first warning names a URL
// that no listener of the hub matches. `behindProxy` switches this warning off, because the proxy's
// address differs from the hub's. The second warning names a URL that the hub had when it last
// started, and no longer has. Then noteAddresses stores the URLs.
func (a *app) noteAddresses(ctx context.Context, i *instance, urls []string, listeners []net.Listener, behindProxy bool) error {
	if !behindProxy {
		r, err := newReach(listeners)
		if err != nil {
			return err
		}
		for n, u := range urls {
			if why := r.missing(ctx, u); why != "" {
				a.note("Warning: %s %s reaches this hub only through a proxy or a port forwarding: %s. Correct the URL or --listen if there is no proxy.", [...]string{"--url", "--also-url"}[min(n, 1)], u, why)
			}
		}
	}
	before, err := i.store.URLs(ctx)
	if err != nil {
		return err
	}
	for _, u := range before {
		if !slices.Contains(urls, u) {
			a.note("Warning: the hub's URL was %s when it last started, and is %s now. Devices use the old URL until the hub has sent them the new one. Add --also-url %s while the old URL still reaches this hub. Otherwise give each device a new token file. See 'Moving' in docs/operations.md.", u, urls[0], u)
		}
	}
	if slices.Equal(before, urls) {
		return nil
	}
	return i.store.SetURLs(ctx, urls)
}
