package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

const (
	// leaseWait is how long one interface may take to get an address.
	leaseWait = 15 * time.Second
	again     = 2 * time.Second
)

// network brings up the loopback and the first interface that gets an address
// by DHCP (RFC 2131). It tries until it has one: without it there is nothing
// to do.
func network() {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		if err := netlink.LinkSetUp(lo); err != nil {
			say("lo: %v", err)
		}
	}
	last := ""
	for {
		err := firstAddress()
		if err == nil {
			return
		}
		if err.Error() != last { // say the same thing once
			last = err.Error()
			alarm("No network: check the cable.")
			say("no network yet: %v", err)
		}
		time.Sleep(again)
	}
}

func firstAddress() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range links {
		a := link.Attrs()
		if a.Flags&net.FlagLoopback != 0 || len(a.HardwareAddr) != 6 {
			continue
		}
		err := configure(link)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", a.Name, err))
	}
	if len(errs) == 0 {
		return errors.New("no network interface; is its driver's module there?")
	}
	return errors.Join(errs...)
}

// configure gives the interface what DHCP offers.
func configure(link netlink.Link) error {
	name := link.Attrs().Name
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaseWait)
	defer cancel()
	client, err := nclient4.New(name, nclient4.WithTimeout(2*time.Second))
	if err != nil {
		return fmt.Errorf("DHCP: %w", err)
	}
	defer client.Close()
	lease, err := client.Request(ctx)
	if err != nil {
		return fmt.Errorf("DHCP: %w; is the cable in?", err)
	}
	ack := lease.ACK
	address := &net.IPNet{IP: ack.YourIPAddr, Mask: ack.SubnetMask()}
	if address.Mask == nil {
		address.Mask = address.IP.DefaultMask()
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: address}); err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	if routers := ack.Router(); len(routers) > 0 {
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: routers[0]}); err != nil {
			return fmt.Errorf("router %s: %w", routers[0], err)
		}
	}
	var resolv strings.Builder
	for _, s := range ack.DNS() {
		fmt.Fprintf(&resolv, "nameserver %s\n", s)
	}
	if err := os.MkdirAll("/etc", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile("/etc/resolv.conf", []byte(resolv.String()), 0o644); err != nil {
		return err
	}
	note("Network", fmt.Sprintf("%s has %s", name, address))
	return nil
}
