package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"gangway/device/agent"
	"gangway/device/install/netfile"

	"github.com/spf13/pflag"
)

// networkOptions say how the hub is reached.
type networkOptions struct{ proxy, proxyCA, file string }

func (o *networkOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.proxy, "proxy", "", "proxy by which the hub is reached: http://proxy.example:3128, or https:// with --proxy-ca; the environment's is not used")
	f.StringVar(&o.proxyCA, "proxy-ca", "", "file of the CA (PEM) of a proxy with https://; it vouches for nothing else")
	f.StringVar(&o.file, "network-file", "", "file of network settings (network.txt), of which the agent takes the proxy, and with --set-clock the time servers; keeps the proxy's password off the command line")
}

// settings are what the options say together.
func (o *networkOptions) settings() (*netfile.Settings, error) {
	if o.file != "" {
		if o.proxy != "" || o.proxyCA != "" {
			return nil, usageError{errors.New("--network-file has the proxy: leave --proxy and --proxy-ca out")}
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
		return nil, usageError{err}
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
			return nil, fmt.Errorf("%s has no certificate in PEM", o.proxyCA)
		}
	}
	_, err = netfile.Parse([]byte(s.Text())) // what they say together
	if m := (*netfile.Mistake)(nil); errors.As(err, &m) {
		return nil, usageError{errors.New(m.Text)}
	}
	return s, err
}

// httpProxy is the proxy; nil: none.
func httpProxy(s *netfile.Settings) *agent.HTTPProxy {
	if s.Proxy == nil {
		return nil
	}
	return &agent.HTTPProxy{URL: s.Proxy, CA: s.ProxyCA}
}
