package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

// Limits for the times that a DHCP server sends.
const (
	minRenewal   = time.Second           // between two requests
	defaultLease = time.Hour             // used if the server does not send a lease time
	endless      = 1 << 30 * time.Second // a lease of this time or longer never ends
)

// dhcpClient asks DHCP servers for an address, and configures an interface with the address.
type dhcpClient interface {
	// request asks for a new lease. If `lease` is not nil, request asks to renew `lease`.
	request(ctx context.Context, lease *nclient4.Lease) (*nclient4.Lease, error)
	// apply configures the interface for a lease; `withdraw` removes that configuration.
	apply(lease *nclient4.Lease) error
	withdraw(lease *nclient4.Lease) error
}

// configure4 gives the interface an address by DHCP (RFC 2131). From then on, configure4 renews the
// address's lease in the background.
func (n *Network) configure4(ctx context.Context, link netlink.Link) error {
	c := &linkDHCP{n, link}
	lease, err := c.request(ctx, nil)
	if err != nil {
		return fmt.Errorf("DHCP: %w; check the cable", err)
	}
	if err := c.apply(lease); err != nil {
		return err
	}
	go func() {
		for {
			if err := catchPanic(func() error { lease = n.keepLease(c, lease); return nil }); err != nil {
				n.screen.Logf("DHCP: %v", err)
			}
			time.Sleep(minRenewal)
		}
	}()
	return nil
}

// keepLease renews a lease when half of the lease's time has passed, and retries until the lease
// ends. If the lease ends, or the server refuses to renew the lease, keepLease withdraws the lease
// and gets another lease. It returns the valid lease.
func (n *Network) keepLease(c dhcpClient, lease *nclient4.Lease) *nclient4.Lease {
	life := lease.ACK.IPAddressLeaseTime(defaultLease)
	if life >= endless {
		select {}
	}
	renew := lease.ACK.IPAddressRenewalTime(life / 2)
	if renew > life {
		renew = life / 2
	}
	time.Sleep(max(renew, minRenewal))
	for left := life - renew; left > 0; left = time.Until(lease.CreationTime.Add(life)) {
		began := time.Now()
		next, err := requestFor(leaseWait, c, lease)
		var refused *nclient4.ErrNak
		if errors.As(err, &refused) {
			break
		}
		if err == nil && next.ACK.YourIPAddr.Equal(lease.ACK.YourIPAddr) {
			if err := c.apply(next); err != nil {
				n.screen.Logf("%v", err)
			}
			return next
		}
		time.Sleep(max(min(left/2, time.Minute)-time.Since(began), minRenewal)) // RFC 2131, 4.4.5
	}
	// The address must be removed now, because the server may lease it to another machine.
	if err := c.withdraw(lease); err != nil {
		n.screen.Logf("address %s: %v", addressOf(lease), err)
	}
	n.screen.Logf("the lease of the address %s has ended", addressOf(lease))
	for logged := false; ; time.Sleep(retryWait) {
		next, err := requestFor(leaseWait, c, nil)
		if err == nil {
			err = c.apply(next)
		}
		if err == nil {
			return next
		}
		if !logged {
			logged = true
			n.screen.Logf("DHCP: %v", err)
		}
	}
}

func requestFor(d time.Duration, c dhcpClient, lease *nclient4.Lease) (*nclient4.Lease, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return c.request(ctx, lease)
}

// addressOf returns the address and the network of a lease. If the lease has no subnet mask, the
// class of the address determines the mask.
func addressOf(lease *nclient4.Lease) *net.IPNet {
	address := &net.IPNet{IP: lease.ACK.YourIPAddr, Mask: lease.ACK.SubnetMask()}
	if address.Mask == nil {
		address.Mask = address.IP.DefaultMask()
	}
	return address
}

// linkDHCP is the DHCP client of a real interface.
type linkDHCP struct {
	network *Network
	link    netlink.Link
}

func (c *linkDHCP) request(ctx context.Context, lease *nclient4.Lease) (*nclient4.Lease, error) {
	client, err := nclient4.New(c.link.Attrs().Name, nclient4.WithTimeout(2*time.Second))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if lease != nil {
		return client.Renew(ctx, lease)
	}
	return client.Request(ctx)
}

func (c *linkDHCP) apply(lease *nclient4.Lease) error {
	address := addressOf(lease)
	if err := netlink.AddrReplace(c.link, &netlink.Addr{IPNet: address}); err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	if routers := lease.ACK.Router(); len(routers) > 0 {
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: c.link.Attrs().Index, Gw: routers[0]}); err != nil {
			return fmt.Errorf("router %s: %w", routers[0], err)
		}
	}
	var servers []string
	for _, s := range lease.ACK.DNS() {
		servers = append(servers, s.String())
	}
	return c.network.learn(c.link.Attrs().Name, address.String(), ipv4, servers)
}

func (c *linkDHCP) withdraw(lease *nclient4.Lease) error {
	address := addressOf(lease)
	c.network.forget(address.String())
	return netlink.AddrDel(c.link, &netlink.Addr{IPNet: address})
}
