package network

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/device/install/netfile"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The type `elsewhere` is a second network namespace. The other end of each simulated cable is in
// this namespace.
type elsewhere struct {
	*netlink.Handle
	fd int
}

// newElsewhere makes a network namespace, which ends with the test.
func newElsewhere(t *testing.T) *elsewhere {
	t.Helper()
	opened := make(chan int)
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread and its namespace end with the goroutine
		fd := -1
		if unix.Unshare(unix.CLONE_NEWNET) == nil {
			fd, _ = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		opened <- fd
	}()
	fd := <-opened
	if fd < 0 {
		t.Skip("this kernel allows no second network namespace")
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(fd))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close(); unix.Close(fd) })
	return &elsewhere{h, fd}
}

// plug makes an interface that a simulated cable connects to the namespace e. The other end of the
// cable gets `addresses`. If `vlan` is not 0, these addresses are on that VLAN.
func (e *elsewhere) plug(t *testing.T, name string, mac byte, vlan int, addresses ...string) {
	t.Helper()
	// The kernel makes both ends in this namespace. Then one end moves to the other namespace.
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, mac}}, PeerName: "to" + name}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Skipf("this kernel makes no interfaces: %v", err)
	}
	there, err := netlink.LinkByName("to" + name)
	if err == nil {
		err = netlink.LinkSetNsFd(there, e.fd)
	}
	if err == nil {
		there, err = e.LinkByName("to" + name)
	}
	if err == nil {
		err = e.LinkSetUp(there)
	}
	if err != nil {
		t.Fatal(err)
	}
	if vlan != 0 {
		tagged := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "tagged", ParentIndex: there.Attrs().Index}, VlanId: vlan}
		if err := e.LinkAdd(tagged); err != nil {
			t.Skipf("this kernel has no VLANs: %v", err)
		}
		if there, err = e.LinkByName("tagged"); err != nil {
			t.Fatal(err)
		}
		if err := e.LinkSetUp(there); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range addresses {
		address, err := netlink.ParseAddr(a)
		if err == nil {
			address.Flags = unix.IFA_F_NODAD
			err = e.AddrAdd(there, address)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func settings(t *testing.T, lines ...string) *netfile.Settings {
	t.Helper()
	s, err := netfile.Parse([]byte("version = 1\n" + strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// addressesOn returns the addresses of an interface, without the link-local addresses that the
// kernel made.
func addressesOn(t *testing.T, name string) (out []string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil
	}
	list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if !a.IP.IsLinkLocalUnicast() {
			out = append(out, a.IPNet.String())
		}
	}
	slices.Sort(out)
	return out
}

// defaults returns the gateways of the default routes.
func defaults(t *testing.T) (out []string) {
	t.Helper()
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Gw != nil {
			out = append(out, r.Gw.String())
		}
	}
	slices.Sort(out)
	return out
}

func mtu(t *testing.T, name string) int {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().MTU
}

// freshNetwork returns the network of a machine that has just started and has no interfaces yet.
func freshNetwork(t *testing.T) *Network {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Type() == "veth" || l.Type() == vlanType {
			netlink.LinkDel(l)
		}
	}
	n, _ := testNetwork(t)
	n.neighbourWait, n.probeWait = 2*time.Second, 100*time.Millisecond
	if err := os.WriteFile(n.resolvConf, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return n
}

// On an interface that a simulated cable connects to a neighbour, the machine's kernel applies the
// network settings. If it cannot, the error gives the reason.
func TestMachineTakesItsNetworkSettings(t *testing.T) {
	t.Parallel()
	if !inNetwork(t) {
		return
	}
	type want struct {
		on        string // the interface that must have the addresses
		addresses []string
		gateways  []string
		mtu       int
		servers   string // resolv.conf
		err       string
	}
	for name, c := range map[string]struct {
		plug     func(t *testing.T, e *elsewhere)
		settings []string
		want     want
	}{
		"IPv4": {
			func(t *testing.T, e *elsewhere) { e.plug(t, "near", 1, 0, "192.0.2.1/24") },
			[]string{"address = 192.0.2.10/24", "gateway = 192.0.2.1", "dns = 192.0.2.53", "dns = 2001:db8::53"},
			want{on: "near", addresses: []string{"192.0.2.10/24"}, gateways: []string{"192.0.2.1"}, mtu: 1500, servers: "nameserver 192.0.2.53\nnameserver 2001:db8::53\n"},
		},
		"IPv6": {
			func(t *testing.T, e *elsewhere) { e.plug(t, "near", 1, 0, "2001:db8::1/64") },
			[]string{"address = 2001:db8::10/64", "gateway = 2001:db8::1"},
			want{on: "near", addresses: []string{"2001:db8::10/64"}, gateways: []string{"2001:db8::1"}, mtu: 1500},
		},
		"both, by a link-local gateway": {
			func(t *testing.T, e *elsewhere) {
				e.plug(t, "near", 1, 0, "192.0.2.1/24", "2001:db8::1/64", "fe80::1/64")
			},
			[]string{"address = 2001:db8::10/64", "gateway = fe80::1", "address = 192.0.2.10/24"},
			want{on: "near", addresses: []string{"192.0.2.10/24", "2001:db8::10/64"}, gateways: []string{"fe80::1"}, mtu: 1500},
		},
		"an MTU of 1280": {
			func(t *testing.T, e *elsewhere) { e.plug(t, "near", 1, 0, "192.0.2.1/24") },
			[]string{"address = 192.0.2.10/24", "gateway = 192.0.2.1", "mtu = 1280"},
			want{on: "near", addresses: []string{"192.0.2.10/24"}, gateways: []string{"192.0.2.1"}, mtu: 1280},
		},
		"a VLAN": {
			func(t *testing.T, e *elsewhere) { e.plug(t, "near", 1, 42, "192.0.2.1/24") },
			[]string{"address = 192.0.2.10/24", "gateway = 192.0.2.1", "vlan = 42", "mtu = 1280"},
			want{on: "vlan42", addresses: []string{"192.0.2.10/24"}, gateways: []string{"192.0.2.1"}, mtu: 1280},
		},
		"the one of two cards whose gateway answers": {
			func(t *testing.T, e *elsewhere) {
				newElsewhere(t).plug(t, "near", 1, 0, "198.51.100.1/24")
				e.plug(t, "other", 2, 0, "192.0.2.1/24")
			},
			[]string{"address = 192.0.2.10/24", "gateway = 192.0.2.1"},
			want{on: "other", addresses: []string{"192.0.2.10/24"}, gateways: []string{"192.0.2.1"}, mtu: 1500},
		},
		"the card of a MAC address": {
			func(t *testing.T, e *elsewhere) {
				e.plug(t, "near", 1, 0, "192.0.2.1/24")
				e.plug(t, "other", 2, 0, "198.51.100.1/24")
			},
			[]string{"interface = 02:00:00:00:00:02", "address = 198.51.100.10/24"},
			want{on: "other", addresses: []string{"198.51.100.10/24"}, mtu: 1500},
		},
		"a gateway that is off, and no other card": {
			func(t *testing.T, e *elsewhere) { e.plug(t, "near", 1, 0, "192.0.2.2/24") },
			[]string{"address = 192.0.2.10/24", "gateway = 192.0.2.1"},
			want{on: "near", addresses: []string{"192.0.2.10/24"}, gateways: []string{"192.0.2.1"}, mtu: 1500},
		},
		"a card that is not there": {
			func(t *testing.T, e *elsewhere) { e.plug(t, "near", 1, 0, "192.0.2.1/24") },
			[]string{"interface = eth7", "address = 192.0.2.10/24"},
			want{on: "near", err: "interface eth7 not found; the machine has near (02:00:00:00:00:01)"},
		},
		"an IPv4 address that another machine has": {
			func(t *testing.T, e *elsewhere) { e.plug(t, "near", 1, 0, "192.0.2.10/24") },
			[]string{"address = 192.0.2.10/24"},
			want{on: "near", err: "another machine ("},
		},
		"an address that another machine has": {
			func(t *testing.T, e *elsewhere) { e.plug(t, "near", 1, 0, "2001:db8::10/64") },
			[]string{"address = 2001:db8::10/64"},
			want{on: "near", err: "another machine uses the address 2001:db8::10"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := freshNetwork(t)
			c.plug(t, newElsewhere(t))
			s := settings(t, c.settings...)
			if err := n.setServers(s.DNS); err != nil {
				t.Fatal(err)
			}
			err := n.connect(s)
			if c.want.err == "" && err != nil || c.want.err != "" && (err == nil || !strings.Contains(err.Error(), c.want.err)) {
				t.Fatalf("got %v", err)
			}
			if got := addressesOn(t, c.want.on); !slices.Equal(got, c.want.addresses) {
				t.Errorf("%s has %q", c.want.on, got)
			}
			for _, l := range []string{"near", "other"} {
				if l != c.want.on && len(addressesOn(t, l)) > 0 {
					t.Errorf("%s has %q too", l, addressesOn(t, l))
				}
			}
			if got := defaults(t); !slices.Equal(got, c.want.gateways) {
				t.Errorf("gateways: %q", got)
			}
			if c.want.mtu != 0 && mtu(t, c.want.on) != c.want.mtu {
				t.Errorf("the MTU is %d", mtu(t, c.want.on))
			}
			if b, err := os.ReadFile(n.resolvConf); err != nil || string(b) != c.want.servers {
				t.Errorf("resolv.conf: %q, %v", b, err)
			}
		})
	}
}

// The machine sets the static addresses of its settings only on an interface that has a cable.
func TestStaticAddressWaitsForACable(t *testing.T) {
	t.Parallel()
	if !inNetwork(t) {
		return
	}
	n := freshNetwork(t)
	e := newElsewhere(t)
	e.plug(t, "near", 1, 0, "192.0.2.1/24")
	there, err := e.LinkByName("tonear")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.LinkSetDown(there); err != nil {
		t.Fatal(err)
	}
	n.carrierWait = 300 * time.Millisecond
	if err := n.connect(settings(t, "address = 192.0.2.10/24")); err == nil || !strings.Contains(err.Error(), "no network interface has a carrier") || len(addressesOn(t, "near")) > 0 {
		t.Errorf("got %v, %q", err, addressesOn(t, "near"))
	}
	n.carrierWait = 10 * time.Second
	plugged := make(chan error, 1)
	go func() {
		time.Sleep(time.Second)
		plugged <- e.LinkSetUp(there)
	}()
	if err := n.connect(settings(t, "address = 192.0.2.10/24", "gateway = 192.0.2.1")); err != nil {
		t.Error(err)
	}
	if err := <-plugged; err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(addressesOn(t, "near")); got != "[192.0.2.10/24]" {
		t.Error(got)
	}
}
