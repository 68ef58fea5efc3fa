package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"gangway/wire"
)

// The web pages may have their own host name and listener, with a certificate that browsers trust.
// This listener serves the web pages and the API for people's programs. It requests no client
// certificate, and does not serve the routes for devices.

// PageCertificate is the TLS certificate of the web pages' own listener. Package webcert implements
// it.
type PageCertificate interface {
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Protocols are the ALPN protocols that the listener accepts in addition to those of HTTP.
	Protocols() []string
	// Run keeps the certificate valid until ctx ends.
	Run(ctx context.Context)
	// Expires returns the time when the certificate expires, or the zero time if there is no
	// certificate yet.
	Expires() time.Time
}

// checkPages checks the fields PageURL and PageCertificate.
func (c *Config) checkPages() error {
	if (c.PageURL == "") != (c.PageCertificate == nil) {
		return errors.New("hub: the web pages need both a URL and a TLS certificate")
	}
	if c.PageURL != "" && (!wire.IsHubURL(c.PageURL) || strings.HasSuffix(c.PageURL, "/")) {
		return fmt.Errorf("hub: the URL %q of the web pages does not have the form https://host[:port]", c.PageURL)
	}
	return nil
}

// pageURL is the URL of the web pages, without a trailing slash.
func (s *Server) pageURL() string {
	if s.cfg.PageURL != "" {
		return s.cfg.PageURL
	}
	return s.cfg.PublicURL
}

type onPagesKey struct{}

// onPages reports whether a request came through the web pages' own listener.
func onPages(r *http.Request) bool { return r.Context().Value(onPagesKey{}) != nil }

// urlFor returns the URL of the listener that received the request, because the client may not
// trust the certificate of the other listener.
func (s *Server) urlFor(r *http.Request) string {
	if onPages(r) {
		return s.cfg.PageURL
	}
	return s.cfg.PublicURL
}

// deviceRoutes are routes that only devices use, although the route table lets people call them
// too. The table cannot demand a device certificate for them, because the device proves its
// identity in the body, or cannot prove an identity yet.
var deviceRoutes = []string{
	"POST /onboard", "GET /claims/{code}", "POST /enroll/request", "POST /register", "POST /devices/register", "POST /auth/signature/verify",
	"POST /devices",
}

// forDevices reports whether only devices use a route.
func (rt *route) forDevices() bool {
	switch rt.who {
	case activeDevice, tlsDevice, unmeasuredDevice, pendingDevice:
		return true
	}
	return slices.Contains(deviceRoutes, rt.name())
}

// errDeviceRoute is the answer to a request for a device's route on the listener of the web pages.
func (s *Server) errDeviceRoute() *Problem {
	return problem(http.StatusNotFound, "device-route", "Use "+s.cfg.PublicURL+" for devices.", "This address of the hub is for people only, and does not serve the routes for devices.")
}

// PageHandler returns the handler for the web pages' own listener.
func (s *Server) PageHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), onPagesKey{}, true)))
	})
}

// PageTLSConfig returns the TLS configuration of the web pages' own listener. It requests no client
// certificate.
func (s *Server) PageTLSConfig() *tls.Config {
	version := uint16(tls.VersionTLS13)
	if s.cfg.TLS12 {
		version = tls.VersionTLS12
	}
	return &tls.Config{
		MinVersion:     version,
		GetCertificate: s.cfg.PageCertificate.GetCertificate,
		ClientAuth:     tls.NoClientCert,
		NextProtos:     append([]string{"h2", "http/1.1"}, s.cfg.PageCertificate.Protocols()...),
		Time:           s.cfg.Now,
	}
}

// ServePages serves the web pages on their own listeners. After ctx ends, it continues for the
// duration Config.Drain, and then stops. Serve must run at the same time.
func (s *Server) ServePages(ctx context.Context, listeners ...net.Listener) error {
	if s.cfg.PageURL == "" {
		return errors.New("hub: the configuration has no URL for the web pages")
	}
	serving, failed := s.drain(ctx)
	defer failed()
	go s.cfg.PageCertificate.Run(serving) // in the background, because the CA may answer late
	srv := s.httpServer(s.PageHandler(), s.PageTLSConfig())
	if err := s.serveOn(serving, srv, failed, listeners, func(l net.Listener) error { return srv.ServeTLS(l, "", "") }); err != nil {
		return fmt.Errorf("hub: pages: %w", err)
	}
	return nil
}
