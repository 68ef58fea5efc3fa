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

// probes is the number of ARP probes that the machine sends for a static IPv4 address before it
// uses the address (RFC 5227). The pauses between the probes are shorter than in the RFC, because a
// person may be waiting for the machine.
const probes = 3

// Fields of an ARP packet for Ethernet and IPv4 (RFC 826), without the Ethernet header.
const (
	arpSize    = 28 // bytes
	arpRequest = 1
)

// The function `probe` returns an ARP probe: an ARP request that asks whether a machine uses
// `address`, and in which the sender's IPv4 address is zero.
func probe(own net.HardwareAddr, address netip.Addr) []byte {
	p := make([]byte, arpSize)
	copy(p, []byte{0, 1, 8, 0, 6, 4, 0, arpRequest}) // Ethernet, IPv4, and the sizes of their addresses
	copy(p[8:], own)
	copy(p[24:], address.AsSlice())
	return p
}

// conflict examines an ARP packet. If the packet shows that another machine uses the address, or
// probes for it at the same time, conflict returns the hardware address of the packet's sender.
// Otherwise it returns nil.
func conflict(p []byte, own net.HardwareAddr, address netip.Addr) net.HardwareAddr {
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

// checkUnused returns an error if another machine uses an IPv4 address. If the probes cannot be
// sent, it returns nil, so that the machine uses the address.
func (n *Network) checkUnused(link netlink.Link, address netip.Addr) error {
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
		for until := time.Now().Add(n.probeWait); ; {
			left := time.Until(until)
			if left <= 0 {
				break
			}
			wait := unix.NsecToTimeval(left.Nanoseconds())
			if wait.Sec == 0 && wait.Usec == 0 {
				break // a timeout of 0 would mean no timeout
			}
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
				return nil
			}
			size, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				continue // EAGAIN or EINTR: the loop ends at its deadline
			}
			if other := conflict(buf[:size], own, address); other != nil {
				return fmt.Errorf("another machine (%s) uses the address %s; set another address", other, address)
			}
		}
	}
	return nil
}
