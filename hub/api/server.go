// Package api is the hub's HTTP interface, with one file of handlers for each resource. Only
// access.go and the route table (routes.go) decide which caller may do what.
//
// One listener serves people, their programs and devices. It uses only TLS 1.3, unless the operator
// allows TLS 1.2 too. The hub requests a client certificate, but does not require one. If the
// client sends a certificate that does not chain to the device CA, the handshake fails. A client
// certificate identifies a device if it is, according to the store, the certificate of an active
// device.
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
	"sync/atomic"
	"time"

	"gangway/hub/bearer"
	"gangway/hub/objects"
	"gangway/hub/onboard"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/wire"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
)

// Config configures a Server. The fields Store, CA, Onboard, Objects, Log, Now, PublicURL and Names
// are required.
type Config struct {
	Store   Store
	CA      *pki.Hub
	Onboard *onboard.Service
	// Objects stores the files of objects.
	Objects objects.Store
	Log     *slog.Logger
	Now     func() time.Time
	// PublicURL is the https URL that clients use, without a trailing slash.
	PublicURL string
	// AlsoURLs are further URLs of this hub, such as an earlier public URL. Every answer lists
	// them, so that devices can store them.
	AlsoURLs []string
	// DataDir is the folder of the database and the objects. The hub watches the free space of its
	// disk, unless DataDir is empty.
	DataDir string
	// Names are the DNS names and IP addresses in the hub's TLS certificate.
	Names []string
	// Rates overrides some of DefaultRates.
	Rates Rates
	// Capacity is the number of requests that may run at the same time. Default: 128 for each CPU.
	Capacity int
	// Timeouts bound connections and requests. Default: see Timeouts.
	Timeouts Timeouts
	// ProxyProtocol are the addresses of TCP proxies. Each connection from one of these addresses
	// must begin with a PROXY protocol header, version 2, and no other connection may begin with
	// one.
	ProxyProtocol []netip.Prefix
	// OpenRegistration allows anyone to create an account.
	OpenRegistration bool
	// TLS12 allows TLS 1.2 too, for devices without TLS 1.3. POST /onboard/activate requires TLS
	// 1.3 even if TLS12 is set.
	TLS12 bool
	// ObjectQuota bounds the objects and states of one account, in bytes. Default: 64 GiB.
	ObjectQuota int64
	// LogBounds and LogAge bound the size and the age of each device's log. An owner can choose
	// lower bounds. Default: DefaultLogBounds, DefaultLogAge.
	LogBounds store.LogBounds
	LogAge    time.Duration
	// LogForwarder gets the devices' log lines that the hub has stored; nil: none.
	LogForwarder LogForwarder
	// EventsAge is how long the audit trail keeps events; negative: permanently. UnprovenAge is how
	// long it keeps events caused by peers that did not prove an identity, such as refused
	// requests. Default: DefaultEventsAge, DefaultUnprovenAge.
	EventsAge, UnprovenAge time.Duration
	// Proxy is a proxy in front of the hub that terminates TLS; nil: none.
	Proxy *Proxy
	// Images builds installer images for the page /ui/onboard/image; nil: the hub builds none.
	// ImageLimits bound the builds.
	Images      ImageBuilder
	ImageLimits ImageLimits
	// PageURL is the https URL of the web pages if they have their own host name and listener: see
	// ServePages. PageCertificate is the TLS certificate of that listener.
	PageURL         string
	PageCertificate PageCertificate
	// Replicas says that other hubs may use the same database at the same time. In this case,
	// ObjectsAt names the place of Objects, and Serve returns an error if another hub stores its
	// objects elsewhere.
	Replicas  bool
	ObjectsAt string
	// Drain is how long the hub continues to accept connections after the context of Serve has
	// ended. During this time, GET /readyz says that the hub is not ready, so that a load balancer
	// sends new connections to another replica.
	Drain time.Duration
	// AccessLog gets a line for each request; nil: none.
	AccessLog *slog.Logger
	// Traces makes traces of requests; nil: the hub makes none.
	Traces Traces
	// Profiles makes ServePrivate also serve the profiles of net/http/pprof, at /debug/pprof/.
	Profiles bool
	// Version is the program's version, which pages show.
	Version string
	// Restore describes the hub's latest restore from a backup; nil: the hub was never restored.
	Restore *store.Restore
}

// Timeouts bound how long a client may take. A zero field means the default.
type Timeouts struct {
	Header  time.Duration // for a request's header, and a PROXY protocol header; default: 10 s
	Request time.Duration // for a request's body, and for the answer; default: 60 s, in uploads and downloads for each block
	Idle    time.Duration // between two requests on a connection; default: 2 min
}

func (t Timeouts) withDefaults() Timeouts {
	return Timeouts{cmp.Or(t.Header, 10*time.Second), cmp.Or(t.Request, 60*time.Second), cmp.Or(t.Idle, 2*time.Minute)}
}

// Server answers HTTP requests.
type Server struct {
	cfg       Config
	log       *slog.Logger
	tracer    trace.Tracer // nil: the hub makes no traces
	metrics   *metrics
	passwords *passwords
	tokens    *bearer.Keys
	accounts  *accountLimiter
	// limiters limit the rates of networks, by their names in Rates.
	limiters map[string]*limiter[netip.Prefix]
	boots    *limiter[string] // limits boot measurements, by the device's id
	handler  http.Handler

	certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error) // returns the TLS certificate of the hub's own CA
	clients     *clientVerifier                                      // verifies the client certificates of connections
	forwarded   *clientVerifier                                      // verifies the certificates of devices behind the proxy
	started     time.Time

	signedURLKey []byte
	formTokenKey []byte
	undos        undos
	previews     semaphoreByKey // bounds the previews of policies
	claimants    claimants
	exports      semaphoreByKey
	live         live
	images       imageBuilds
	manifests    manifestCache
	counters     eventCounters // counts frequent events
	uploads      uploads
	space        *space
	overload     overload
	routes       map[string]*route // by the mux's pattern

	replica  string // a random name of this process
	outbox   outbox // news for the other replicas
	lease    lease  // lease of the periodic work
	gauge    gauge
	heard    instant // when this replica last read the news of the other replicas
	worked   instant // when this hub last did the periodic work
	vault    claimVault
	stopping atomic.Bool // Serve's context has ended

	drainAtLeast atomic.Int64 // in nanoseconds: see DrainFor
}

// New makes a server. It does not start anything.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.CA == nil || cfg.Onboard == nil || cfg.Objects == nil || cfg.Log == nil || cfg.Now == nil || cfg.PublicURL == "" || len(cfg.Names) == 0 {
		return nil, errors.New("hub: the configuration lacks at least one of Store, CA, Onboard, Objects, Log, Now, PublicURL, Names")
	}
	if !strings.HasPrefix(cfg.PublicURL, "https://") || strings.HasSuffix(cfg.PublicURL, "/") {
		return nil, fmt.Errorf("hub: the public URL %q does not have the form https://host[:port]", cfg.PublicURL)
	}
	for _, u := range cfg.AlsoURLs {
		if !wire.IsHubURL(u) || strings.HasSuffix(u, "/") {
			return nil, fmt.Errorf("hub: the URL %q does not have the form https://host[:port]", u)
		}
	}
	if err := cfg.checkPages(); err != nil {
		return nil, err
	}
	ui.Load()
	rates, err := DefaultRates().with(cfg.Rates)
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	cfg.Timeouts = cfg.Timeouts.withDefaults()
	if cfg.ObjectQuota == 0 {
		cfg.ObjectQuota = 64 << 30
	}
	if cfg.LogBounds == (store.LogBounds{}) {
		cfg.LogBounds = DefaultLogBounds
	}
	cfg.LogAge = cmp.Or(cfg.LogAge, DefaultLogAge)
	cfg.ImageLimits = cfg.ImageLimits.withDefaults()
	cfg.EventsAge = cmp.Or(cfg.EventsAge, DefaultEventsAge)
	cfg.UnprovenAge = cmp.Or(cfg.UnprovenAge, DefaultUnprovenAge)
	if cfg.Proxy != nil {
		if err := cfg.Proxy.check(cfg.CA); err != nil {
			return nil, err
		}
	}
	// Make a certificate now, so that New returns an error if no certificate can have these names.
	// Otherwise, New would succeed, and each TLS handshake would fail.
	certificate := cfg.CA.TLSCertificate(cfg.Now, cfg.Names)
	if _, err := certificate(nil); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: cfg.Log, space: newSpace(cfg.DataDir, cfg.Log),
		certificate: certificate, started: cfg.Now(),
		metrics:   newMetrics(prometheus.NewRegistry()),
		counters:  eventCounters{unproven: newUnprovenLimiter()},
		passwords: newPasswords(),
		tokens:    bearer.New(cfg.CA.SealKey(), cfg.PublicURL, cfg.AlsoURLs...),
		accounts:  newAccountLimiter(rates[accountRate]),
		limiters:  rates.byNetwork(),
		boots:     limiterOf[string](rates[bootRate]),
	}
	s.gauge.age, s.gauge.clock = readingAge, kernelClock
	if err := s.metrics.registry.Register(gauges{s}); err != nil {
		return nil, err
	}
	if cfg.LogForwarder != nil {
		if err := s.metrics.registry.Register(cfg.LogForwarder); err != nil {
			return nil, err
		}
	}
	if cfg.Traces != nil {
		s.tracer = cfg.Traces.Tracer()
		if err := s.metrics.registry.Register(cfg.Traces); err != nil {
			return nil, err
		}
	}
	if s.signedURLKey, err = signedURLKey(cfg.CA.SealKey()); err != nil {
		return nil, err
	}
	if s.formTokenKey, err = formTokenKey(cfg.CA.SealKey()); err != nil {
		return nil, err
	}
	s.overload.capacity = int64(cmp.Or(cfg.Capacity, defaultCapacity()))
	if s.vault, err = newClaimVault(cfg.CA.SealKey()); err != nil {
		return nil, err
	}
	s.replica = newReplica()
	if cfg.Replicas {
		s.live.others = &s.outbox
		s.lease.store, s.lease.replica = cfg.Store, s.replica
	}
	s.clients, s.forwarded = clientVerifiers(cfg.CA, cfg.Proxy)
	s.handler = s.newHandler()
	if cfg.Onboard.Unproven == nil {
		cfg.Onboard.Unproven = s.recordUnproven
	}
	if cfg.Onboard.Issued == nil {
		cfg.Onboard.Issued = func(e store.Enrolment) { s.live.tell(store.Event{Kind: "enrolment.issued", Owner: e.Owner}) }
	}
	cfg.Onboard.Signed = s.knowSigned
	return s, nil
}

// Handler returns the handler of all routes, for a listener that uses TLSConfig. It refuses a
// request with a client certificate on a resumed TLS session.
func (s *Server) Handler() http.Handler { return s.handler }

// TLSConfig returns a configuration for TLS 1.3 with the hub's certificate (also for TLS 1.2, if
// Config.TLS12 is set). Client certificates are verified for client authentication, against the
// device CA and, if there is a proxy, also against the proxy's CAs. The verified chain shows which
// of these CAs issued the certificate.
func (s *Server) TLSConfig() *tls.Config {
	version := uint16(tls.VersionTLS13)
	if s.cfg.TLS12 {
		version = tls.VersionTLS12
	}
	return &tls.Config{
		MinVersion:     version,
		GetCertificate: s.certificate,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      s.clients.pool,
		// In a resumed session, the client does not sign with its certificate's key, so anyone with
		// a copied session ticket could act as the device without having its TPM. Go may issue a
		// ticket before it has the client's certificate, so no client gets a ticket.
		SessionTicketsDisabled: true,
		VerifyConnection:       s.verifyPeer,
		Time:                   s.cfg.Now,
	}
}

// Serve serves on TCP listeners. After ctx ends, it continues for the duration Config.Drain, and
// then gives the running requests ten seconds to finish. While it serves, Serve also removes
// expired data, collects unused objects, writes the counts of events, and exchanges news with
// replicas.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	config := s.ownTLSConfig()
	srv := s.httpServer(s.handler, config)
	srv.ConnContext, srv.ConnState = withConnState, noteIdle
	srv.RegisterOnShutdown(s.images.stop)
	if err := s.shareObjects(ctx); err != nil {
		return err
	}
	s.stopping.Store(false)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	serving, end := s.drain(ctx)
	failed := func() { // if a listener fails, the other listeners and the periodic work stop
		stop()
		end()
	}
	defer failed()
	background := s.background(ctx)
	err := s.serveOn(serving, srv, failed, listeners, func(l net.Listener) error {
		p, err := newParking(l, config, s.peerOfConnection, s.cfg.Timeouts, srv.ErrorLog)
		if err != nil {
			return err
		}
		return srv.Serve(p)
	})
	background()
	if err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	return nil
}

// background starts the work that the hub does besides answering requests. The periodic work stops
// when ctx ends. The rest goes on until the caller calls `end`, after the last request. `end`
// returns when all this work has stopped.
func (s *Server) background(ctx context.Context) (end func()) {
	var working sync.WaitGroup
	working.Go(func() { s.periodic(ctx) })
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	working.Go(func() { s.flushLoop(serving) })
	if s.cfg.Replicas {
		working.Go(func() { s.tellLoop(serving) })
		working.Go(func() { s.pollLoop(serving) })
	}
	return func() {
		stop()
		working.Wait()
	}
}

// httpServer returns an HTTP server with the hub's timeouts and bounds.
func (s *Server) httpServer(h http.Handler, c *tls.Config) *http.Server {
	srv := &http.Server{
		Handler:           h,
		TLSConfig:         c,
		ReadHeaderTimeout: s.cfg.Timeouts.Header,
		ReadTimeout:       s.cfg.Timeouts.Request,
		WriteTimeout:      s.cfg.Timeouts.Request,
		IdleTimeout:       s.cfg.Timeouts.Idle,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	srv.RegisterOnShutdown(s.live.end)
	return srv
}

// serveOn serves on all listeners until ctx ends, and then waits at most 10 seconds for the running
// requests. `serve` serves on one listener, with the server `srv`. If a listener fails, serveOn
// calls `failed`, which must end `ctx`.
func (s *Server) serveOn(ctx context.Context, srv *http.Server, failed context.CancelFunc, listeners []net.Listener, serve func(net.Listener) error) error {
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
			if err := serve(s.behindProxies(l)); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	if err := serving.Wait(); err != nil {
		return err
	}
	return <-stopped
}

// headerField is a field of an answer's header.
type headerField struct {
	name   string   // in canonical form
	values []string // shared by all answers: nobody may change it
}

// fixedHeaders returns the fields that every answer has. Pages set their own values for some of
// them.
func (s *Server) fixedHeaders() (list []headerField) {
	add := func(name, value string) {
		list = append(list, headerField{http.CanonicalHeaderKey(name), []string{value}})
	}
	add(wire.AddressesHeader, strings.Join(append([]string{s.cfg.PublicURL}, s.cfg.AlsoURLs...), ", "))
	if s.cfg.PageURL != "" {
		add(wire.PagesHeader, s.cfg.PageURL)
	}
	add("X-Content-Type-Options", "nosniff")
	add("X-Frame-Options", "DENY")
	add("Referrer-Policy", "no-referrer")
	add("Content-Security-Policy", "default-src 'none'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'")
	add("Cross-Origin-Opener-Policy", "same-origin")
	add("Cross-Origin-Resource-Policy", "same-origin")
	// Do not set Strict-Transport-Security: see docs/security.md.
	return list
}

// The method `secured` sets the headers of every answer, finds a request's origin, and refuses
// requests that were caused by pages of other sites. If a handler panics, it logs the panic and
// answers 500.
func (s *Server) secured(next http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, problem(http.StatusForbidden, "cross-origin", "Use the hub's own pages.", "A page of another site caused this request."))
	}))
	next = s.logged(origin.Handler(next))
	fixed := s.fixedHeaders()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served := r // the request that the handlers get; the mux sets its pattern
		defer func() {
			if v := recover(); v != nil {
				if v == http.ErrAbortHandler {
					panic(v)
				}
				s.metrics.panics.Inc()
				s.log.Error("panic", "route", routeOf(served), "panic", v, traceOf(served.Context()))
				s.fail(w, r, fmt.Errorf("panic: %v", v))
			}
		}()
		h := w.Header()
		if s.stopping.Load() {
			h.Set("Connection", "close")
		}
		for _, f := range fixed {
			h[f.name] = f.values
		}
		from, addr, err := s.findOrigin(r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		actor := new(store.Actor)
		ctx := store.WithActor(context.WithValue(r.Context(), factsKey{}, &facts{origin: from}), actor)
		ctx, span := s.beginTrace(ctx, r)
		served = r.WithContext(ctx)
		served.RemoteAddr = addr
		actor.Addr = remoteAddr(served)
		if span == nil {
			next.ServeHTTP(w, served)
			return
		}
		a := &answer{ResponseWriter: w}
		defer s.endTrace(span, a, served)
		next.ServeHTTP(a, served)
	})
}
