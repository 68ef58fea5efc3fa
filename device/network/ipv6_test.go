package network

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// useropt is a message of the kernel with options of a router.
func useropt(options ...[]byte) []byte {
	all := slices.Concat(options...)
	b := make([]byte, 16)
	b[0] = 10 // AF_INET6
	binary.NativeEndian.PutUint16(b[2:], uint16(len(all)))
	binary.NativeEndian.PutUint32(b[4:], 7)
	return append(b, all...)
}

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
	index, servers := advertised(useropt([]byte{31, 1, 0, 0, 0, 0, 0, 0}, rdnss(600, "fe80::1", "2001:db8::53")))
	if index != 7 || !slices.Equal(servers, []netip.Addr{netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8::53")}) {
		t.Errorf("%d, %v", index, servers)
	}
	for name, b := range map[string][]byte{
		"taken back": useropt(rdnss(0, "fe80::1")), "no address of a server": useropt(rdnss(600, "::", "ff02::1", "::1")),
	} {
		if _, servers := advertised(b); len(servers) > 0 {
			t.Errorf("%s: %v", name, servers)
		}
	}
	if _, servers := advertised(useropt(rdnss(600, "fe80::1", "fe80::2", "fe80::3", "fe80::4"), rdnss(600, "fe80::5"))); len(servers) != maxServers {
		t.Errorf("%v", servers)
	}
}

// Whoever is in the network may send anything, and this is the machine's first
// process: it must not end.
func FuzzRouterDoesNotEndTheMachine(f *testing.F) {
	good := useropt(rdnss(600, "fe80::1", "2001:db8::53"))
	f.Add(good)
	f.Add(good[:20])
	f.Add(append(good[:17], 0, 0, 0))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, servers := advertised(b); len(servers) > maxServers {
			t.Errorf("%v", servers)
		}
	})
}

func TestPanicOfAParserIsAnError(t *testing.T) {
	if err := safely(func() error { panic("index out of range") }); err == nil {
		t.Error("no error")
	}
	want := errors.New("x")
	if err := safely(func() error { return want }); err != want {
		t.Error(err)
	}
}

// Name servers of both families are there, though programs read three alone.
func TestNameServersOfBothFamiliesAreKept(t *testing.T) {
	resolvConf = filepath.Join(t.TempDir(), "etc", "resolv.conf")
	for _, g := range []struct {
		family  int
		servers []string
	}{{0, []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}}, {1, []string{"fe80::1%eth0"}}, {1, nil}} {
		if err := got("eth0", "", g.family, g.servers); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(resolvConf)
	if want := "nameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n"; string(b) != want || err != nil {
		t.Errorf("%s, %v", b, err)
	}
}
