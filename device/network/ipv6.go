package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"gangway/device/screen"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// slaacWait is how long routers may take to say which addresses there are,
// before a DHCPv6 server is asked for one.
const slaacWait = 3 * time.Second

// configure6 waits for an address of IPv6. Where routers advertise a network the
// kernel makes the addresses and routes itself (RFC 4862); else a DHCPv6 server
// may have one (RFC 8415).
func configure6(ctx context.Context, link netlink.Link) error {
	name, ask := link.Attrs().Name, time.Now().Add(slaacWait)
	for {
		address, err := globalAddress(link)
		if err != nil {
			return fmt.Errorf("IPv6: %w", err)
		}
		if address != nil {
			if !named() { // where the routers do not say it a DHCPv6 server may
				servers, err := ask6(ctx, link, false)
				if err == nil {
					err = got(name, "", 1, servers)
				}
				if err != nil {
					screen.Say("name servers of IPv6: %v", err)
				}
			}
			return got(name, address.String(), 1, nil)
		}
		if time.Now().After(ask) {
			ask = time.Now().Add(slaacWait)
			if servers, err := ask6(ctx, link, true); err == nil {
				if err := got(name, "", 1, servers); err != nil {
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

// globalAddress is an address of the interface that is good beyond its network,
// and that nobody else has; nil: there is none yet.
func globalAddress(link netlink.Link) (*net.IPNet, error) {
	list, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		if a.Scope < int(netlink.SCOPE_LINK) && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_DEPRECATED) == 0 {
			return a.IPNet, nil
		}
	}
	return nil, nil
}

// named reports whether name servers are known of IPv6, or no more are wanted.
func named() bool {
	addressing.Lock()
	defer addressing.Unlock()
	return addressing.fixed || len(addressing.servers[1]) > 0
}

// askWait is how long a DHCPv6 server may take.
const askWait = 3 * time.Second

// ask6 asks a DHCPv6 server for name servers, and for an address if the routers
// gave none.
func ask6(ctx context.Context, link netlink.Link, address bool) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
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
				ip := &net.IPNet{IP: a.IPv6Addr, Mask: net.CIDRMask(128, 128)} // routes are the routers' to give
				if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ip}); err != nil {
					return nil, fmt.Errorf("DHCPv6: address %s: %w", ip, err)
				}
			}
		}
	}
	var servers []string
	for _, s := range reply.Options.DNS() {
		servers = append(servers, s.String())
	}
	return servers, nil
}

// ndUserOpt is the kernel's group of what routers say that is for programs
// (RTNLGRP_ND_USEROPT).
const ndUserOpt = 20

// routerServers listens to the kernel for the name servers that routers
// advertise, for ever.
func routerServers() error {
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
			index, servers := advertised(m.Data)
			if len(servers) == 0 {
				continue
			}
			link, err := netlink.LinkByIndex(index)
			if err != nil {
				continue
			}
			var list []string
			for _, a := range servers {
				if a.IsLinkLocalUnicast() {
					a = a.WithZone(link.Attrs().Name)
				}
				list = append(list, a.String())
			}
			if err := got(link.Attrs().Name, "", 1, list); err != nil {
				screen.Say("%v", err)
			}
		}
	}
}

// maxServers bounds what is kept of a router's list.
const maxServers = 3

// advertised reads a struct nduseroptmsg with the options behind it, and returns
// the interface and the name servers of a router (RFC 8106, 5.1): those that it
// does not take back.
func advertised(b []byte) (index int, servers []netip.Addr) {
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
