package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"gangway/device/agent"
	"gangway/device/install/netfile"

	"gangway/internal/cmdline"

	"github.com/spf13/pflag"
)

// networkOptions are the options for the connection to the hub.
type networkOptions struct{ proxy, proxyCA, file string }

func (o *networkOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.proxy, "proxy", "", "HTTP proxy for the connection to the hub: http://proxy.example:3128, or https:// with --proxy-ca; HTTPS_PROXY is ignored (default: no proxy)")
	f.StringVar(&o.proxyCA, "proxy-ca", "", "CA certificate file (PEM) of an https:// proxy; the agent trusts this CA only for the proxy")
	f.StringVar(&o.file, "network-file", "", "network settings file (network.txt); the agent uses the proxy in this file and, with --set-clock, the time servers; use the file to keep a proxy's password off the command line")
}

// settings returns the network settings that the options give.
func (o *networkOptions) settings() (*netfile.Settings, error) {
	if o.file != "" {
		if o.proxy != "" || o.proxyCA != "" {
			return nil, cmdline.Usagef("--network-file cannot be combined with --proxy or --proxy-ca; write the proxy into the file")
		}
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
	}
	if o.proxy == "" && o.proxyCA == "" {
		return &netfile.Settings{}, nil
	}
	u, err := netfile.ParseProxy(o.proxy)
	if err != nil {
		return nil, cmdline.Usagef("%w", err)
	}
	s := &netfile.Settings{Proxy: u}
	if o.proxyCA != "" {
		rest, err := readFile(o.proxyCA, 1<<20)
		if err != nil {
			return nil, err
		}
		for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
			c, err := netfile.ParseCA(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", o.proxyCA, err)
			}
			s.ProxyCA = append(s.ProxyCA, c)
		}
		if len(s.ProxyCA) == 0 {
			return nil, fmt.Errorf("%s contains no PEM certificate", o.proxyCA)
		}
	}
	_, err = netfile.Parse([]byte(s.Text())) // checks the combination
	if m := (*netfile.Mistake)(nil); errors.As(err, &m) {
		return nil, cmdline.Usagef("%s", m.Text)
	}
	return s, err
}

// httpProxy returns the proxy in the settings, or nil if the settings have no proxy.
func httpProxy(s *netfile.Settings) *agent.HTTPProxy {
	if s.Proxy == nil {
		return nil
	}
	return &agent.HTTPProxy{URL: s.Proxy, CA: s.ProxyCA}
}
