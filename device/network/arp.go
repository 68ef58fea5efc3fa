package network

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Probes before a static address of IPv4 is used (RFC 5227). Somebody waits for
// this machine, so they come faster than there. Tests wait less.
const probes = 3

var probeWait = 500 * time.Millisecond // after each

// An ARP packet for Ethernet and IPv4 (RFC 826), without the Ethernet header.
const (
	arpSize    = 28 // bytes
	arpRequest = 1
)

// probe is a question who has an address, by a machine that has none yet.
func probe(own net.HardwareAddr, address netip.Addr) []byte {
	p := make([]byte, arpSize)
	copy(p, []byte{0, 1, 8, 0, 6, 4, 0, arpRequest}) // Ethernet, IPv4, their sizes
	copy(p[8:], own)
	copy(p[24:], address.AsSlice())
	return p
}

// holder is the other machine that an ARP packet tells has an address, or wants
// it at the same time; nil: it tells nothing of that.
func holder(p []byte, own net.HardwareAddr, address netip.Addr) net.HardwareAddr {
	if len(p) < arpSize || !bytes.Equal(p[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return nil
	}
	sender, from, asked := net.HardwareAddr(bytes.Clone(p[8:14])), [4]byte(p[14:18]), [4]byte(p[24:28])
	want := address.As4()
	if bytes.Equal(sender, own) || from != want && (from != [4]byte{} || asked != want) {
		return nil
	}
	return sender
}

// unused asks whether another machine has an address of IPv4. That it cannot be
// asked is no error: the address may be used.
func unused(link netlink.Link, address netip.Addr) error {
	own := link.Attrs().HardwareAddr
	protocol := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ARP)) // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	here := &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Attrs().Index}
	if err := unix.Bind(fd, here); err != nil {
		return nil
	}
	all := &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Attrs().Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	buf := make([]byte, 128)
	for range probes {
		if err := unix.Sendto(fd, probe(own, address), 0, all); err != nil {
			return nil
		}
		for until := time.Now().Add(probeWait); ; {
			left := time.Until(until)
			if left <= 0 {
				break
			}
			wait := unix.NsecToTimeval(left.Nanoseconds())
			if wait.Sec == 0 && wait.Usec == 0 {
				break // 0 would be for ever
			}
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
				return nil
			}
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				continue // EAGAIN, EINTR: the time tells
			}
			if other := holder(buf[:n], own, address); other != nil {
				return fmt.Errorf("another machine, %s, has the address %s", other, address)
			}
		}
	}
	return nil
}
