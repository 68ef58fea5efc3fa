package main

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// The method `missing` returns a reason if no listener of the hub matches the URL's host and port.
// It returns "" if a listener matches. The test uses addresses and a resolver of its own instead of
// the machine's.
func TestWarnsOfAURLThatDoesNotLeadToTheHub(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		url, listens string
		why          string // empty: the URL leads to the hub
	}{
		"all addresses, by name":       {"https://hub.example:12443", "[::]:12443", ""},
		"all addresses, by IP":         {"https://192.0.2.7:12443", "0.0.0.0:12443", ""},
		"default port":                 {"https://hub.example", "[::]:443", ""},
		"the one address":              {"https://192.0.2.7:12443", "192.0.2.7:12443", ""},
		"one of two listeners":         {"https://hub.example:12443", "127.0.0.1:443 192.0.2.7:12443", ""},
		"loopback, by loopback":        {"https://127.0.0.1:12443", "127.0.0.1:12443", ""},
		"localhost":                    {"https://localhost:12443", "127.0.0.1:12443", ""},
		"IPv6":                         {"https://[2001:db8::7]:12443", "[2001:db8::7]:12443", ""},
		"the quick start on loopback":  {"https://hub.example:12443", "127.0.0.1:12443", "listens on loopback only (127.0.0.1:12443)"},
		"loopback in IPv6":             {"https://hub.example:12443", "[::1]:12443", "listens on loopback only"},
		"another port":                 {"https://hub.example", "[::]:12443", "names port 443"},
		"another machine, by IP":       {"https://198.51.100.9:12443", "[::]:12443", "no listener of the hub has the address 198.51.100.9;"},
		"another machine, by name":     {"https://elsewhere.example:12443", "[::]:12443", "no listener of the hub has the address elsewhere.example;"},
		"another address of this":      {"https://192.0.2.7:12443", "192.0.2.8:12443", "no listener of the hub has the address 192.0.2.7; the hub listens on 192.0.2.8:12443"},
		"an unknown name":              {"https://nowhere.example:12443", "[::]:12443", "cannot be looked up here: no such host"},
		"the right port, loopback too": {"https://hub.example:12443", "127.0.0.1:12443 192.0.2.7:443", "loopback only"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &reach{
				local: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8")},
				lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
					switch host {
					case "hub.example":
						return []netip.Addr{netip.MustParseAddr("192.0.2.7")}, nil
					case "localhost":
						return []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("127.0.0.1")}, nil
					case "elsewhere.example":
						return []netip.Addr{netip.MustParseAddr("198.51.100.9")}, nil
					}
					return nil, &net.DNSError{Err: "no such host", Name: host}
				},
			}
			for l := range strings.FieldsSeq(c.listens) {
				r.listens = append(r.listens, netip.MustParseAddrPort(l))
			}
			why := r.missing(t.Context(), c.url)
			if (why == "") != (c.why == "") || !strings.Contains(why, c.why) {
				t.Errorf("got %q, want %q", why, c.why)
			}
		})
	}
}
