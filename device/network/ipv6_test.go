package network

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// useropt returns a netlink message like those of the kernel, with the options of a router
// advertisement.
func useropt(options ...[]byte) []byte {
	all := slices.Concat(options...)
	b := make([]byte, 16)
	b[0] = 10 // AF_INET6
	binary.NativeEndian.PutUint16(b[2:], uint16(len(all)))
	binary.NativeEndian.PutUint32(b[4:], 7)
	return append(b, all...)
}

// rdnss returns a router's option that advertises name servers (RFC 8106).
func rdnss(lifetime uint32, servers ...string) []byte {
	b := []byte{25, byte(1 + 2*len(servers)), 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(b[4:], lifetime)
	for _, s := range servers {
		a := netip.MustParseAddr(s).As16()
		b = append(b, a[:]...)
	}
	return b
}

func TestReadsTheNameServersOfRouters(t *testing.T) {
	t.Parallel()
	index, servers := parseRDNSS(useropt([]byte{31, 1, 0, 0, 0, 0, 0, 0}, rdnss(600, "fe80::1", "2001:db8::53")))
	if index != 7 || !slices.Equal(servers, []netip.Addr{netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8::53")}) {
		t.Errorf("%d, %v", index, servers)
	}
	for name, b := range map[string][]byte{
		"withdrawn": useropt(rdnss(0, "fe80::1")), "not a server's address": useropt(rdnss(600, "::", "ff02::1", "::1")),
	} {
		if _, servers := parseRDNSS(b); len(servers) > 0 {
			t.Errorf("%s: %v", name, servers)
		}
	}
	if _, servers := parseRDNSS(useropt(rdnss(600, "fe80::1", "fe80::2", "fe80::3", "fe80::4"), rdnss(600, "fe80::5"))); len(servers) != maxServers {
		t.Errorf("%v", servers)
	}
}

// An attacker on the network can send any packet. The program that parses the packet is PID 1, and
// the kernel panics when PID 1 ends. So no packet may cause a panic of the parser.
func FuzzRouterDoesNotEndTheMachine(f *testing.F) {
	good := useropt(rdnss(600, "fe80::1", "2001:db8::53"))
	f.Add(good)
	f.Add(good[:20])
	f.Add(append(good[:17], 0, 0, 0))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, servers := parseRDNSS(b); len(servers) > maxServers {
			t.Errorf("%v", servers)
		}
	})
}

func TestPanicOfAParserIsAnError(t *testing.T) {
	t.Parallel()
	if err := catchPanic(func() error { panic("index out of range") }); err == nil {
		t.Error("no error")
	}
	want := errors.New("x")
	if err := catchPanic(func() error { return want }); err != want {
		t.Error(err)
	}
}

// Programs read only the first three name servers in resolv.conf. So the machine writes servers of
// both address families among the first three.
func TestNameServersOfBothFamiliesAreKept(t *testing.T) {
	t.Parallel()
	n, _ := testNetwork(t)
	learn := func(f family, servers ...string) {
		t.Helper()
		if err := n.learn("eth0", "", f, servers); err != nil {
			t.Fatal(err)
		}
	}
	learn(ipv4, "10.0.0.1", "10.0.0.2", "10.0.0.3")
	if n.hasServers6() {
		t.Error("it has name servers by IPv6")
	}
	learn(ipv6, "fe80::1%eth0")
	learn(ipv6)
	if !n.hasServers6() {
		t.Error("it has no name servers by IPv6")
	}
	b, err := os.ReadFile(n.resolvConf)
	if want := "nameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n"; string(b) != want || err != nil {
		t.Errorf("%s, %v", b, err)
	}
	// The name servers in the settings replace all name servers of the network, also name servers
	// that the network offers later.
	if err := n.setServers([]netip.Addr{netip.MustParseAddr("192.0.2.53")}); err != nil {
		t.Fatal(err)
	}
	learn(ipv4, "10.0.0.1")
	learn(ipv6, "fe80::1%eth0")
	b, err = os.ReadFile(n.resolvConf)
	if want := "nameserver 192.0.2.53\n"; string(b) != want || err != nil || !n.hasServers6() {
		t.Errorf("with settings: %s, %v", b, err)
	}
}

// In resolv.conf, the machine writes a link-local name server together with the interface, because
// the server is reachable only through this interface.
func TestLinkLocalNameServerHasItsInterface(t *testing.T) {
	t.Parallel()
	got := zoned([]netip.Addr{netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8::53")}, "eth0")
	if !slices.Equal(got, []string{"fe80::1%eth0", "2001:db8::53"}) {
		t.Errorf("got %q", got)
	}
}

func TestAddressThatCannotBeUsedIsNotGlobal(t *testing.T) {
	t.Parallel()
	_, address, err := net.ParseCIDR("2001:db8::10/64")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		scope, flags int
		want         bool
	}{
		"global":     {int(netlink.SCOPE_UNIVERSE), unix.IFA_F_PERMANENT, true},
		"link-local": {int(netlink.SCOPE_LINK), 0, false},
		"tentative":  {int(netlink.SCOPE_UNIVERSE), unix.IFA_F_TENTATIVE, false},
		"duplicate":  {int(netlink.SCOPE_UNIVERSE), unix.IFA_F_DADFAILED, false},
		"deprecated": {int(netlink.SCOPE_UNIVERSE), unix.IFA_F_DEPRECATED, false},
	} {
		if got := firstGlobal([]netlink.Addr{{IPNet: address, Scope: c.scope, Flags: c.flags}}); (got != nil) != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
