package api

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/pires/go-proxyproto"
)

// behindProxies makes a listener read a PROXY protocol header from each configured proxy. If a
// proxy sends no header, the listener closes the connection, because otherwise all clients of the
// proxy would seem to have the proxy's address. If any other client sends a header, the TLS
// handshake fails, so a client cannot claim another address.
func (s *Server) behindProxies(l net.Listener) net.Listener {
	if len(s.cfg.ProxyProtocol) == 0 {
		return l
	}
	return &proxyproto.Listener{
		Listener:          l,
		ReadHeaderTimeout: s.cfg.Timeouts.Header,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if s.isTCPProxy(o.Upstream) {
				return proxyproto.REQUIRE, nil
			}
			return proxyproto.SKIP, nil
		},
		ValidateHeader: func(h *proxyproto.Header) error {
			if h.Version != 2 {
				return fmt.Errorf("hub: the PROXY protocol header has version %d; set the proxy to version 2", h.Version)
			}
			return nil
		},
	}
}

func (s *Server) isTCPProxy(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	return slices.ContainsFunc(s.cfg.ProxyProtocol, func(p netip.Prefix) bool { return p.Contains(ip) })
}
