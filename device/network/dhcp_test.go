package network

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"
)

// inNetwork runs a test again, in a separate process and network namespace, without root. It
// reports whether the current process is that separate process. In the separate process, the
// variable GANGWAY_NETWORK names a folder for the test's files. The folder exists until the
// separate process has ended.
func inNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv("GANGWAY_NETWORK") != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "GANGWAY_NETWORK="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if _, ran := err.(*exec.ExitError); err != nil && !ran {
		t.Skipf("this kernel allows no network namespace: %v", err)
	}
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	return false
}

// cable makes two interfaces that a simulated cable connects. The second interface has an address.
func cable(t *testing.T) (near netlink.Link, far string) {
	t.Helper()
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "near"}, PeerName: "far"}); err != nil {
		t.Skipf("this kernel makes no interfaces: %v", err)
	}
	server, err := netlink.LinkByName("far")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(server, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 9, 0, 1), Mask: net.CIDRMask(24, 32)}}); err != nil {
		t.Fatal(err)
	}
	if near, err = netlink.LinkByName("near"); err != nil {
		t.Fatal(err)
	}
	for _, l := range []netlink.Link{server, near} {
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
	return near, "far"
}

// dhcpServer leases one address for a few seconds. It renews the lease once; after that it refuses,
// and leases another address.
type dhcpServer struct {
	mu       sync.Mutex
	renewals int // guarded by mu
}

func (d *dhcpServer) address() net.IP {
	if d.renewals >= 2 {
		return net.IPv4(10, 9, 0, 20)
	}
	return net.IPv4(10, 9, 0, 10)
}

func (d *dhcpServer) answer(conn net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4) {
	d.mu.Lock()
	defer d.mu.Unlock()
	kind := dhcpv4.MessageTypeOffer
	if m.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
		if had := m.ClientIPAddr.To4(); had != nil && !had.IsUnspecified() { // a renewal
			if !had.Equal(d.address()) {
				kind = dhcpv4.MessageTypeNak
			}
			d.renewals++
		}
	}
	reply, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithServerIP(net.IPv4(10, 9, 0, 1)), dhcpv4.WithYourIP(d.address()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 9, 0, 1))), dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithLeaseTime(4),
		dhcpv4.WithDNS(net.IPv4(10, 9, 0, 53)))
	if err != nil {
		return
	}
	conn.WriteTo(reply.ToBytes(), peer)
}

// The machine's DHCP client talks to a real DHCP server over a simulated cable. The machine renews
// a lease before the lease ends. If the server refuses to renew the lease, the machine removes the
// lease's address and uses the server's next address.
func TestLeaseIsRenewedAndGivenUp(t *testing.T) {
	if testing.Short() {
		t.Skip("leases end after seconds; TestLeaseIsKept has the same rules on a fake")
	}
	t.Parallel()
	if !inNetwork(t) {
		return
	}
	link, far := cable(t)
	d := new(dhcpServer)
	server, err := server4.NewServer(far, &net.UDPAddr{IP: net.IPv4zero, Port: 67}, d.answer)
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve()
	defer server.Close()
	n, _ := testNetwork(t)
	if err := n.configure4(t.Context(), link); err != nil {
		t.Fatal(err)
	}
	addresses := func() (out []string) {
		list, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			out = append(out, a.IPNet.String())
		}
		return out
	}
	if got := addresses(); !slices.Equal(got, []string{"10.9.0.10/24"}) {
		t.Errorf("addresses: %v", got)
	}
	wait := func(what string, is func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("no %s within a minute; addresses %v", what, addresses())
			}
		}
	}
	renewals := func() int { d.mu.Lock(); defer d.mu.Unlock(); return d.renewals }
	wait("renewal", func() bool { return renewals() > 0 })
	wait("other address", func() bool { return slices.Equal(addresses(), []string{"10.9.0.20/24"}) })
	now := renewals()
	wait("renewal of it", func() bool { return renewals() > now })
	n.mu.Lock()
	defer n.mu.Unlock()
	if got := fmt.Sprint(n.addresses); got != "[10.9.0.20/24]" {
		t.Errorf("shown: %s", got)
	}
}
