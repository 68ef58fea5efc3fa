// Package hub is the hub's HTTP side: a handler file for each resource, and
// nothing clever. Who may do what is decided in auth.go and nowhere else.
//
// One listener serves people, their programs and devices, by TLS 1.3 alone. A
// client certificate is asked for and not required; one that is sent must
// chain to the device CA, or the handshake fails. Its leaf then identifies a
// device, if the store knows it as active.
package api

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"gangway/hub/bearer"
	"gangway/hub/objects"
	"gangway/hub/onboard"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/wire"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// Config is what a Server is made of. All fields are required unless a
// default is given.
type Config struct {
	Store   store.Store
	CA      *pki.Hub
	Onboard *onboard.Service
	// Objects is where the contents of objects are kept.
	Objects objects.Store
	Log     *slog.Logger
	Now     func() time.Time
	// PublicURL is the https URL that clients use, without a trailing slash.
	PublicURL string
	// AlsoURLs are further URLs that lead here, such as the public one before the
	// hub moved. Devices are told all of them.
	AlsoURLs []string
	// DataDir is the folder of the database and of the objects, whose disk is
	// watched; empty: none is.
	DataDir string
	// Names are the DNS names and IP addresses of the TLS certificate.
	Names []string
	// Rates replace some of DefaultRates.
	Rates Rates
	// Timeouts bound connections and requests. Default: see Timeouts.
	Timeouts Timeouts
	// ProxyProtocol are the addresses of TCP proxies, which begin each
	// connection with a header of the PROXY protocol, version 2. Connections
	// from elsewhere have none.
	ProxyProtocol []netip.Prefix
	// OpenRegistration lets whoever asks make an account.
	OpenRegistration bool
	// TLS12 also lets TLS 1.2 in, for devices whose software has no other. A
	// chip's activation needs TLS 1.3 all the same.
	TLS12 bool
	// ObjectQuota is how much an owner may keep, in bytes of objects and
	// states. Default: 64 GiB.
	ObjectQuota int64
	// LogBounds and LogAge are how much of a device's log is kept, and how
	// long. Default: 20,000 lines, 8 MiB, 30 days.
	LogBounds store.LogBounds
	LogAge    time.Duration
	// EventsAge is how long the audit trail keeps events; negative: for ever.
	// UnprovenAge is how long it keeps those that peers caused who had proven
	// nothing, such as refused requests. Default: DefaultEventsAge,
	// DefaultUnprovenAge.
	EventsAge, UnprovenAge time.Duration
	// Proxy is in front of the hub and ends TLS; nil: there is none.
	Proxy *Proxy
	// Version is shown to people.
	Version string
}

// Timeouts bound how long a client may take. Zero is the default.
type Timeouts struct {
	Header  time.Duration // for a request's header, and a PROXY protocol header: 10 s
	Request time.Duration // for a request's body, and for the answer: 60 s. Uploads and downloads have 60 s for each block instead.
	Idle    time.Duration // between two requests of a connection: 2 min
}

func (t Timeouts) withDefaults() Timeouts {
	return Timeouts{cmp.Or(t.Header, 10*time.Second), cmp.Or(t.Request, 60*time.Second), cmp.Or(t.Idle, 2*time.Minute)}
}

// Server answers HTTP requests.
type Server struct {
	cfg       Config
	log       *slog.Logger
	metrics   *metrics
	passwords *passwords
	tokens    *bearer.Keys
	accounts  *accountLimiter
	// limiters are by the names of Rates: those that limit networks.
	limiters map[string]*limiter[netip.Prefix]
	boots    *limiter[string] // measurements, by the device's id
	handler  http.Handler

	signedURLKey []byte
	tally        tally // of frequent events
	uploads      uploads
	space        *space
}

// New makes a server. It starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.CA == nil || cfg.Onboard == nil || cfg.Objects == nil || cfg.Log == nil || cfg.Now == nil || cfg.PublicURL == "" || len(cfg.Names) == 0 {
		return nil, errors.New("hub: the configuration is incomplete")
	}
	if !strings.HasPrefix(cfg.PublicURL, "https://") || strings.HasSuffix(cfg.PublicURL, "/") {
		return nil, fmt.Errorf("hub: the public URL %q is not https://host[:port]", cfg.PublicURL)
	}
	for _, u := range cfg.AlsoURLs {
		if !wire.IsHubURL(u) || strings.HasSuffix(u, "/") {
			return nil, fmt.Errorf("hub: the URL %q is not https://host[:port]", u)
		}
	}
	rates, err := DefaultRates().with(cfg.Rates)
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	cfg.Timeouts = cfg.Timeouts.withDefaults()
	if cfg.ObjectQuota == 0 {
		cfg.ObjectQuota = 64 << 30
	}
	if cfg.LogBounds == (store.LogBounds{}) {
		cfg.LogBounds = store.LogBounds{Rows: 20_000, Bytes: 8 << 20}
	}
	if cfg.LogAge == 0 {
		cfg.LogAge = 30 * 24 * time.Hour
	}
	cfg.EventsAge = cmp.Or(cfg.EventsAge, DefaultEventsAge)
	cfg.UnprovenAge = cmp.Or(cfg.UnprovenAge, DefaultUnprovenAge)
	if cfg.Proxy != nil {
		if err := cfg.Proxy.check(cfg.CA); err != nil {
			return nil, err
		}
	}
	// Names that no certificate can have show at the start, not at the first
	// handshake.
	if _, err := cfg.CA.TLSCertificate(cfg.Now, cfg.Names)(nil); err != nil {
		return nil, err
	}
	p, err := newPasswords()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: cfg.Log, space: newSpace(cfg.DataDir, cfg.Log),
		metrics:   newMetrics(prometheus.NewRegistry()),
		tally:     tally{crowd: newCrowd()},
		passwords: p,
		tokens:    bearer.New(cfg.CA.SealKey(), cfg.PublicURL, cfg.AlsoURLs...),
		accounts:  newAccountLimiter(rates[accountRate]),
		limiters:  rates.byNetwork(),
		boots:     limiterOf[string](rates[bootRate]),
	}
	if s.signedURLKey, err = signedURLKey(cfg.CA.SealKey()); err != nil {
		return nil, err
	}
	s.handler = s.newHandler()
	if cfg.Onboard.Unproven == nil {
		cfg.Onboard.Unproven = s.unproven
	}
	return s, nil
}

// Handler returns the routes, for a listener that does TLS as TLSConfig says.
// A request on a resumed TLS session is refused if it has a client certificate.
func (s *Server) Handler() http.Handler { return s.handler }

// TLSConfig is TLS 1.3 with the hub's certificate; client certificates are
// verified for client authentication against the device CA alone, and where
// there is a proxy against its CA too: which of them it was, the chain tells.
func (s *Server) TLSConfig() *tls.Config {
	version := uint16(tls.VersionTLS13)
	if s.cfg.TLS12 {
		version = tls.VersionTLS12
	}
	return &tls.Config{
		MinVersion:     version,
		GetCertificate: s.cfg.CA.TLSCertificate(s.cfg.Now, s.cfg.Names),
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      s.clientCAs(),
		// A resumed session carries the client's certificate, and nobody signs:
		// a copied ticket would be the device without its TPM. Go decides
		// before it knows the certificate, so nobody gets tickets.
		SessionTicketsDisabled: true,
		VerifyConnection:       s.verifyPeer,
		Time:                   s.cfg.Now,
	}
}

// Serve serves on TCP listeners until ctx ends; then it lets running requests
// finish, for at most ten seconds. It also expires enrolments that
// nobody activated.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler,
		TLSConfig:         s.TLSConfig(),
		ReadHeaderTimeout: s.cfg.Timeouts.Header,
		ReadTimeout:       s.cfg.Timeouts.Request,
		WriteTimeout:      s.cfg.Timeouts.Request,
		IdleTimeout:       s.cfg.Timeouts.Idle,
		MaxHeaderBytes:    16 << 10,
		ConnContext:       withConnState,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	ctx, failed := context.WithCancel(ctx) // a listener that fails ends the others
	defer failed()
	var sweeping sync.WaitGroup
	sweeping.Go(func() { s.sweep(ctx) })
	sweeping.Go(func() { s.collecting(ctx) })
	sweeping.Go(func() { s.tallying(ctx) })
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
				return fmt.Errorf("hub: %w", err)
			}
			return nil
		})
	}
	if err := serving.Wait(); err != nil {
		return err
	}
	sweeping.Wait()
	return <-stopped
}

// secured sets the headers that every answer has, finds out where a request
// comes from, refuses requests that a page of another site caused, and turns a
// panic into a logged 500.
func (s *Server) secured(next http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, problem(http.StatusForbidden, "cross-origin", "Use the hub's own pages.", "A page of another site caused this request."))
	}))
	next = origin.Handler(next)
	addresses := strings.Join(append([]string{s.cfg.PublicURL}, s.cfg.AlsoURLs...), ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				if v == http.ErrAbortHandler {
					panic(v)
				}
				s.metrics.panics.Inc()
				s.log.Error("panic", "method", r.Method, "path", r.URL.Path, "panic", v)
				s.fail(w, r, fmt.Errorf("panic: %v", v))
			}
		}()
		h := w.Header()
		h.Set(wire.AddressesHeader, addresses)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		// Not Strict-Transport-Security: see docs/security.md.
		from, err := s.withOrigin(r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		actor := &store.Actor{Addr: remoteAddr(from)}
		next.ServeHTTP(w, from.WithContext(store.WithActor(from.Context(), actor)))
	})
}
