package doctor

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"gangway/device/agent"
	"gangway/device/identity"
	"gangway/device/machine"
	"gangway/device/preflight"
	"gangway/internal/diskfile"
	"gangway/internal/version"
	"gangway/tcg"
	"gangway/tcg/eventlog"

	"github.com/google/go-tpm/tpm2/transport"
)

func (c *Config) setDefaults() {
	if c.EventLog == "" {
		c.EventLog = eventlog.Path
	}
	if c.firmware == "" {
		c.firmware = machine.Firmware
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.getenv == nil {
		c.getenv = os.Getenv
	}
	if c.proc == "" {
		c.proc = "/proc"
	}
	if c.resolv == "" {
		c.resolv = "/etc/resolv.conf"
	}
	if c.cards == nil {
		c.cards = Cards
	}
	if c.free == nil {
		c.free = freeSpace
	}
}

func checkTPM(ctx context.Context, e *exam) []Finding {
	t, err := ReadTPM(ctx, e.TPM)
	if err != nil {
		return []Finding{preflight.NoTPM(e.TPM, err)}
	}
	return t.Judge(len(e.EndorsementAuth) > 0)
}

// ReadTPM reads the properties of the TPM at an address (identity.Open).
func ReadTPM(ctx context.Context, address string) (properties *TPM, err error) {
	t, err := identity.Open(address)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	err = t.Raw(ctx, func(link transport.TPM) error {
		properties, err = preflight.ReadTPM(link)
		return err
	})
	return properties, err
}

// checkEventLog reads the event log as the agent does. If the TPM can be used, it also compares the
// log with the TPM's PCRs.
func checkEventLog(ctx context.Context, e *exam) (all []Finding) {
	t, err := identity.Open(e.TPM)
	if err != nil {
		return preflight.CheckEventLog(e.EventLog, nil)
	}
	defer t.Close()
	err = t.Raw(ctx, func(link transport.TPM) error {
		all = preflight.CheckEventLog(e.EventLog, link)
		return nil
	})
	if err != nil {
		return preflight.CheckEventLog(e.EventLog, nil)
	}
	return all
}

// checkFirmware checks three things: the mode of Secure Boot; whether the boot manager's variable
// for a single boot is still set, although the firmware should have removed it; and the firmware's
// boot entry.
func checkFirmware(_ context.Context, e *exam) []Finding {
	return append([]Finding{preflight.CheckSecureBoot(e.firmware), preflight.CheckOneShot(e.firmware)}, preflight.CheckEntry(e.firmware)...)
}

// checkState checks the agent's state folder.
func checkState(_ context.Context, e *exam) []Finding {
	if e.stateErr != nil {
		return []Finding{{Code: "state-unreadable", Severity: Problem, Fact: "The agent's state cannot be read.", Cause: e.stateErr.Error(),
			Remedy: "Run the command as root, and name the folder with --state. If the file is damaged, remove the folder and onboard again: with the same TPM, the machine stays the same device."}}
	}
	all := []Finding{good("state", "The agent's state in %s can be read; its phase is %q.", e.StateDir, e.state.Phase)}
	if free, err := e.free(e.StateDir); err == nil && free < minFree {
		all = append(all, Finding{Code: "disk-full", Severity: Warning, Fact: fmt.Sprintf("The disk of %s has only %d MiB free.", e.StateDir, free>>20),
			Cause: "The agent needs free space for its state and for revisions.", Remedy: "Remove files there, or move the revisions with --revisions."})
	}
	return all
}

// freeSpace returns the free space on the disk that contains a folder, in bytes.
func freeSpace(dir string) (uint64, error) {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		return 0, err
	}
	return disk.Bavail * uint64(disk.Bsize), nil
}

// Card is a network interface of the machine.
type Card struct {
	Name      string
	MAC       string
	Up        bool // switched on
	Carrier   bool // a cable is plugged in, or the interface is connected to an access point
	Addresses []net.IPNet
}

// Cards returns this machine's network interfaces except the loopback interface.
func Cards() ([]Card, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var cards []Card
	for _, i := range list {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		c := Card{Name: i.Name, MAC: i.HardwareAddr.String(), Up: i.Flags&net.FlagUp != 0, Carrier: i.Flags&net.FlagRunning != 0}
		addresses, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok {
				c.Addresses = append(c.Addresses, *n)
			}
		}
		cards = append(cards, c)
	}
	return cards, nil
}

// The method `global` reports whether the interface has an address with which it can reach other
// networks.
func (c *Card) global() bool {
	return slices.ContainsFunc(c.Addresses, func(a net.IPNet) bool { return a.IP.IsGlobalUnicast() })
}

func checkNetwork(_ context.Context, e *exam) []Finding {
	cards, err := e.cards()
	if err != nil {
		return []Finding{{Code: "network-unreadable", Severity: Problem, Fact: fmt.Sprintf("The network interfaces cannot be listed: %v.", err), Remedy: "Run the command as root."}}
	}
	var usable []string
	carrier := false
	for _, c := range cards {
		carrier = carrier || c.Up && c.Carrier
		if c.Up && c.global() {
			usable = append(usable, c.Name)
		}
	}
	switch {
	case len(cards) == 0:
		return []Finding{{Code: "network-none", Severity: Problem, Fact: "The machine has no network interface.",
			Cause: "The card is missing, or the kernel has no driver for it.", Remedy: "Plug in a card, or use an image with a kernel that has the card's driver."}}
	case len(usable) == 0 && !carrier:
		return []Finding{{Code: "network-no-link", Severity: Problem, Fact: "No network interface has a link.",
			Cause: "The cable is unplugged, or the switch's port is off.", Remedy: "Check the cable and the switch."}}
	case len(usable) == 0:
		return []Finding{{Code: "network-no-address", Severity: Problem, Fact: "No network interface has an address by which other networks can be reached.",
			Cause: "No DHCP server or router answers, or the port is in another VLAN.", Remedy: "Check the DHCP server and the switch's port, or set an address in the network settings."}}
	}
	all := []Finding{good("network", "The network works on %s.", strings.Join(usable, ", "))}
	if routed, err := e.defaultRoute(); err == nil && !routed {
		all = append(all, Finding{Code: "network-no-route", Severity: Warning, Fact: "There is no default route.",
			Cause: "The network does not offer a gateway.", Remedy: "If the hub is not in the machine's own network, set a gateway in the network settings."})
	}
	return append(all, e.checkNames()...)
}

// Flags of a route in the kernel's tables (RTF_UP and RTF_REJECT).
const (
	routeUp     = 0x1
	routeReject = 0x200
)

// defaultRoute reports whether the kernel's tables have a default route (proc(5)).
func (e *exam) defaultRoute() (bool, error) {
	v4, err4 := os.ReadFile(filepath.Join(e.proc, "net/route"))
	for line := range strings.Lines(string(v4)) {
		f := strings.Fields(line)
		if len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" && flags(f[3])&(routeUp|routeReject) == routeUp {
			return true, nil
		}
	}
	v6, err6 := os.ReadFile(filepath.Join(e.proc, "net/ipv6_route"))
	for line := range strings.Lines(string(v6)) {
		f := strings.Fields(line)
		if len(f) > 9 && f[1] == "00" && strings.Trim(f[0], "0") == "" && f[9] != "lo" && flags(f[8])&(routeUp|routeReject) == routeUp {
			return true, nil
		}
	}
	if err4 != nil && err6 != nil {
		return false, err4
	}
	return false, nil
}

func flags(hex string) (n uint64) {
	if _, err := fmt.Sscanf(hex, "%x", &n); err != nil {
		return 0
	}
	return n
}

// checkNames checks that name servers are configured if the machine itself must resolve the hub's
// name. If the machine uses a proxy, the proxy resolves the name.
func (e *exam) checkNames() []Finding {
	if e.Proxy != nil || e.hub == nil || net.ParseIP(hostOf(e.urls[0])) != nil {
		return nil
	}
	b, err := diskfile.Read(e.resolv, 0, 64<<10)
	if err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" && net.ParseIP(strings.Split(f[1], "%")[0]) != nil {
				return []Finding{good("dns", "Name servers are set.")}
			}
		}
	}
	return []Finding{{Code: "dns-none", Severity: Problem, Fact: "No name server is set in " + e.resolv + ".",
		Cause: "The network announces none.", Remedy: "Set a name server in the network settings (dns), or use a hub address with an IP address instead of a name."}}
}

// checkClock compares the machine's clock with times that must be in the past, and with the hub's
// clock.
func checkClock(_ context.Context, e *exam) []Finding {
	now := e.now().UTC()
	wrong := func(fact string) []Finding {
		return []Finding{{Code: "clock-wrong", Severity: Problem, Fact: fact,
			Cause:  "The battery of the clock is empty, or nothing has set the clock yet.",
			Remedy: "Set the clock, or let the agent set the clock: --set-clock, with time servers in the network settings."}}
	}
	if made, err := time.Parse(time.RFC3339, version.Current.Date); err == nil && now.Before(made) {
		return wrong(fmt.Sprintf("The clock shows %s, but this program was built later, at %s.", now.Format(time.DateTime), made.UTC().Format(time.DateTime)))
	}
	if e.hub != nil {
		if ok, made, err := agent.PlausibleClock(now, e.hub.CA); err == nil && !ok {
			return wrong(fmt.Sprintf("The clock shows %s, but the hub's CA was made later, at %s.", now.Format(time.DateTime), made.UTC().Format(time.DateTime)))
		}
	}
	if e.reached == nil || e.reached.Date.IsZero() {
		return []Finding{good("clock", "The clock shows %s UTC.", now.Format(time.DateTime))}
	}
	if off := now.Sub(e.reached.Date); off.Abs() > clockSlack {
		side := "ahead of"
		if off < 0 {
			side = "behind"
		}
		return []Finding{{Code: "clock-off", Severity: Warning, Fact: fmt.Sprintf("The clock is %s %s the hub's.", off.Abs().Round(time.Second), side),
			Cause: "No time server sets the clock, or the hub's clock is wrong.", Remedy: "Configure a time server on this machine, and check the hub's clock."}}
	}
	return []Finding{good("clock", "The clock shows %s UTC, and differs from the hub's clock by less than two minutes.", now.Format(time.DateTime))}
}

func printable(s string) string { return tcg.Printable(s) }
