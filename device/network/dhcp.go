package network

import (
	"context"
	"errors"
	"fmt"
	"gangway/device/screen"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

// Bounds of what a DHCP server says of time.
const (
	shortLease = time.Second // before it is renewed, at least
	someLease  = time.Hour   // where the server does not say
	longLease  = 1 << 30 * time.Second
)

// configure4 gives the interface what DHCP offers (RFC 2131), and keeps it.
func configure4(ctx context.Context, link netlink.Link) error {
	lease, err := ask4(ctx, link, nil)
	if err != nil {
		return fmt.Errorf("DHCP: %w; is the cable in?", err)
	}
	if err := apply4(link, lease); err != nil {
		return err
	}
	go func() {
		for { // for ever, but for a panic in what a server sent
			if err := safely(func() error { lease = keep4(link, lease); return nil }); err != nil {
				screen.Say("DHCP: %v", err)
			}
			time.Sleep(shortLease)
		}
	}()
	return nil
}

// ask4 asks for a lease, or to renew one.
func ask4(ctx context.Context, link netlink.Link, lease *nclient4.Lease) (*nclient4.Lease, error) {
	client, err := nclient4.New(link.Attrs().Name, nclient4.WithTimeout(2*time.Second))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if lease != nil {
		return client.Renew(ctx, lease)
	}
	return client.Request(ctx)
}

// addressOf is a lease's.
func addressOf(lease *nclient4.Lease) *net.IPNet {
	address := &net.IPNet{IP: lease.ACK.YourIPAddr, Mask: lease.ACK.SubnetMask()}
	if address.Mask == nil {
		address.Mask = address.IP.DefaultMask()
	}
	return address
}

// apply4 gives the interface what a lease says.
func apply4(link netlink.Link, lease *nclient4.Lease) error {
	address := addressOf(lease)
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: address}); err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	if routers := lease.ACK.Router(); len(routers) > 0 {
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: routers[0]}); err != nil {
			return fmt.Errorf("router %s: %w", routers[0], err)
		}
	}
	var servers []string
	for _, s := range lease.ACK.DNS() {
		servers = append(servers, s.String())
	}
	return got(link.Attrs().Name, address.String(), 0, servers)
}

// keep4 renews a lease when half of it is over, until that works; or gets
// another one when it has ended, or the server has taken it back. It returns
// the lease that holds then.
func keep4(link netlink.Link, lease *nclient4.Lease) *nclient4.Lease {
	life := lease.ACK.IPAddressLeaseTime(someLease)
	if life >= longLease {
		select {} // for ever
	}
	renew := lease.ACK.IPAddressRenewalTime(life / 2)
	if renew > life {
		renew = life / 2
	}
	time.Sleep(max(renew, shortLease))
	for left := life - renew; left > 0; left = time.Until(lease.CreationTime.Add(life)) {
		begin := time.Now()
		next, err := tryFor(leaseWait, link, lease)
		var no *nclient4.ErrNak
		if errors.As(err, &no) {
			break
		}
		if err == nil && next.ACK.YourIPAddr.Equal(lease.ACK.YourIPAddr) {
			if err := apply4(link, next); err != nil {
				screen.Say("%v", err)
			}
			return next
		}
		time.Sleep(max(min(left/2, time.Minute)-time.Since(begin), shortLease)) // RFC 2131, 4.4.5
	}
	// It is another's now, maybe.
	old := addressOf(lease)
	if err := netlink.AddrDel(link, &netlink.Addr{IPNet: old}); err != nil {
		screen.Say("address %s: %v", old, err)
	}
	lost(old.String())
	screen.Say("the address %s has ended", old)
	for said := false; ; time.Sleep(again) {
		next, err := tryFor(leaseWait, link, nil)
		if err == nil {
			err = apply4(link, next)
		}
		if err == nil {
			return next
		}
		if !said {
			said = true
			screen.Say("DHCP: %v", err)
		}
	}
}

func tryFor(d time.Duration, link netlink.Link, lease *nclient4.Lease) (*nclient4.Lease, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return ask4(ctx, link, lease)
}
