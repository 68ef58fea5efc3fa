package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// The function `lease` returns a lease of an address. The lease begins now.
func lease(t *testing.T, address string, options ...dhcpv4.Modifier) *nclient4.Lease {
	t.Helper()
	ack, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithYourIP(net.ParseIP(address)), dhcpv4.WithNetmask(net.CIDRMask(24, 32))}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	return &nclient4.Lease{ACK: ack, CreationTime: time.Now()}
}

func seconds(n uint32) dhcpv4.Modifier { return dhcpv4.WithLeaseTime(n) }

// dhcp simulates both the interface and a DHCP server that takes its answers from a list.
type dhcp struct {
	began   time.Time
	answers []func() (*nclient4.Lease, error) // answers of the server; the server repeats the last answer
	log     []string                          // events, each with the number of seconds since the start
}

func (d *dhcp) add(format string, args ...any) {
	d.log = append(d.log, fmt.Sprintf("%.0f ", time.Since(d.began).Seconds())+fmt.Sprintf(format, args...))
}

func (d *dhcp) request(ctx context.Context, lease *nclient4.Lease) (*nclient4.Lease, error) {
	if lease != nil {
		d.add("renew")
	} else {
		d.add("request")
	}
	answer := d.answers[0]
	if len(d.answers) > 1 {
		d.answers = d.answers[1:]
	}
	return answer()
}

func (d *dhcp) apply(lease *nclient4.Lease) error {
	d.add("apply %s", addressOf(lease))
	return nil
}

func (d *dhcp) withdraw(lease *nclient4.Lease) error {
	d.add("withdraw %s", addressOf(lease))
	return nil
}

// The machine renews a lease after half of the lease's time. It removes the address when the lease
// ends or when the DHCP server refuses to renew the lease.
func TestLeaseIsKept(t *testing.T) {
	t.Parallel()
	silent := func() (*nclient4.Lease, error) { return nil, errors.New("no answer") }
	refused := func() (*nclient4.Lease, error) { return nil, fmt.Errorf("renew: %w", &nclient4.ErrNak{}) }
	gives := func(t *testing.T, address string) func() (*nclient4.Lease, error) {
		return func() (*nclient4.Lease, error) { return lease(t, address, seconds(100)), nil }
	}
	for name, c := range map[string]struct {
		answers func(t *testing.T) []func() (*nclient4.Lease, error)
		want    []string
	}{
		"renewed": {
			func(t *testing.T) []func() (*nclient4.Lease, error) {
				return []func() (*nclient4.Lease, error){gives(t, "10.9.0.10")}
			},
			[]string{"50 renew", "50 apply 10.9.0.10/24"},
		},
		"renewed at the third attempt": {
			func(t *testing.T) []func() (*nclient4.Lease, error) {
				return []func() (*nclient4.Lease, error){silent, silent, gives(t, "10.9.0.10")}
			},
			[]string{"50 renew", "75 renew", "88 renew", "88 apply 10.9.0.10/24"},
		},
		"refused": {
			func(t *testing.T) []func() (*nclient4.Lease, error) {
				return []func() (*nclient4.Lease, error){refused, gives(t, "10.9.0.20")}
			},
			[]string{"50 renew", "50 withdraw 10.9.0.10/24", "50 request", "50 apply 10.9.0.20/24"},
		},
		"not renewed until its end": {
			func(t *testing.T) []func() (*nclient4.Lease, error) {
				return append(slices.Repeat([]func() (*nclient4.Lease, error){silent}, 9), gives(t, "10.9.0.10"))
			},
			[]string{"50 renew", "75 renew", "88 renew", "94 renew", "97 renew", "98 renew", "99 renew",
				"100 withdraw 10.9.0.10/24", "100 request", "102 request", "104 request", "104 apply 10.9.0.10/24"},
		},
		"renewed with another address": {
			func(t *testing.T) []func() (*nclient4.Lease, error) {
				return []func() (*nclient4.Lease, error){gives(t, "10.9.0.99"), refused, gives(t, "10.9.0.20")}
			},
			[]string{"50 renew", "75 renew", "75 withdraw 10.9.0.10/24", "75 request", "75 apply 10.9.0.20/24"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, _ := testNetwork(t)
				d := &dhcp{began: time.Now(), answers: c.answers(t)}
				n.keepLease(d, lease(t, "10.9.0.10", seconds(100)))
				if !slices.Equal(d.log, c.want) {
					t.Errorf("got %q", d.log)
				}
			})
		})
	}
}

// The machine limits the times that a DHCP server sets, so that a hostile server cannot make it
// send requests without a pause by leasing an address for a very short time.
func TestTimesOfADHCPServerAreBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options []dhcpv4.Modifier
		want    string
	}{
		"no time":                  {nil, "1800 renew"},
		"0 s":                      {[]dhcpv4.Modifier{seconds(0)}, "1 withdraw 10.9.0.10/24"},
		"the server's renewal":     {[]dhcpv4.Modifier{seconds(100), dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(30 * time.Second))}, "30 renew"},
		"a renewal after the end":  {[]dhcpv4.Modifier{seconds(100), dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(200 * time.Second))}, "50 renew"},
		"a renewal without a wait": {[]dhcpv4.Modifier{seconds(100), dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(0))}, "1 renew"},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, _ := testNetwork(t)
			d := &dhcp{began: time.Now(), answers: []func() (*nclient4.Lease, error){func() (*nclient4.Lease, error) { return lease(t, "10.9.0.10"), nil }}}
			n.keepLease(d, lease(t, "10.9.0.10", c.options...))
			if d.log[0] != c.want {
				t.Errorf("%s: %q", name, d.log)
			}
		})
	}
}

func TestAddressOfALeaseWithoutAMask(t *testing.T) {
	t.Parallel()
	l := lease(t, "10.9.0.10")
	l.ACK.Options.Del(dhcpv4.OptionSubnetMask)
	if got := addressOf(l).String(); got != "10.9.0.10/8" {
		t.Errorf("got %s", got)
	}
}
