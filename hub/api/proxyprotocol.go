package api

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/pires/go-proxyproto"
)

// behindProxies makes a listener read the PROXY protocol's header from the
// addresses that were named. A header from another address is no TLS, and ends
// its connection; so does a connection from a proxy without one. Without this
// rule, a client could name any address, or a proxy that is set up wrongly
// would pass for all its clients.
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
				return fmt.Errorf("hub: a header of the PROXY protocol has version %d; set the proxy to version 2", h.Version)
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
