package fetch

import (
	"encoding/binary"
	"net/netip"
)

// special lists blocks from IANA's special-purpose address registries that are not part of the
// public Internet, although no method of netip.Addr reports this.
var special = prefixes(
	"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	"::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16", "fec0::/10",
)

// carriers lists the IPv6 blocks whose addresses contain an IPv4 address.
var carriers = []struct {
	block netip.Prefix
	at    int // offset of the IPv4 address, in bytes
}{{netip.MustParsePrefix("64:ff9b::/96"), 12}, {netip.MustParsePrefix("2002::/16"), 2}}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// IsPublic reports whether `a` is an address of the public Internet. It returns false for this
// machine, private networks, a cloud's metadata service, link-local addresses, multicast addresses,
// and special-purpose blocks. If an IPv6 address contains an IPv4 address, the IPv4 address
// decides.
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
