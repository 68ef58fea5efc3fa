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

// addressing is what is known of the network, for the screen and for
// /etc/resolv.conf.
var addressing struct {
	sync.Mutex
	addresses []string
	servers   [2][]string // by DHCP, and by IPv6
}

// lost takes an address off what is shown.
func lost(address string) {
	addressing.Lock()
	defer addressing.Unlock()
	addressing.addresses = slices.DeleteFunc(addressing.addresses, func(a string) bool { return a == address })
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
