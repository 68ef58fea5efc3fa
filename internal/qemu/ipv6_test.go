package qemu_test

import (
	"crypto/x509"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"

	"gangway/device/install/netfile"
	"gangway/internal/hubtest"
	"gangway/internal/qemu"
	"gangway/internal/swtpm"
)

// A machine onboards on a network that has only IPv6, with automatic addresses and with static
// addresses.
func TestMachineComesAboardByIPv6(t *testing.T) {
	t.Parallel()
	long(t)
	need(t)
	for name, c := range map[string]struct {
		network *netfile.Settings
		address string
	}{
		"automatic": {nil, "fec0::5054:ff:fe12:3456/64"},
		"static":    {settings(t, "address = fec0::77/64", "gateway = fec0::2"), "fec0::77/64"},
	} {
		t.Run(name, func(t *testing.T) { byIPv6(t, c.network, c.address) })
	}
}

func byIPv6(t *testing.T, network *netfile.Settings, address string) {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("this machine has no IPv6: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	tpm := newTPM(t, swtpm.P384)
	h := hubtest.New(t, tpm.Roots(), []*x509.Certificate{tpm.Issuer()})
	go forward(l, strings.TrimPrefix(h.URL, "https://"))
	tok := guestToken(t, h)
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	tok.Hub = (&url.URL{Scheme: "https", Host: net.JoinHostPort("fec0::2", port)}).String()
	disk := guest{token: tok, network: network}.disk(t)
	m, ctx := boot(t, qemu.Config{Dir: t.TempDir(), TPM: tpm, IPv6: true, Disks: []qemu.Disk{{Path: disk, ReadOnly: true}}})
	waitFor(t, ctx, m, `gangway-init .*: network: eth0 has `+address+`$`)
	waitFor(t, ctx, m, `^Connected to https://\[fec0::2\]:\d+ as `)
	m.Stop()
	if devices := h.Devices(t, h.Owner); len(devices) != 1 {
		t.Errorf("devices: %+v", devices)
	}
}

// forward passes connections on to an address until the listener is closed.
func forward(l net.Listener, to string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			far, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer far.Close()
			go func() { io.Copy(far, c); far.Close() }()
			io.Copy(c, far)
		}()
	}
}
