package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"gangway/device/install/netfile"

	"github.com/spf13/pflag"
)

// networkOptions are the options for a machine's network settings. Either the field `file` is the
// path of a file with all settings, or each other option gives one setting.
type networkOptions struct {
	file                             string
	iface, vlan, mtu, proxy, proxyCA string
	addresses, gateways, dns, ntp    []string
}

// networkFlags are the names of the flags that networkOptions adds.
var networkFlags = []string{"network-file", "interface", "vlan", "mtu", "address", "gateway", "dns", "ntp", "proxy", "proxy-ca"}

func (o *networkOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.file, "network-file", "", "file with all network settings of the machines (network.txt, see docs/image.md); with it, a proxy's password is not on the command line")
	f.StringVar(&o.iface, "interface", "", "network interface: a name such as eth0, or a MAC address (default: the first that works)")
	f.StringVar(&o.vlan, "vlan", "", "VLAN id (IEEE 802.1Q), 1 to 4094")
	f.StringVar(&o.mtu, "mtu", "", "MTU in bytes, 1280 to 9216 (default: the network's)")
	f.StringArrayVar(&o.addresses, "address", nil, "static address with prefix length, such as 192.0.2.10/24; once for IPv4, once for IPv6 (default: automatic)")
	f.StringArrayVar(&o.gateways, "gateway", nil, "gateway of a static address; once for IPv4, once for IPv6")
	f.StringArrayVar(&o.dns, "dns", nil, "address of a name server; up to 3")
	f.StringArrayVar(&o.ntp, "ntp", nil, "name or address of a time server (NTP); up to 3")
	f.StringVar(&o.proxy, "proxy", "", "proxy on the way to the hub: http://proxy.example:3128, or https:// with --proxy-ca")
	f.StringVar(&o.proxyCA, "proxy-ca", "", "file of the CA certificate (PEM) of an https:// proxy")
}

// settings returns the network settings that the flags give, or nil if no flag is set.
func (o *networkOptions) settings() (*netfile.Settings, error) {
	var lines []string
	add := func(key string, values ...string) {
		for _, v := range values {
			if v != "" {
				lines = append(lines, key+" = "+v)
			}
		}
	}
	add("interface", o.iface)
	add("vlan", o.vlan)
	add("mtu", o.mtu)
	add("address", o.addresses...)
	add("gateway", o.gateways...)
	add("dns", o.dns...)
	add("ntp", o.ntp...)
	add("proxy", o.proxy)
	switch {
	case o.file != "" && (len(lines) > 0 || o.proxyCA != ""):
		return nil, usagef("--network-file contains all network settings: leave the other network options out")
	case o.file != "":
		f, err := os.Open(o.file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		s, err := netfile.Read(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.file, err)
		}
		return s, nil
	case len(lines) == 0 && o.proxyCA == "":
		return nil, nil
	}
	for _, l := range lines {
		if strings.ContainsAny(l, "\r\n") {
			return nil, usagef("a network setting contains a line break: remove it")
		}
	}
	text := strings.Join(append([]string{fmt.Sprintf("version = %d", netfile.Version)}, lines...), "\n") + "\n"
	if o.proxyCA != "" {
		certificates, err := pemBlocks(o.proxyCA)
		if err != nil {
			return nil, err
		}
		text += certificates
	}
	s, err := netfile.Parse([]byte(text))
	if m := (*netfile.Mistake)(nil); errors.As(err, &m) { // options have no line numbers, so remove the mistake's line number
		return nil, usagef("%s", m.Text)
	}
	return s, err
}

// pemBlocks returns the PEM blocks of the file with the given name, without the text between the
// blocks.
func pemBlocks(name string) (string, error) {
	rest, err := readSome(name, 1<<20)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		out.Write(pem.EncodeToMemory(block))
	}
	if out.Len() == 0 {
		return "", fmt.Errorf("%s has no certificate in PEM: convert a DER file with `openssl x509 -inform DER`", name)
	}
	return out.String(), nil
}

// readSome reads at most `limit`+1 bytes of a file. If the caller gets the extra byte, the file is
// too long.
func readSome(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit+1))
}
