package network

import (
	"net"
	"net/netip"
	"testing"
)

// If another machine sends an ARP answer, announcement or probe for an address, this machine knows
// that the address is in use. No other packet shows this.
func TestARPTellsWhoHasAnAddress(t *testing.T) {
	t.Parallel()
	own, other := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	mine, theirs := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.11")
	packet := func(sender net.HardwareAddr, from netip.Addr, asked netip.Addr) []byte {
		p := probe(sender, asked)
		copy(p[14:], from.AsSlice())
		return p
	}
	none := netip.IPv4Unspecified()
	for name, c := range map[string]struct {
		p    []byte
		used bool
	}{
		"an answer":                      {packet(other, mine, none), true},
		"an announcement":                {packet(other, mine, mine), true},
		"a probe at the same time":       {packet(other, none, mine), true},
		"a question by another machine":  {packet(other, theirs, mine), false},
		"an answer about another":        {packet(other, theirs, none), false},
		"a probe for another":            {packet(other, none, theirs), false},
		"the machine's own probe":        {probe(own, mine), false},
		"the machine's own announcement": {packet(own, mine, mine), false},
		"cut short":                      {packet(other, mine, none)[:arpSize-1], false},
		"nothing":                        {nil, false},
		"other types of addresses":       {append([]byte{0, 2}, packet(other, mine, none)[2:]...), false},
	} {
		if got := conflict(c.p, own, mine); (got != nil) != c.used {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzARPConflict(f *testing.F) {
	f.Add(probe(net.HardwareAddr{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("192.0.2.10")))
	f.Fuzz(func(t *testing.T, p []byte) {
		own := net.HardwareAddr{2, 0, 0, 0, 0, 1}
		if h := conflict(p, own, netip.MustParseAddr("192.0.2.10")); h != nil && (len(h) != 6 || h.String() == own.String()) {
			t.Errorf("%v", h)
		}
	})
}
