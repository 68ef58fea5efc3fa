// Package network connects the machine to the network. It gets addresses by DHCP, IPv6 router
// advertisements and DHCPv6. A file with network settings (netfile.Settings) can name the
// interface, VLAN, MTU, static addresses, gateways and name servers instead.
//
// The package uses the first interface that gets an address, with one address family or both. It
// renews leases for as long as the program runs.
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

	"gangway/device/install"
	"gangway/device/install/netfile"

	"github.com/vishvananda/netlink"
)

const (
	// leaseWait is the time to wait for an address on one interface.
	leaseWait = 15 * time.Second
	// retryWait is the time between two attempts.
	retryWait = 2 * time.Second
	// fourWait is the additional time to wait for IPv4 after IPv6 is configured. So the screen can
	// show the addresses of both families if the network has both.
	fourWait = 3 * time.Second
)

// SettingsPath is the path of the network settings for the agent. The file is in memory, because
// the settings may contain the proxy's password.
const SettingsPath = "/run/gangway-network.txt"

// Screen shows the state of the network to the person at the machine.
type Screen interface {
	Logf(format string, args ...any)
	Alarmf(format string, args ...any)
	Fact(name, value string)
}

// Network is the machine's network. New sets its fields; tests set shorter times.
type Network struct {
	screen       Screen
	settingsPath string // SettingsPath
	resolvConf   string // path of the file in which programs look for name servers

	// carrierWait is the time to wait for a carrier on any interface. neighbourWait is the time to
	// wait for the answer of a gateway. probeWait is the time to wait for an answer to each ARP
	// probe.
	carrierWait, neighbourWait, probeWait time.Duration

	mu        sync.Mutex
	addresses []string    // for the screen; guarded by mu
	servers   [2][]string // name servers, by family; guarded by mu
	fixed     bool        // if set, the settings name the name servers, and the machine ignores the network's name servers; guarded by mu
}

// family is an address family.
type family int

const (
	ipv4 family = iota
	ipv6
)

// New returns a Network that reports to a screen.
func New(s Screen) *Network {
	return &Network{
		screen: s, settingsPath: SettingsPath, resolvConf: "/etc/resolv.conf",
		carrierWait: 10 * time.Second, neighbourWait: 4 * time.Second, probeWait: 500 * time.Millisecond,
	}
}

// livePath is the path of the network settings of a system without a disk.
const livePath = "/etc/gangway/" + netfile.Name

// LiveSettings reads the network settings of a system without a disk.
func LiveSettings() (*netfile.Settings, error) {
	s, err := install.ReadNetwork(filepath.Dir(livePath))
	if err != nil {
		return &netfile.Settings{}, fmt.Errorf("The network settings cannot be used: %w", err) //lint:ignore ST1005 shown to a person
	}
	return s, nil
}

// Up connects the machine with the settings, and writes the settings to a file for the agent. It
// returns only when an interface has an address, because a machine without one cannot reach the
// hub.
func (n *Network) Up(s *netfile.Settings) {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		if err := netlink.LinkSetUp(lo); err != nil {
			n.screen.Logf("lo: %v", err)
		}
	}
	for _, line := range s.Masked() {
		n.screen.Logf("network setting: %s", line)
	}
	if err := n.setServers(s.DNS); err != nil {
		n.screen.Logf("name servers: %v", err)
	}
	if err := os.WriteFile(n.settingsPath, []byte(s.Text()), 0o600); err != nil {
		n.screen.Logf("the agent's network settings: %v", err)
	}
	go func() {
		if err := catchPanic(n.listenForServers); err != nil {
			n.screen.Logf("name servers of routers: %v", err)
		}
	}()
	n.retry(s, func() error { return n.connect(s) })
}

// retry calls `connect` until `connect` succeeds. It shows an error only if the error differs from
// the error of the previous attempt.
func (n *Network) retry(s *netfile.Settings, connect func() error) {
	for last := ""; ; time.Sleep(retryWait) {
		err := connect()
		if err == nil {
			return
		}
		if err.Error() != last {
			last = err.Error()
			n.screen.Alarmf("No network: %s.", advice(s))
			n.screen.Logf("no network yet: %v", err)
		}
	}
}

// The function `advice` returns a text that tells a person what to check if the network does not
// work.
func advice(s *netfile.Settings) string {
	if s.Empty() {
		return "check the cable"
	}
	return "check the cable, and the network settings (" + netfile.Name + ")"
}

// connect configures the first interface with which the settings work.
func (n *Network) connect(s *netfile.Settings) error {
	all, err := netlink.LinkList()
	if err != nil {
		return err
	}
	links, err := candidates(all, s)
	if err != nil {
		return err
	}
	if len(s.Addresses) > 0 { // a static address needs no answer, so use only interfaces that have a carrier
		if links = n.withCarrier(links); len(links) == 0 {
			return errors.New("no network interface has a carrier; check the cable")
		}
	}
	return first(links, func(link netlink.Link, only bool) error { return n.configure(link, s, only) })
}

// The function `first` calls `configure` for each interface until one call succeeds. The argument
// `only` of `configure` is true if there is only one interface.
func first(links []netlink.Link, configure func(link netlink.Link, only bool) error) error {
	var errs []error
	for _, link := range links {
		err := configure(link, len(links) == 1)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", link.Attrs().Name, err))
	}
	return errors.Join(errs...)
}

// candidates returns the interfaces in `all` that the settings allow. It returns only Ethernet
// interfaces, and no VLAN that this program made.
func candidates(all []netlink.Link, s *netfile.Settings) ([]netlink.Link, error) {
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
		return nil, errors.New("the machine has no network interface; the image may lack its driver")
	}
	return nil, fmt.Errorf("interface %s not found; the machine has %s", s.Interface, strings.Join(names, ", "))
}

// configure gives an interface its static addresses, or the addresses that the network offers. If a
// gateway does not answer, configure fails. But if the machine has only one interface, configure
// uses this interface anyway, because the hub may be in the same network.
func (n *Network) configure(link netlink.Link, s *netfile.Settings, only bool) error {
	link, err := bringUp(link, s)
	if err != nil {
		return err
	}
	if len(s.Addresses) == 0 {
		return n.configureAutomatic(link)
	}
	for _, a := range s.Addresses {
		if err := n.addStatic(link, a, s); err != nil {
			return errors.Join(err, n.removeStatic(link, s))
		}
	}
	if silent := n.checkGateways(link, s); silent != nil {
		if !only {
			return errors.Join(silent, n.removeStatic(link, s))
		}
		n.screen.Alarmf("%v.", silent)
	}
	go func() { // the family without a static address is configured automatically; it may get no address
		ctx, cancel := context.WithTimeout(context.Background(), leaseWait)
		defer cancel()
		if !s.Static(4) {
			catchPanic(func() error { return n.configure4(ctx, link) })
		}
		if !s.Static(6) {
			catchPanic(func() error { return n.configure6(ctx, link) })
		}
	}()
	return nil
}

// configureAutomatic gives an interface the addresses that the network offers: an IPv4 address by
// DHCP, and an IPv6 address by router advertisements or DHCPv6.
func (n *Network) configureAutomatic(link netlink.Link) error {
	return either(
		func(ctx context.Context) error { return n.configure4(ctx, link) },
		func(ctx context.Context) error { return n.configure6(ctx, link) },
	)
}

// The function `either` configures both families at the same time, for up to leaseWait. It returns
// when one family has an address, although it waits up to fourWait longer for IPv4 if IPv6 is
// first; the configuration of the other family continues in the background. If neither family gets
// an address, the function returns both errors.
func either(configure4, configure6 func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), leaseWait)
	four, six := make(chan error, 1), make(chan error, 1)
	var both sync.WaitGroup
	both.Go(func() { four <- catchPanic(func() error { return configure4(ctx) }) })
	both.Go(func() { six <- catchPanic(func() error { return configure6(ctx) }) })
	go func() { both.Wait(); cancel() }()
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
			err4 := <-four
			if err4 == nil {
				return nil
			}
			return errors.Join(err6, err4)
		}
		select {
		case <-four:
		case <-time.After(fourWait):
		}
		return nil
	}
}

// catchPanic converts a panic of f to an error. This program is PID 1, and the kernel panics when
// PID 1 ends, so a packet from the network must not end the program.
func catchPanic(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("a packet from the network caused a panic: %v", v)
		}
	}()
	return f()
}

// learn records the name servers that the network offers over an address family, if there are any.
// If `address` is not empty, learn also records this address of an interface.
func (n *Network) learn(link, address string, f family, servers []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(servers) > 0 && !n.fixed {
		n.servers[f] = servers
		if err := n.writeResolvConf(); err != nil {
			return err
		}
	}
	if address != "" && !slices.Contains(n.addresses, address) {
		n.addresses = append(n.addresses, address)
		n.screen.Fact("Network", fmt.Sprintf("%s has %s", link, strings.Join(n.addresses, ", ")))
	}
	return nil
}

// forget removes an address from n.addresses. The screen shows the remaining addresses after the
// next call of `learn`.
func (n *Network) forget(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addresses = slices.DeleteFunc(n.addresses, func(a string) bool { return a == address })
}

// setServers uses the name servers in the settings, if the settings name any. The machine then
// ignores the name servers that the network offers.
func (n *Network) setServers(servers []netip.Addr) error {
	if len(servers) == 0 {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fixed, n.servers = true, [2][]string{}
	for _, s := range servers {
		n.servers[ipv4] = append(n.servers[ipv4], s.String())
	}
	return n.writeResolvConf()
}

// hasServers6 reports whether the network offered name servers over IPv6, or the settings have name
// servers.
func (n *Network) hasServers6() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fixed || len(n.servers[ipv6]) > 0
}

// writeResolvConf writes the name servers of IPv4 and IPv6 in turn, because programs read only the
// first three. The caller holds mu.
func (n *Network) writeResolvConf() error {
	var text strings.Builder
	for i := range 3 {
		for _, list := range n.servers {
			if i < len(list) {
				fmt.Fprintf(&text, "nameserver %s\n", list[i])
			}
		}
	}
	if err := os.MkdirAll(filepath.Dir(n.resolvConf), 0o755); err != nil {
		return err
	}
	return os.WriteFile(n.resolvConf, []byte(text.String()), 0o644)
}
