package fetch

import (
	"encoding/binary"
	"net/netip"
)

// special are the address blocks that are not the public Internet, of IANA's
// special-purpose registries, beyond those that netip knows.
var special = prefixes(
	"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	"::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16", "fec0::/10",
)

// carriers are IPv6 blocks with an IPv4 address inside, and where it begins.
var carriers = []struct {
	block netip.Prefix
	at    int // in bytes
}{{netip.MustParsePrefix("64:ff9b::/96"), 12}, {netip.MustParsePrefix("2002::/16"), 2}}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// IsPublic reports whether an address is one of the public Internet: not of
// this machine, a private network, a link, a cloud's metadata service, a
// multicast group or a block for special purposes, also not where an IPv6
// address carries such an IPv4 address.
func IsPublic(a netip.Addr) bool {
	if a.Zone() != "" {
		return false
	}
	a = a.Unmap()
	if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsMulticast() {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	for _, c := range carriers {
		if c.block.Contains(a) {
			b := a.As16()
			var v4 [4]byte
			binary.BigEndian.PutUint32(v4[:], binary.BigEndian.Uint32(b[c.at:]))
			return IsPublic(netip.AddrFrom4(v4))
		}
	}
	return true
}
