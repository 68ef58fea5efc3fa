package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"

	"golang.org/x/sys/unix"
)

// ErrNotLoopback means that the hub is not on this machine, and that Config.TestHub does not
// confirm that it is a test hub.
var ErrNotLoopback = errors.New("the hub's address is not a loopback address")

// resolve returns the hub's host and port, its name for TLS, and its address. It asks the name
// server only once, so that a later answer cannot move the load to another machine.
func resolve(ctx context.Context, hubURL string, anywhere bool) (host, name string, at netip.AddrPort, err error) {
	u, err := url.Parse(hubURL)
	if err != nil {
		return "", "", at, err
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	number, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return "", "", at, err
	}
	list, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		return "", "", at, fmt.Errorf("the hub's address %s: %w", hubURL, err)
	}
	for _, a := range list {
		a = a.Unmap()
		if !a.IsLoopback() && !anywhere {
			return "", "", at, fmt.Errorf("%w: %s is %s", ErrNotLoopback, u.Hostname(), a)
		}
		if !at.IsValid() || a.Is4() && !at.Addr().Is4() { // prefer IPv4, whose loopback has many addresses
			at = netip.AddrPortFrom(a, uint16(number))
		}
	}
	if !at.IsValid() {
		return "", "", at, fmt.Errorf("the hub's name %s has no address", u.Hostname())
	}
	return u.Host, u.Hostname(), at, nil
}

// spread gives each device its own source address in 127.0.0.0/8, beginning at 127.1.0.0, because
// one address has only about 28,000 ports for connections to one listener, and the hub's rate
// limits count the requests of each address.
type spread struct{ most int }

// maxAddresses is the number of addresses from 127.1.0.0 to 127.254.255.255.
const maxAddresses = 254 << 16

func (s *spread) address(i int) net.Addr {
	n := uint32(i%s.most) + 1<<16
	return &net.TCPAddr{IP: net.IPv4(127, byte(n>>16), byte(n>>8), byte(n))}
}

// newSpread returns the source addresses for connections to the hub at the address `at`, or nil if
// the hub is not on IPv4's loopback. `wanted` is the number of addresses; 0 means one for each
// device.
func newSpread(at netip.AddrPort, wanted int) *spread {
	if a := at.Addr(); !a.Is4() || !a.IsLoopback() {
		return nil
	}
	if wanted <= 0 || wanted > maxAddresses {
		wanted = maxAddresses
	}
	return &spread{most: wanted}
}

// allowDescriptors raises the limit of open files to `need`. If it cannot, its error says how a
// person can raise the limit.
func allowDescriptors(need uint64) error {
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	if have.Cur >= need {
		return nil
	}
	raised := unix.Rlimit{Cur: need, Max: max(have.Max, need)}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err != nil {
		return fmt.Errorf("this run needs %d open files, and this process may open only %d: first run 'ulimit -n %d' as root in the same shell, or start with 'systemd-run --scope -p LimitNOFILE=%d', or use fewer devices. The hub needs the same number of open files", need, have.Max, need, need)
	}
	return nil
}
