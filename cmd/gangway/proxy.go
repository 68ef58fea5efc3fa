package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"

	"gangway/hub/api"

	"github.com/spf13/pflag"
)

// proxyFlags are the flags of 'gangway serve' for a TLS-terminating proxy in front of the hub.
type proxyFlags struct {
	ca, name string
	traces   bool
}

func (p *proxyFlags) add(f *pflag.FlagSet) {
	f.StringVar(&p.ca, "proxy-ca", "", "file of the CA that signed the client certificate of a TLS-terminating proxy; not one of the hub's CAs (default: no proxy)")
	f.StringVar(&p.name, "proxy-name", "", "DNS name or IP address in the proxy's client certificate")
	f.BoolVar(&p.traces, "proxy-traces", false, "continue the traces of the proxy; the proxy must replace the header traceparent that its clients send, because otherwise clients choose which requests have traces")
}

// proxy returns the proxy that may send the header Client-Cert, or nil if the flags name no proxy.
func (p *proxyFlags) proxy() (*api.Proxy, error) {
	if p.ca == "" && p.name == "" && p.traces {
		return nil, usagef("--proxy-traces needs a proxy: give --proxy-ca and --proxy-name")
	}
	if p.ca == "" && p.name == "" {
		return nil, nil
	}
	if p.ca == "" || p.name == "" {
		return nil, usagef("--proxy-ca and --proxy-name must be given together")
	}
	text, err := os.ReadFile(p.ca)
	if err != nil {
		return nil, fmt.Errorf("read --proxy-ca: %w", err)
	}
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read --proxy-ca %s: %w", p.ca, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("--proxy-ca %s has no PEM certificate", p.ca)
	}
	return &api.Proxy{CAs: certs, Name: p.name, Traces: p.traces}, nil
}
