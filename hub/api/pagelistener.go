package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"gangway/wire"

	"golang.org/x/sync/errgroup"
)

// The pages may have a name and a listener of their own, with a certificate that browsers trust.
// That listener serves the pages and what people's programs use. It asks for no client certificate,
// and none of its requests is a device's: routes for devices are not there.

// PageCertificate is the certificate of the pages' own listener: see webcert.
type PageCertificate interface {
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Protocols are ALPN protocols that the listener accepts besides those of HTTP.
	Protocols() []string
	// Run keeps the certificate valid until ctx ends.
	Run(ctx context.Context)
	// Expires returns the end of the certificate's life; zero: there is none yet.
	Expires() time.Time
}

// checkPages checks the configuration of the pages' own name.
func (c *Config) checkPages() error {
	if (c.PageURL == "") != (c.PageCertificate == nil) {
		return errors.New("hub: the pages' URL and certificate belong together")
	}
	if c.PageURL != "" && (!wire.IsHubURL(c.PageURL) || strings.HasSuffix(c.PageURL, "/")) {
		return fmt.Errorf("hub: the pages' URL %q is not https://host[:port]", c.PageURL)
	}
	return nil
}

// pageURL is the URL of the pages for people, without a trailing slash.
func (s *Server) pageURL() string {
	if s.cfg.PageURL != "" {
		return s.cfg.PageURL
	}
	return s.cfg.PublicURL
}

type onPagesKey struct{}

// onPages reports whether a request came by the pages' own listener.
func onPages(r *http.Request) bool { return r.Context().Value(onPagesKey{}) != nil }

// urlFor returns the hub's URL at which the client of a request reached it. A client of one listener
// may not trust the certificate of the other.
func (s *Server) urlFor(r *http.Request) string {
	if onPages(r) {
		return s.cfg.PageURL
	}
	return s.cfg.PublicURL
}

// deviceRoutes are the routes for devices whose access does not say so: they prove who they are in
// the body, or have proven nothing yet.
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

// errDeviceRoute refuses a device's request on the pages' listener.
func (s *Server) errDeviceRoute() *Problem {
	return problem(http.StatusNotFound, "device-route", "Devices use "+s.cfg.PublicURL+".", "This name of the hub is for people only, and has no routes for devices.")
}

// PageHandler returns the handler for the pages' own listener.
func (s *Server) PageHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), onPagesKey{}, true)))
	})
}

// PageTLSConfig returns the TLS configuration of the pages' own listener. It asks for no client
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

// ServePages serves the pages on listeners of their own until ctx ends. Serve must run too.
func (s *Server) ServePages(ctx context.Context, listeners ...net.Listener) error {
	if s.cfg.PageURL == "" {
		return errors.New("hub: the pages have no name of their own")
	}
	srv := &http.Server{
		Handler:           s.PageHandler(),
		TLSConfig:         s.PageTLSConfig(),
		ReadHeaderTimeout: s.cfg.Timeouts.Header,
		ReadTimeout:       s.cfg.Timeouts.Request,
		WriteTimeout:      s.cfg.Timeouts.Request,
		IdleTimeout:       s.cfg.Timeouts.Idle,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	srv.RegisterOnShutdown(s.live.end)
	ctx, failed := context.WithCancel(ctx)
	defer failed()
	go s.cfg.PageCertificate.Run(ctx) // nothing waits for an answer of the CA
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		stopped <- srv.Shutdown(grace)
	}()
	var serving errgroup.Group
	for _, l := range listeners {
		serving.Go(func() error {
			defer failed()
			if err := srv.ServeTLS(s.behindProxies(l), "", ""); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("hub: pages: %w", err)
			}
			return nil
		})
	}
	if err := serving.Wait(); err != nil {
		return err
	}
	return <-stopped
}
