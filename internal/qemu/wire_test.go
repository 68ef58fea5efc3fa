package qemu_test

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gangway/device/install/netfile"
	"gangway/image/stick"
	"gangway/internal/connectproxy"
	"gangway/internal/hubtest"
	"gangway/internal/qemu"
	"gangway/internal/swtpm"
)

func settings(t *testing.T, lines ...string) *netfile.Settings {
	t.Helper()
	s, err := netfile.Parse([]byte("version = 1\n" + strings.Join(lines, "\n") + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// On a network without DHCP, where the hub is reachable only through a proxy, a stick installs a
// machine, and the machine appears in the device list. The installed system has the stick's network
// settings, also at the next boot. A person can then change the settings with the stick.
func TestMachineWithAStaticAddressAndAProxy(t *testing.T) {
	t.Parallel()
	long(t)
	var p *connectproxy.Proxy
	var n *netfile.Settings
	ca := connectproxy.NewCA(t, "proxy")
	s := newSiteWith(t, func(s *site) stick.Config {
		far := strings.TrimPrefix(s.token.Hub, "https://")
		p = connectproxy.New(t, connectproxy.Config{TLS: ca.Server(t, "10.0.2.2"), Name: "ada", Password: "hunter2",
			To: map[string]string{far: strings.TrimPrefix(s.hub.URL, "https://")}})
		n = settings(t, "address = 10.0.2.77/24", "gateway = 10.0.2.2")
		n.Proxy = &url.URL{Scheme: "https", Host: fmt.Sprintf("10.0.2.2:%d", portOf(t, p.Addr)), User: url.UserPassword("ada", "hunter2")}
		n.ProxyCA = []*x509.Certificate{ca.Certificate}
		return stick.Config{Network: n}
	})
	wire := &qemu.Wire{NoDHCP: true, Only: []int{portOf(t, p.Addr)}}
	s.cfg.Wire = wire
	m, ctx := boot(t, s.with(true))
	installed, _ := waitFor(t, ctx, m, `gangway-init .*: installed in`)
	after(t, ctx, m, installed.At, `gangway-init .*: network: eth0 has 10\.0\.2\.77/24$`)
	after(t, ctx, m, installed.At, `gangway-init .*: this boot is good: gangway-a.efi`)
	m.Stop()
	s.listed(t)
	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: network: eth0 has 10\.0\.2\.77/24$`)
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	hidden := func() {
		t.Helper()
		for _, l := range m.Lines() {
			if strings.Contains(l.Text, "hunter2") {
				t.Errorf("the console shows the password: %s", l.Text)
			}
		}
	}
	hidden()
	m.Stop()
	s.listed(t)

	// A person edits the network settings on the stick, and boots the machine from it.
	edited := filepath.Join(t.TempDir(), netfile.Name)
	if err := os.WriteFile(edited, []byte(strings.Replace(n.Text(), "10.0.2.77", "10.0.2.78", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mcopy", "-o", "-i", s.stick+"@@1M", edited, "::/"+netfile.Name).CombinedOutput(); err != nil {
		t.Fatalf("mcopy: %v: %.300s", err, out)
	}
	m, ctx = boot(t, s.with(true))
	there, _ := waitFor(t, ctx, m, `gangway-init .*: This stick has already installed Gangway on this machine`)
	after(t, ctx, m, there.At, `gangway-init .*: network: eth0 has 10\.0\.2\.78/24$`)
	after(t, ctx, m, there.At, `gangway-init .*: the machine reached the hub with the new network settings and keeps them`)
	hidden()
	m.Stop()
	s.listed(t)
	if wire.Lost("port") > 0 {
		t.Errorf("%d packets bypassed the proxy", wire.Lost("port"))
	}
}

// The function `onboards` boots a machine with these network settings on a network, and waits until
// it is connected to the hub.
func onboards(t *testing.T, wire *qemu.Wire, address string, lines ...string) *qemu.Machine {
	t.Helper()
	need(t)
	tpm := newTPM(t, swtpm.P384)
	h := hubtest.New(t, tpm.Roots(), []*x509.Certificate{tpm.Issuer()})
	disk := guest{token: guestToken(t, h), network: settings(t, lines...)}.disk(t)
	m, ctx := boot(t, qemu.Config{Dir: t.TempDir(), TPM: tpm, Wire: wire, Disks: []qemu.Disk{{Path: disk, ReadOnly: true}}})
	waitFor(t, ctx, m, `gangway-init .*: network: .*`+address)
	waitFor(t, ctx, m, `^Connected to https://10\.0\.2\.2:\d+ as `)
	m.Stop()
	if devices := h.Devices(t, h.Owner); len(devices) != 1 {
		t.Errorf("devices: %+v", devices)
	}
	return m
}

// A machine on a VLAN gets its address by DHCP from that VLAN, and sends no frame without the
// VLAN's tag.
func TestMachineOnAVLAN(t *testing.T) {
	t.Parallel()
	long(t)
	wire := &qemu.Wire{VLAN: 42}
	onboards(t, wire, `vlan42 has 10\.0\.2\.15/24`, "vlan = 42")
	if n := wire.Lost("vlan"); n > 0 {
		t.Errorf("%d frames had another tag or no tag", n)
	}
}

// A machine with the right MTU in its settings works on a network that drops larger packets without
// a message.
func TestMachineWithAnMTUOf1280(t *testing.T) {
	t.Parallel()
	long(t)
	wire := &qemu.Wire{MTU: 1280}
	onboards(t, wire, `eth0 has 10\.0\.2\.15/24`, "mtu = 1280")
	if n := wire.Lost("mtu"); n > 0 {
		t.Errorf("%d packets were larger than the MTU", n)
	}
}

// The owner can change the network settings of an installed machine at the hub, and cannot
// disconnect the machine by mistake. The machine keeps new settings with which it reaches the hub.
// If the machine does not reach the hub with the new settings, or loses power during the trial, it
// returns to the old settings. The owner can then read the cause.
func TestOwnerChangesTheNetwork(t *testing.T) {
	t.Parallel()
	long(t)
	s := newSiteOf(t, func(p *stick.Parts) { p.Init = otherInit(t, "-X main.networkTime=40s") }, func(*site) stick.Config { return stick.Config{} })
	s.install(t)
	m, ctx := boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: network: eth0 has 10\.0\.2\.15/24$`)
	waitFor(t, ctx, m, `gangway-init .*: this boot is good: gangway-a.efi`)
	o := s.signIn(t)
	set := func(lines ...string) time.Duration {
		seen := m.Lines()[len(m.Lines())-1].At
		o.call(ctx, "PATCH", "/devices/"+o.device+"/user-meta", map[string]string{"gangway.network": "version = 1\n" + strings.Join(lines, "\n")}, nil)
		return after(t, ctx, m, seen, `gangway-init .*: The owner has set other network settings`).At
	}
	says := func(want string) {
		t.Helper()
		for {
			if text, ok := s.hub.Devices(t, s.hub.Owner)[0].DeviceMeta["gangway.network"].(string); ok && strings.Contains(text, want) {
				return
			}
			select {
			case <-ctx.Done():
				t.Fatalf("the device does not report %q but %v", want, s.hub.Devices(t, s.hub.Owner)[0].DeviceMeta["gangway.network"])
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	at := set("address = 10.0.2.77/24", "gateway = 10.0.2.2")
	after(t, ctx, m, at, `gangway-init .*: network: eth0 has 10\.0\.2\.77/24$`)
	after(t, ctx, m, at, `gangway-init .*: the machine reached the hub with the new network settings and keeps them`)
	says("from the hub, kept at")
	m.Stop()

	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: network: eth0 has 10\.0\.2\.77/24$`)
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	at = set("vlan = 7")
	at = after(t, ctx, m, at, `gangway-init .*: The hub was not reached with the new network settings`).At
	after(t, ctx, m, at, `gangway-init .*: network settings from the hub \(.*\) were dropped: The hub was not reached within 40s`)
	after(t, ctx, m, at, `gangway-init .*: network: eth0 has 10\.0\.2\.77/24$`)
	says("from the hub, dropped at")
	m.Stop()

	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	at = set("address = 10.0.2.78/24", "gateway = 10.0.2.2")
	after(t, ctx, m, at, `gangway-init .*: network: new settings, on trial`)
	m.Stop()
	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .* were dropped: The machine restarted before`)
	waitFor(t, ctx, m, `gangway-init .*: network: eth0 has 10\.0\.2\.77/24$`)
	says("The machine restarted before it reached the hub")
	m.Stop()
	s.listed(t)
}
