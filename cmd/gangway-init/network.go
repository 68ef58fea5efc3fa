package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

const (
	// leaseWait is how long one interface may take to get an address.
	leaseWait = 15 * time.Second
	again     = 2 * time.Second
)

// network brings up the loopback and the first interface that gets an address,
// of IPv4 or of IPv6. It tries until it has one: without it there is nothing
// to do.
func network() {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		if err := netlink.LinkSetUp(lo); err != nil {
			say("lo: %v", err)
		}
	}
	go func() {
		if err := safely(routerServers); err != nil {
			say("name servers of routers: %v", err)
		}
	}()
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

// fourMore is how much longer IPv4 may take where IPv6 is there: networks with
// both are told of as both.
const fourMore = 3 * time.Second

// configure gives the interface what the network offers: an address by DHCP,
// and by router advertisements or DHCPv6. One of the two will do.
func configure(link netlink.Link) error {
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaseWait)
	four, six := make(chan error, 1), make(chan error, 1)
	var both sync.WaitGroup
	both.Go(func() { four <- safely(func() error { return configure4(ctx, link) }) })
	both.Go(func() { six <- safely(func() error { return configure6(ctx, link) }) })
	go func() { both.Wait(); cancel() }() // what is later than the other is still taken
	select {
	case err4 := <-four:
		if err4 == nil {
			return nil
		}
		if err6 := <-six; err6 != nil {
			return errors.Join(err4, err6)
		}
		return nil
	case err6 := <-six:
		if err6 != nil {
			return errors.Join(err6, <-four)
		}
		select {
		case <-four:
		case <-time.After(fourMore):
		}
		return nil
	}
}

// safely makes an error of a panic: what a network sends must not end the first
// process, and with it the machine.
func safely(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("what the network sent cannot be read: %v", v)
		}
	}()
	return f()
}

// configure4 gives the interface what DHCP offers (RFC 2131).
func configure4(ctx context.Context, link netlink.Link) error {
	name := link.Attrs().Name
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
	var servers []string
	for _, s := range ack.DNS() {
		servers = append(servers, s.String())
	}
	return got(name, address.String(), 0, servers)
}

// addressing is what is known of the network, for the screen and for
// /etc/resolv.conf.
var addressing struct {
	sync.Mutex
	addresses []string
	servers   [2][]string // by DHCP, and by IPv6
}

// resolvConf is where programs look for name servers.
var resolvConf = "/etc/resolv.conf"

// got notes an address, if there is a new one, and the name servers of a
// family, 0 for IPv4 and 1 for IPv6.
func got(name, address string, family int, servers []string) error {
	n := &addressing
	n.Lock()
	defer n.Unlock()
	if len(servers) > 0 {
		n.servers[family] = servers
		var text strings.Builder
		for i := range 3 { // more are not read
			for _, list := range n.servers {
				if i < len(list) {
					fmt.Fprintf(&text, "nameserver %s\n", list[i])
				}
			}
		}
		if err := os.MkdirAll(filepath.Dir(resolvConf), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(resolvConf, []byte(text.String()), 0o644); err != nil {
			return err
		}
	}
	if address != "" && !slices.Contains(n.addresses, address) {
		n.addresses = append(n.addresses, address)
		note("Network", fmt.Sprintf("%s has %s", name, strings.Join(n.addresses, ", ")))
	}
	return nil
}
