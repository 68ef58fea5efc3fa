package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gangway/device/install/netfile"
	"gangway/device/screen"

	"github.com/vishvananda/netlink"
)

const (
	// leaseWait is how long one interface may take to get an address.
	leaseWait = 15 * time.Second
	again     = 2 * time.Second
)

// Up brings up the loopback and the first interface that the settings fit
// and that gets an address, of IPv4 or of IPv6. It tries until it has one:
// without it there is nothing to do.
func Up(s *netfile.Settings) {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		if err := netlink.LinkSetUp(lo); err != nil {
			screen.Say("lo: %v", err)
		}
	}
	for _, line := range s.Masked() {
		screen.Say("network setting: %s", line)
	}
	if err := nameServers(s.DNS); err != nil {
		screen.Say("name servers: %v", err)
	}
	if err := forAgent(s); err != nil {
		screen.Say("the agent's network settings: %v", err)
	}
	go func() {
		if err := safely(routerServers); err != nil {
			screen.Say("name servers of routers: %v", err)
		}
	}()
	last := ""
	for {
		err := firstAddress(s)
		if err == nil {
			return
		}
		if err.Error() != last { // say the same thing once
			last = err.Error()
			screen.Alarm("No network: %s.", advice(s))
			screen.Say("no network yet: %v", err)
		}
		time.Sleep(again)
	}
}

// AgentPath is where the agent finds the settings, in memory: the proxy's
// password is in them.
const AgentPath = "/run/gangway-network.txt"

func forAgent(s *netfile.Settings) error {
	return os.WriteFile(AgentPath, []byte(s.Text()), 0o600)
}

// advice is what a person may do about a network that does not work.
func advice(s *netfile.Settings) string {
	if s.Empty() {
		return "check the cable"
	}
	return "check the cable, and the network settings (" + netfile.Name + ")"
}

// firstAddress configures the first interface with which that works.
func firstAddress(s *netfile.Settings) error {
	links, err := candidates(s)
	if err != nil {
		return err
	}
	if len(s.Addresses) > 0 { // nothing but its carrier tells a network from none
		if links = connected(links); len(links) == 0 {
			return errors.New("no interface has a carrier; is the cable in?")
		}
	}
	var errs []error
	for _, link := range links {
		err := configure(link, s, len(links) == 1)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", link.Attrs().Name, err))
	}
	return errors.Join(errs...)
}

// candidates are the interfaces of the machine that the settings allow.
func candidates(s *netfile.Settings) ([]netlink.Link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var links []netlink.Link
	var names []string
	for _, link := range all {
		a := link.Attrs()
		if a.Flags&net.FlagLoopback != 0 || len(a.HardwareAddr) != 6 || link.Type() == vlanType {
			continue
		}
		names = append(names, fmt.Sprintf("%s (%s)", a.Name, a.HardwareAddr))
		if s.Interface == "" || s.Interface == a.Name || s.Interface == a.HardwareAddr.String() {
			links = append(links, link)
		}
	}
	switch {
	case len(links) > 0:
		return links, nil
	case len(names) == 0:
		return nil, errors.New("no network interface; is its driver's module there?")
	}
	return nil, fmt.Errorf("there is no interface %s; there are %s", s.Interface, strings.Join(names, ", "))
}

// fourMore is how much longer IPv4 may take where IPv6 is there: networks with
// both are told of as both.
const fourMore = 3 * time.Second

// configure gives the interface its static addresses, or what the network offers:
// an address by DHCP, and by router advertisements or DHCPv6. One family will do.
// Where it is the only one, it is taken although its gateway does not answer: the
// hub may be nearer.
func configure(link netlink.Link, s *netfile.Settings, only bool) error {
	link, err := prepare(link, s)
	if err != nil {
		return err
	}
	if len(s.Addresses) == 0 {
		return automaticAddress(link)
	}
	for _, a := range s.Addresses {
		if err := static(link, a, s); err != nil {
			return errors.Join(err, unset(link, s))
		}
	}
	if g, answered := anyGateway(link, s); !answered {
		silent := fmt.Errorf("the gateway %s does not answer on %s", g, link.Attrs().Name)
		if !only {
			return errors.Join(silent, unset(link, s))
		}
		screen.Alarm("%v.", silent)
	}
	go func() { // the other family is automatic, and may have nothing
		ctx, cancel := context.WithTimeout(context.Background(), leaseWait)
		defer cancel()
		if !s.Static(4) {
			safely(func() error { return configure4(ctx, link) })
		}
		if !s.Static(6) {
			safely(func() error { return configure6(ctx, link) })
		}
	}()
	return nil
}

// automaticAddress waits for what the network offers.
func automaticAddress(link netlink.Link) error {
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
var addressing known

type known struct {
	sync.Mutex
	addresses []string
	servers   [2][]string // by DHCP, and by IPv6
	fixed     bool        // the settings name the servers
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
	if len(servers) > 0 && !n.fixed {
		n.servers[family] = servers
		if err := n.resolve(); err != nil {
			return err
		}
	}
	if address != "" && !slices.Contains(n.addresses, address) {
		n.addresses = append(n.addresses, address)
		screen.Note("Network", fmt.Sprintf("%s has %s", name, strings.Join(n.addresses, ", ")))
	}
	return nil
}

// resolve writes resolvConf. The caller holds the lock.
func (n *known) resolve() error {
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
	return os.WriteFile(resolvConf, []byte(text.String()), 0o644)
}

// nameServers sets the name servers that the settings name, if they do.
func nameServers(servers []netip.Addr) error {
	if len(servers) == 0 {
		return nil
	}
	n := &addressing
	n.Lock()
	defer n.Unlock()
	n.fixed, n.servers = true, [2][]string{}
	for _, s := range servers {
		n.servers[0] = append(n.servers[0], s.String())
	}
	return n.resolve()
}
