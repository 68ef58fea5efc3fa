package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// slaacWait is the time to wait for router advertisements before the machine asks a DHCPv6
	// server for an address.
	slaacWait = 3 * time.Second
	// dhcp6Wait is the time to wait for the answer of a DHCPv6 server.
	dhcp6Wait = 3 * time.Second
)

// configure6 waits for an IPv6 address. If routers advertise a network, the kernel itself sets
// addresses and routes (RFC 4862). Otherwise configure6 asks a DHCPv6 server for an address (RFC
// 8415).
func (n *Network) configure6(ctx context.Context, link netlink.Link) error {
	name, ask := link.Attrs().Name, time.Now().Add(slaacWait)
	for {
		address, err := globalAddress(link)
		if err != nil {
			return fmt.Errorf("IPv6: %w", err)
		}
		if address != nil {
			if !n.hasServers6() { // no router advertised name servers
				servers, err := askDHCPv6(ctx, link, false)
				if err == nil {
					err = n.learn(name, "", ipv6, servers)
				}
				if err != nil {
					n.screen.Logf("name servers of IPv6: %v", err)
				}
			}
			return n.learn(name, address.String(), ipv6, nil)
		}
		if time.Now().After(ask) {
			ask = time.Now().Add(slaacWait)
			if servers, err := askDHCPv6(ctx, link, true); err == nil {
				if err := n.learn(name, "", ipv6, servers); err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return errors.New("IPv6: no router advertises a network, and no DHCPv6 server answers")
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// globalAddress returns an address of the interface that is valid beyond the link and that no other
// machine uses. It returns nil if the interface has no such address yet.
func globalAddress(link netlink.Link) (*net.IPNet, error) {
	list, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return nil, err
	}
	return firstGlobal(list), nil
}

func firstGlobal(list []netlink.Addr) *net.IPNet {
	for _, a := range list {
		if a.Scope < int(netlink.SCOPE_LINK) && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_DEPRECATED) == 0 {
			return a.IPNet
		}
	}
	return nil
}

// askDHCPv6 asks a DHCPv6 server for name servers. If `address` is set, because no router
// advertised a network, askDHCPv6 also asks for an address and gives it to the interface.
func askDHCPv6(ctx context.Context, link netlink.Link, address bool) (servers []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, dhcp6Wait)
	defer cancel()
	c, err := nclient6.New(link.Attrs().Name, nclient6.WithTimeout(time.Second))
	if err != nil {
		return nil, fmt.Errorf("DHCPv6: %w", err)
	}
	defer c.Close()
	var reply *dhcpv6.Message
	if address {
		reply, err = c.RapidSolicit(ctx)
	} else {
		var m *dhcpv6.Message
		if m, err = dhcpv6.NewMessage(dhcpv6.WithRequestedOptions(dhcpv6.OptionDNSRecursiveNameServer)); err == nil {
			m.MessageType = dhcpv6.MessageTypeInformationRequest
			reply, err = c.SendAndRead(ctx, nclient6.AllDHCPRelayAgentsAndServers, m, nclient6.IsMessageType(dhcpv6.MessageTypeReply))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("DHCPv6: %w", err)
	}
	if address {
		for _, ia := range reply.Options.IANA() {
			for _, a := range ia.Options.Addresses() {
				ip := &net.IPNet{IP: a.IPv6Addr, Mask: net.CIDRMask(128, 128)} // a prefix of 128 bits, because only routers announce routes
				if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ip}); err != nil {
					return nil, fmt.Errorf("DHCPv6: address %s: %w", ip, err)
				}
			}
		}
	}
	for _, s := range reply.Options.DNS() {
		servers = append(servers, s.String())
	}
	return servers, nil
}

// ndUserOpt is the kernel's netlink group for options of router advertisements
// that programs handle (RTNLGRP_ND_USEROPT).
const ndUserOpt = 20

// listenForServers gets, from the kernel, the name servers that routers advertise. It returns only
// on an error.
func (n *Network) listenForServers() error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, ndUserOpt)
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		messages, _, err := s.Receive()
		if err != nil {
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				time.Sleep(100 * time.Millisecond)
				continue
			}
			return err
		}
		for _, m := range messages {
			if m.Header.Type != unix.RTM_NEWNDUSEROPT {
				continue
			}
			index, servers := parseRDNSS(m.Data)
			if len(servers) == 0 {
				continue
			}
			link, err := netlink.LinkByIndex(index)
			if err != nil {
				continue
			}
			if err := n.learn(link.Attrs().Name, "", ipv6, zoned(servers, link.Attrs().Name)); err != nil {
				n.screen.Logf("%v", err)
			}
		}
	}
}

// zoned returns addresses as text. A link-local address has the interface's name as its zone.
func zoned(servers []netip.Addr, link string) (list []string) {
	for _, a := range servers {
		if a.IsLinkLocalUnicast() {
			a = a.WithZone(link)
		}
		list = append(list, a.String())
	}
	return list
}

// maxServers is the maximum number of name servers that the machine uses from one router.
const maxServers = 3

// parseRDNSS reads a struct nduseroptmsg and the options after it. It returns the index of the
// interface and the name servers that a router advertises (RFC 8106, 5.1). It leaves out servers
// with the lifetime 0, because this lifetime means that the router withdraws the server.
func parseRDNSS(b []byte) (index int, servers []netip.Addr) {
	const head = 16 // bytes
	if len(b) < head || b[0] != unix.AF_INET6 {
		return 0, nil
	}
	size := int(binary.NativeEndian.Uint16(b[2:]))
	index = int(int32(binary.NativeEndian.Uint32(b[4:])))
	for b = b[head:min(head+size, len(b))]; len(b) >= 8; {
		n := 8 * int(b[1])
		if n == 0 || n > len(b) {
			return index, servers
		}
		if option := b[:n]; option[0] == 25 && binary.BigEndian.Uint32(option[4:]) > 0 {
			for at := option[8:]; len(at) >= 16 && len(servers) < maxServers; at = at[16:] {
				if a := netip.AddrFrom16([16]byte(at[:16])); a.Is6() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() {
					servers = append(servers, a)
				}
			}
		}
		b = b[n:]
	}
	return index, servers
}
