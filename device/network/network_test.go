package network

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
	"testing"
	"testing/synctest"
	"time"

	"gangway/device/install/netfile"

	"github.com/vishvananda/netlink"
)

// screen records the lines that the machine shows.
type screen struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (s *screen) add(kind, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, kind+fmt.Sprintf(format, args...))
}

func (s *screen) Logf(format string, args ...any)   { s.add("", format, args...) }
func (s *screen) Alarmf(format string, args ...any) { s.add("ALARM ", format, args...) }
func (s *screen) Fact(name, value string)           { s.add("", "%s: %s", name, value) }

// testNetwork returns a Network that keeps its files in a folder for tests.
func testNetwork(t *testing.T) (*Network, *screen) {
	t.Helper()
	dir := os.Getenv("GANGWAY_NETWORK") // see inNetwork
	if dir == "" {
		dir = t.TempDir()
	}
	s := new(screen)
	n := New(s)
	n.resolvConf, n.settingsPath = filepath.Join(dir, "etc", "resolv.conf"), filepath.Join(dir, "network.txt")
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o700); err != nil {
		t.Fatal(err)
	}
	return n, s
}

func card(name string, mac byte) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, mac}}}
}

func names(links []netlink.Link) (out []string) {
	for _, l := range links {
		out = append(out, l.Attrs().Name)
	}
	return out
}

func TestInterfacesThatTheSettingsAllow(t *testing.T) {
	t.Parallel()
	eth0, eth1 := card("eth0", 0x10), card("eth1", 0x11)
	all := []netlink.Link{
		&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Flags: net.FlagLoopback, HardwareAddr: make(net.HardwareAddr, 6)}},
		eth0,
		&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "sit0", HardwareAddr: make(net.HardwareAddr, 4)}},
		&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "vlan7", HardwareAddr: eth0.Attrs().HardwareAddr}, VlanId: 7},
		eth1,
	}
	for _, c := range []struct {
		all     []netlink.Link
		want    string // netfile's interface
		allowed []string
		err     string
	}{
		{all: all, allowed: []string{"eth0", "eth1"}},
		{all: all, want: "eth1", allowed: []string{"eth1"}},
		{all: all, want: "02:00:00:00:00:10", allowed: []string{"eth0"}},
		{all: all, want: "eth7", err: "interface eth7 not found; the machine has eth0 (02:00:00:00:00:10), eth1 (02:00:00:00:00:11)"},
		{all: all, want: "lo", err: "interface lo not found"},
		{all: all[:1], err: "the machine has no network interface"},
	} {
		links, err := candidates(c.all, &netfile.Settings{Interface: c.want})
		if !slices.Equal(names(links), c.allowed) || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %q, %v", c.want, names(links), err)
		}
	}
}

// If `configure` fails for an interface, the function `first` tries the next interface. An argument
// of `configure` reports whether the machine has only one interface.
func TestNextInterfaceIsTried(t *testing.T) {
	t.Parallel()
	var tried []string
	err := first([]netlink.Link{card("eth0", 0), card("eth1", 1), card("eth2", 2)}, func(l netlink.Link, only bool) error {
		tried = append(tried, fmt.Sprint(l.Attrs().Name, " ", only))
		if l.Attrs().Name == "eth0" {
			return errors.New("silent")
		}
		return nil
	})
	if want := []string{"eth0 false", "eth1 false"}; !slices.Equal(tried, want) || err != nil {
		t.Errorf("tried %q, %v", tried, err)
	}
	err = first([]netlink.Link{card("eth0", 0)}, func(l netlink.Link, only bool) error { return fmt.Errorf("only %v", only) })
	if err == nil || err.Error() != "eth0: only true" {
		t.Errorf("the only one: %v", err)
	}
}

// The function `after` returns a function that simulates the configuration of an address family.
// That function returns `err` after the time `d`, or the context's error if the context ends
// earlier.
func after(d time.Duration, err error) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
			return err
		}
	}
}

// The function `either` succeeds if one address family gets an address. After IPv6, it waits a
// little longer for IPv4.
func TestOneFamilyIsEnough(t *testing.T) {
	t.Parallel()
	no4, no6 := errors.New("no DHCP"), errors.New("no router")
	for name, c := range map[string]struct {
		four, six func(context.Context) error
		after     time.Duration
		errs      []error
	}{
		"IPv4 first":                    {after(time.Second, nil), after(4*time.Second, nil), time.Second, nil},
		"IPv4 only":                     {after(time.Second, nil), after(time.Hour, nil), time.Second, nil},
		"IPv6 first, and IPv4 soon":     {after(3*time.Second, nil), after(time.Second, nil), 3 * time.Second, nil},
		"IPv6 first, and IPv4 late":     {after(14*time.Second, nil), after(time.Second, nil), time.Second + fourWait, nil},
		"IPv6 first, and IPv4 fails":    {after(2*time.Second, no4), after(time.Second, nil), 2 * time.Second, nil},
		"IPv4 fails, and IPv6 is later": {after(time.Second, no4), after(9*time.Second, nil), 9 * time.Second, nil},
		"IPv6 fails, and IPv4 is later": {after(9*time.Second, nil), after(time.Second, no6), 9 * time.Second, nil},
		"neither":                       {after(time.Second, no4), after(2*time.Second, no6), 2 * time.Second, []error{no4, no6}},
		"neither, the other way round":  {after(2*time.Second, no4), after(time.Second, no6), 2 * time.Second, []error{no4, no6}},
		"no answer":                     {after(time.Hour, nil), after(time.Hour, nil), leaseWait, []error{context.DeadlineExceeded}},
		"a panic":                       {func(context.Context) error { panic("bad packet") }, after(time.Second, nil), time.Second, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			err := either(c.four, c.six)
			if took := time.Since(began); took != c.after {
				t.Errorf("%s: after %s, want %s", name, took, c.after)
			}
			if (err == nil) != (c.errs == nil) {
				t.Errorf("%s: %v", name, err)
			}
			for _, want := range c.errs {
				if !errors.Is(err, want) {
					t.Errorf("%s: %v is not in %v", name, want, err)
				}
			}
			time.Sleep(leaseWait) // wait until the attempt of the other family has also ended
		})
	}
}

// After the function `either` has returned, the configuration of the later address family continues
// in the background.
func TestLaterFamilyIsConfigured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got error
		err := either(after(time.Second, nil), func(ctx context.Context) error {
			got = after(12*time.Second, nil)(ctx)
			return got
		})
		time.Sleep(leaseWait)
		synctest.Wait()
		if err != nil || got != nil {
			t.Errorf("%v; IPv6: %v", err, got)
		}
	})
}

// The machine retries until it has an address. It logs an error only if the error differs from the
// previous error.
func TestNetworkIsTriedUntilItWorks(t *testing.T) {
	t.Parallel()
	n, s := testNetwork(t)
	synctest.Test(t, func(t *testing.T) {
		errs := []error{errors.New("no carrier"), errors.New("no carrier"), errors.New("no DHCP"), nil}
		began, tries := time.Now(), 0
		n.retry(&netfile.Settings{VLAN: 7}, func() error { tries++; return errs[tries-1] })
		if tries != 4 || time.Since(began) != 3*retryWait {
			t.Errorf("%d attempts in %s", tries, time.Since(began))
		}
	})
	want := []string{
		"ALARM No network: check the cable, and the network settings (network.txt).", "no network yet: no carrier",
		"ALARM No network: check the cable, and the network settings (network.txt).", "no network yet: no DHCP",
	}
	if !slices.Equal(s.lines, want) {
		t.Errorf("shown: %q", s.lines)
	}
	if got := advice(&netfile.Settings{}); got != "check the cable" {
		t.Errorf("advice without settings: %q", got)
	}
}

func TestAddressesAreShown(t *testing.T) {
	t.Parallel()
	n, s := testNetwork(t)
	for _, a := range []string{"192.0.2.10/24", "192.0.2.10/24", "2001:db8::10/64"} {
		if err := n.learn("eth0", a, ipv4, nil); err != nil {
			t.Fatal(err)
		}
	}
	n.forget("192.0.2.10/24")
	if err := n.learn("eth0", "192.0.2.11/24", ipv4, nil); err != nil {
		t.Fatal(err)
	}
	want := []string{"Network: eth0 has 192.0.2.10/24", "Network: eth0 has 192.0.2.10/24, 2001:db8::10/64", "Network: eth0 has 2001:db8::10/64, 192.0.2.11/24"}
	if !slices.Equal(s.lines, want) {
		t.Errorf("shown: %q", s.lines)
	}
}
