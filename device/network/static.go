package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"gangway/device/install"
	"gangway/device/install/netfile"
	"gangway/device/screen"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	vlanType = "vlan" // of a link, as netlink names it
	// carrierMore is how much longer the others may take once one interface has a
	// carrier.
	carrierMore = 2 * time.Second
	// duplicateWait is how long the kernel looks for another machine with an
	// address of IPv6, at most.
	duplicateWait = 5 * time.Second
	step          = 100 * time.Millisecond
)

// carrierWait is how long interfaces may take until one has a carrier, and
// neighbourWait how long a gateway may take to answer. Tests wait less.
var (
	carrierWait   = 10 * time.Second
	neighbourWait = 4 * time.Second
)

// liveNetworkPath is where a system without a disk has its network settings.
const liveNetworkPath = "/etc/gangway/" + netfile.Name

// Live reads the settings of a system without a disk.
func Live() (*netfile.Settings, error) {
	s, err := install.ReadNetwork(filepath.Dir(liveNetworkPath))
	if err != nil {
		return &netfile.Settings{}, fmt.Errorf("The network settings cannot be used: %w", err) //lint:ignore ST1005 it is shown to a person
	}
	return s, nil
}

// prepare brings an interface up, with its MTU, and makes the VLAN's on it,
// which it returns if there is one.
func prepare(link netlink.Link, s *netfile.Settings) (netlink.Link, error) {
	a := link.Attrs()
	// A VLAN's frames may be no longer than those of the interface below it.
	if s.MTU != 0 && (s.VLAN == 0 || s.MTU > a.MTU) {
		if err := netlink.LinkSetMTU(link, s.MTU); err != nil {
			return nil, fmt.Errorf("MTU %d: %w; the interface may not be able to", s.MTU, err)
		}
	}
	if s.VLAN == 0 {
		if err := ownAddresses(a.Name, s); err != nil {
			return nil, err
		}
		return link, up(link)
	}
	// Nothing of the network without a tag is wanted.
	if err := setIPv6(a.Name, "disable_ipv6", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := up(link); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("vlan%d", s.VLAN)
	vlan, err := netlink.LinkByName(name)
	if err == nil && vlan.Attrs().ParentIndex != a.Index { // of an interface that was tried before
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
		return nil, fmt.Errorf("VLAN %d: %w; is the module 8021q there?", s.VLAN, err)
	}
	if err := ownAddresses(name, s); err != nil {
		return nil, err
	}
	return vlan, up(vlan)
}

func up(link netlink.Link) error {
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	return nil
}

// setIPv6 sets what the kernel does with IPv6 on an interface.
func setIPv6(name, key, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", name, key), []byte(value), 0o644)
}

// ownAddresses has the kernel make no addresses of IPv6 where there is a static
// one, and, where there is a gateway too, take no routes from routers.
func ownAddresses(name string, s *netfile.Settings) error {
	if !s.Static(6) {
		return nil
	}
	if err := setIPv6(name, "autoconf", "0"); err != nil {
		return fmt.Errorf("IPv6: %w", err)
	}
	if _, ok := gatewayOf(s, false); !ok {
		return nil
	}
	if err := setIPv6(name, "accept_ra", "0"); err != nil {
		return fmt.Errorf("IPv6: %w", err)
	}
	return nil
}

// gatewayOf is the gateway of a family.
func gatewayOf(s *netfile.Settings, four bool) (netip.Addr, bool) {
	for _, g := range s.Gateways {
		if g.Is4() == four {
			return g, true
		}
	}
	return netip.Addr{}, false
}

// connected brings interfaces up and returns those that have a carrier.
func connected(links []netlink.Link) []netlink.Link {
	for _, link := range links {
		if err := up(link); err != nil {
			screen.Say("%s: %v", link.Attrs().Name, err)
		}
	}
	until := time.Now().Add(carrierWait)
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
		time.Sleep(step)
	}
}

// static gives an interface an address, and its family's gateway.
func static(link netlink.Link, address netip.Prefix, s *netfile.Settings) error {
	if address.Addr().Is4() {
		if err := unused(link, address.Addr()); err != nil {
			return err
		}
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(address)}); err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	if !address.Addr().Is4() {
		if err := unique(link, address); err != nil {
			return err
		}
	}
	if g, ok := gatewayOf(s, address.Addr().Is4()); ok {
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: g.AsSlice()}); err != nil {
			return fmt.Errorf("gateway %s: %w", g, err)
		}
	}
	return got(link.Attrs().Name, address.String(), family(address.Addr()), nil)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// family is an address's, as got counts them.
func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// unique waits until the kernel has found no other machine with an address of
// IPv6 (duplicate address detection, RFC 4862).
func unique(link netlink.Link, address netip.Prefix) error {
	for until := time.Now().Add(duplicateWait); ; time.Sleep(step) {
		list, err := netlink.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		flags := unix.IFA_F_DADFAILED // it has gone
		for _, a := range list {
			if own, ok := netip.AddrFromSlice(a.IP); ok && own == address.Addr() {
				flags = a.Flags
			}
		}
		switch {
		case flags&unix.IFA_F_DADFAILED != 0:
			return fmt.Errorf("another machine has the address %s", address.Addr())
		case flags&unix.IFA_F_TENTATIVE == 0:
			return nil
		case time.Now().After(until):
			return fmt.Errorf("the address %s cannot be used yet", address.Addr())
		}
	}
}

// unset takes static addresses off an interface, and their routes with them.
func unset(link netlink.Link, s *netfile.Settings) (err error) {
	for _, a := range s.Addresses {
		gone := netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(a)})
		if gone != nil && !errors.Is(gone, unix.EADDRNOTAVAIL) {
			err = errors.Join(err, gone)
		}
		lost(a.String())
	}
	return err
}

// anyGateway reports whether one of the gateways is there: the network may be
// another one than the settings are for. Without gateways there is none to miss;
// otherwise it returns the last that did not answer.
func anyGateway(link netlink.Link, s *netfile.Settings) (last netip.Addr, answered bool) {
	for _, g := range s.Gateways {
		if answers(link, g) {
			return g, true
		}
		last = g
	}
	return last, len(s.Gateways) == 0
}

// answers reports whether a neighbour tells its hardware's address. A datagram
// to the port that discards makes the kernel ask for it.
func answers(link netlink.Link, g netip.Addr) bool {
	if g.IsLinkLocalUnicast() {
		g = g.WithZone(link.Attrs().Name)
	}
	kind := netlink.FAMILY_V6
	if g.Is4() {
		kind = netlink.FAMILY_V4
	}
	for until := time.Now().Add(neighbourWait); time.Now().Before(until); time.Sleep(step) {
		if c, err := net.Dial("udp", netip.AddrPortFrom(g, 9).String()); err == nil {
			c.Write([]byte{0})
			c.Close()
		}
		list, err := netlink.NeighList(link.Attrs().Index, kind)
		if err != nil {
			return true // it cannot be told
		}
		for _, n := range list {
			if a, ok := netip.AddrFromSlice(n.IP); ok && a.Unmap() == g.WithZone("") && n.State&(netlink.NUD_INCOMPLETE|netlink.NUD_FAILED|netlink.NUD_NONE) == 0 {
				return true
			}
		}
	}
	return false
}
