package main

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/internal/cmdline"
	"gangway/internal/span"

	"github.com/dustin/go-humanize"

	"github.com/spf13/pflag"
)

// limitFlags are the flags of 'gangway serve' that set rate limits and timeouts, name TCP proxies,
// and limit the age and the size of the audit trail and of the devices' logs.
type limitFlags struct {
	rates    []string
	proxies  []string
	timeouts api.Timeouts
	capacity int

	eventsAge, refusalsAge time.Duration
	drain                  time.Duration

	logAge  time.Duration
	logSize string
}

// maxDrain is the largest value of --drain. It is shorter than the time after which systemd kills a
// service that does not stop.
const maxDrain = time.Minute

func (l *limitFlags) add(f *pflag.FlagSet) {
	names := strings.Join(slices.Sorted(maps.Keys(api.DefaultRates())), ", ")
	f.StringArrayVar(&l.rates, "rate", nil, "rate limit, as NAME=REQUESTS-PER-SECOND/BURST, such as onboard=50/200 (repeatable). The rate limit \"account\" counts the requests of one account, \"boot\" those of one device, and each other rate limit those of one network. Names: "+names)
	f.StringSliceVar(&l.proxies, "proxy-protocol-from", nil, "addresses or networks of TCP proxies; their connections must begin with a header of the PROXY protocol, version 2 (default: none)")
	f.IntVar(&l.capacity, "max-requests", 0, "how many requests may run at the same time: onboarding may use the whole number, other requests three quarters, and reports of devices half (default 128 for each CPU)")
	cmdline.SpanVar(f, &l.timeouts.Header, "header-timeout", 0, "how long a client may take to send a request's header (default 10s)")
	cmdline.SpanVar(f, &l.timeouts.Request, "request-timeout", 0, "how long a request may take; for uploads and downloads, how long each block may take (default 60s)")
	cmdline.SpanVar(f, &l.eventsAge, "events-age", api.DefaultEventsAge, "how long the audit trail keeps events, such as 365d for a year; 0: permanently")
	cmdline.SpanVar(f, &l.refusalsAge, "refusals-age", api.DefaultUnprovenAge, "how long the audit trail keeps events of unauthenticated clients: refused requests, wrong passwords")
	cmdline.SpanVar(f, &l.logAge, "log-age", api.DefaultLogAge, "how long the hub keeps the log lines of devices; an owner can choose less")
	f.StringVar(&l.logSize, "log-size", ui.Bytes(uint64(api.DefaultLogBounds.Bytes)), "how much the hub keeps of each device's log; an owner can choose less")
	cmdline.SpanVar(f, &l.timeouts.Idle, "idle-timeout", 0, "how long a connection may be idle (default 2m)")
	cmdline.SpanVar(f, &l.drain, "drain", 0, "how long to continue to serve after the signal to stop, while GET /readyz answers 503; choose a time in which a load balancer notices the 503, such as 5s (default 0s)")
}

// minCapacity is the smallest valid value of --max-requests. Heartbeats may use only half of the
// value, so a very small value would admit no heartbeat.
const minCapacity = 8

// The method `into` checks the values of the flags, and stores the values in `o`.
func (l *limitFlags) into(o *serverOptions) error {
	o.rates, o.timeouts, o.capacity = api.Rates{}, l.timeouts, l.capacity
	for _, text := range l.rates {
		name, value, ok := strings.Cut(text, "=")
		perSecond, burst, ok2 := strings.Cut(value, "/")
		if !ok || !ok2 {
			return usagef("--rate %q is not NAME=REQUESTS-PER-SECOND/BURST, such as onboard=50/200", text)
		}
		var r api.Rate
		var err error
		if r.PerSecond, err = strconv.ParseFloat(perSecond, 64); err != nil {
			return usagef("--rate %q: %q is not a number of requests a second", text, perSecond)
		}
		if r.Burst, err = strconv.Atoi(burst); err != nil {
			return usagef("--rate %q: %q is not a number of requests", text, burst)
		}
		o.rates[name] = r
	}
	if err := o.rates.Check(); err != nil {
		return usagef("--rate: %v", err)
	}
	if l.capacity < 0 || l.capacity > 0 && l.capacity < minCapacity {
		return usagef("--max-requests must be %d or more; 0 means the default", minCapacity)
	}
	if l.timeouts.Header < 0 || l.timeouts.Request < 0 || l.timeouts.Idle < 0 {
		return usagef("--header-timeout, --request-timeout and --idle-timeout must not be negative; 0 means the default")
	}
	switch {
	case l.eventsAge != 0 && l.eventsAge < 24*time.Hour, l.refusalsAge < 24*time.Hour:
		return usagef("--events-age and --refusals-age must be a day (24h) or more")
	case l.eventsAge != 0 && l.eventsAge < l.refusalsAge:
		return usagef("--refusals-age %v is longer than --events-age %v", l.refusalsAge, l.eventsAge)
	case l.eventsAge == 0:
		l.eventsAge = -1 // negative: keep events permanently
	}
	if l.drain < 0 || l.drain > maxDrain {
		return usagef("--drain must be from 0s to %v", maxDrain)
	}
	o.drain = l.drain
	if l.logAge < api.MinLogAge {
		return usagef("--log-age must be %s or more", span.Format(api.MinLogAge))
	}
	size, err := humanize.ParseBytes(l.logSize)
	if err != nil || size < api.MinLogBytes || size > 1<<40 {
		return usagef("--log-size %q is not a size from %s to 1 TiB, such as 8MiB", l.logSize, ui.Bytes(api.MinLogBytes))
	}
	o.logAge, o.logBounds = l.logAge, store.LogBounds{Rows: api.DefaultLogBounds.Rows, Bytes: int64(size)}
	o.eventsAge, o.unprovenAge = l.eventsAge, l.refusalsAge
	for _, text := range l.proxies {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			ip, err := netip.ParseAddr(text)
			if err != nil {
				return usagef("--proxy-protocol-from %q is neither an address nor a network such as 10.0.0.0/8", text)
			}
			p = netip.PrefixFrom(ip, ip.BitLen())
		}
		o.proxyProtocol = append(o.proxyProtocol, p.Masked())
	}
	return nil
}
