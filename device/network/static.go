package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"gangway/device/install/netfile"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	vlanType = "vlan" // of a link, as netlink names it
	// carrierMore is the additional time to wait for other interfaces after one interface has a
	// carrier.
	carrierMore = 2 * time.Second
	// duplicateWait is the time to wait until the kernel has checked that no other machine uses an
	// IPv6 address.
	duplicateWait = 5 * time.Second
	pollEvery     = 100 * time.Millisecond
)

// bringUp sets an interface up, with the MTU of the settings, and returns the interface. If the
// settings name a VLAN, bringUp makes the VLAN on the interface and returns the VLAN instead.
func bringUp(link netlink.Link, s *netfile.Settings) (netlink.Link, error) {
	a := link.Attrs()
	// A VLAN's frames must not be longer than the frames of the interface below the VLAN.
	if s.MTU != 0 && (s.VLAN == 0 || s.MTU > a.MTU) {
		if err := netlink.LinkSetMTU(link, s.MTU); err != nil {
			return nil, fmt.Errorf("MTU %d: %w; the interface may not support it", s.MTU, err)
		}
	}
	if s.VLAN == 0 {
		if err := disableAutomatic6(a.Name, s); err != nil {
			return nil, err
		}
		return link, up(link)
	}
	// With a VLAN, the untagged network must not give the machine any address.
	if err := setIPv6(a.Name, "disable_ipv6", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := up(link); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("vlan%d", s.VLAN)
	vlan, err := netlink.LinkByName(name)
	if err == nil && vlan.Attrs().ParentIndex != a.Index { // an earlier attempt made this VLAN on another interface
		err = netlink.LinkDel(vlan)
		vlan = nil
	}
	if vlan == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex, attrs.MTU = name, a.Index, s.MTU
		if err = netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: s.VLAN}); err == nil {
			vlan, err = netlink.LinkByName(name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("VLAN %d: %w; the image may lack the module 8021q", s.VLAN, err)
	}
	if err := disableAutomatic6(name, s); err != nil {
		return nil, err
	}
	return vlan, up(vlan)
}

func up(link netlink.Link) error {
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting the interface up: %w", err)
	}
	return nil
}

// setIPv6 sets one of the kernel's IPv6 settings of an interface
// (Documentation/networking/ip-sysctl.rst).
func setIPv6(name, key, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", name, key), []byte(value), 0o644)
}

// If the settings have a static IPv6 address, disableAutomatic6 stops the kernel from making IPv6
// addresses. If the settings also have an IPv6 gateway, it stops the kernel from using the routes
// that routers advertise.
func disableAutomatic6(name string, s *netfile.Settings) error {
	if !s.Static(6) {
		return nil
	}
	if err := setIPv6(name, "autoconf", "0"); err != nil {
		return fmt.Errorf("IPv6: %w", err)
	}
	if _, ok := gatewayOf(s, ipv6); !ok {
		return nil
	}
	if err := setIPv6(name, "accept_ra", "0"); err != nil {
		return fmt.Errorf("IPv6: %w", err)
	}
	return nil
}

// gatewayOf returns the gateway of a family, and whether the settings have such a gateway.
func gatewayOf(s *netfile.Settings, f family) (netip.Addr, bool) {
	for _, g := range s.Gateways {
		if familyOf(g) == f {
			return g, true
		}
	}
	return netip.Addr{}, false
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// withCarrier sets interfaces up. It returns the interfaces that have a carrier within carrierWait.
func (n *Network) withCarrier(links []netlink.Link) []netlink.Link {
	for _, link := range links {
		if err := up(link); err != nil {
			n.screen.Logf("%s: %v", link.Attrs().Name, err)
		}
	}
	until := time.Now().Add(n.carrierWait)
	for {
		var with []netlink.Link
		for _, link := range links {
			now, err := netlink.LinkByIndex(link.Attrs().Index)
			if err == nil && now.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
				with = append(with, now)
			}
		}
		if len(with) == len(links) || time.Now().After(until) {
			return with
		}
		if soon := time.Now().Add(carrierMore); len(with) > 0 && until.After(soon) {
			until = soon
		}
		time.Sleep(pollEvery)
	}
}

// addStatic gives an interface a static address, and the gateway of the address's family. It fails
// if another machine uses the address.
func (n *Network) addStatic(link netlink.Link, address netip.Prefix, s *netfile.Settings) error {
	f := familyOf(address.Addr())
	if f == ipv4 {
		if err := n.checkUnused(link, address.Addr()); err != nil {
			return err
		}
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(address)}); err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	if f == ipv6 {
		if err := checkUnused6(link, address); err != nil {
			return err
		}
	}
	if g, ok := gatewayOf(s, f); ok {
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: g.AsSlice()}); err != nil {
			return fmt.Errorf("gateway %s: %w", g, err)
		}
	}
	return n.learn(link.Attrs().Name, address.String(), f, nil)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// checkUnused6 waits until the kernel has checked that no other machine uses an IPv6 address of the
// interface (duplicate address detection, RFC 4862). It returns an error if another machine uses
// the address.
func checkUnused6(link netlink.Link, address netip.Prefix) error {
	for until := time.Now().Add(duplicateWait); ; time.Sleep(pollEvery) {
		list, err := netlink.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		flags := unix.IFA_F_DADFAILED // an address that is not in the list counts as a duplicate, because the kernel may have removed a duplicate address
		for _, a := range list {
			if own, ok := netip.AddrFromSlice(a.IP); ok && own == address.Addr() {
				flags = a.Flags
			}
		}
		switch {
		case flags&unix.IFA_F_DADFAILED != 0:
			return fmt.Errorf("another machine uses the address %s; set another address", address.Addr())
		case flags&unix.IFA_F_TENTATIVE == 0:
			return nil
		case time.Now().After(until):
			return fmt.Errorf("the kernel has not finished checking whether another machine uses the address %s", address.Addr())
		}
	}
}

// removeStatic removes the static addresses from an interface. The kernel then also removes the
// routes of these addresses.
func (n *Network) removeStatic(link netlink.Link, s *netfile.Settings) (err error) {
	for _, a := range s.Addresses {
		gone := netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(a)})
		if gone != nil && !errors.Is(gone, unix.EADDRNOTAVAIL) {
			err = errors.Join(err, gone)
		}
		n.forget(a.String())
	}
	return err
}

// checkGateways returns an error if the settings have gateways and no gateway answers. Then the
// interface may be connected to a network other than the one that the settings are for.
func (n *Network) checkGateways(link netlink.Link, s *netfile.Settings) (silent error) {
	for _, g := range s.Gateways {
		if n.answers(link, g) {
			return nil
		}
		silent = fmt.Errorf("the gateway %s does not answer on %s", g, link.Attrs().Name)
	}
	return silent
}

// The method `answers` reports whether a neighbour answers with its hardware address. It sends a
// datagram to the neighbour's discard port, so that the kernel asks for the hardware address.
func (n *Network) answers(link netlink.Link, neighbour netip.Addr) bool {
	if neighbour.IsLinkLocalUnicast() {
		neighbour = neighbour.WithZone(link.Attrs().Name)
	}
	kind := netlink.FAMILY_V6
	if neighbour.Is4() {
		kind = netlink.FAMILY_V4
	}
	for until := time.Now().Add(n.neighbourWait); time.Now().Before(until); time.Sleep(pollEvery) {
		if c, err := net.Dial("udp", netip.AddrPortFrom(neighbour, 9).String()); err == nil {
			c.Write([]byte{0})
			c.Close()
		}
		list, err := netlink.NeighList(link.Attrs().Index, kind)
		if err != nil {
			return true // the kernel does not report neighbours, so assume that the neighbour answers
		}
		for _, e := range list {
			if a, ok := netip.AddrFromSlice(e.IP); ok && a.Unmap() == neighbour.WithZone("") && e.State&(netlink.NUD_INCOMPLETE|netlink.NUD_FAILED|netlink.NUD_NONE) == 0 {
				return true
			}
		}
	}
	return false
}
