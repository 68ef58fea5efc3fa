package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gangway/hub/api"
	"gangway/hub/objects"
	"gangway/hub/pki"
	"gangway/internal/memory"

	"github.com/dustin/go-humanize"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

func (a *app) serveCommand() *cobra.Command {
	var data, url, name, curve, logFormat, endpoint string
	var accessLog string
	var traces traceFlags
	var listen, also []string
	var makers makerFlags
	var options serverOptions
	var web onlineFlags
	var proxy proxyFlags
	var quota string
	var limits limitFlags
	var images imageFlags
	var pages pageFlags
	var metrics string
	var s3 objects.S3Config
	var newDatabase bool
	c := &cobra.Command{
		Use:   "serve --data DIR",
		Short: "Run the hub",
		Long: `Serve runs the hub in one process with one database file. The first start creates
the hub's keys (DIR/pki) and its database (DIR/gangway.db). Back up both: without the
keys, the hub recognizes no device.

With --database, the database is in PostgreSQL. The user of the URL must own the
database. The keys stay in DIR.

Owners' objects are in DIR/objects. With --s3-endpoint and --s3-bucket they are in a
bucket; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are its credentials.

The hub accepts devices by the certificates of their TPM makers. Some are built
in. 'gangway trust' shows and changes which certificates are trusted, even while the
hub runs. --tpm-roots and --tpm-intermediates add certificates for as long as this
process runs.

Kubernetes mounts the keys from a Secret: --pki names their folder. The hub accepts keys
that the group may read only if root owns them and the hub does not run as root.

The hub may use at most nine tenths of its cgroup's memory limit, and at most six tenths
of the machine's memory; below that, it collects garbage seldom (GOGC=400). The
environment variables GOMEMLIMIT and GOGC override both: GOMEMLIMIT=off restores Go's
defaults.`,
		Example: `  gangway serve --data /var/lib/gangway --listen :12443 --url https://hub.example:12443
  gangway serve --data /var/lib/gangway --listen :443 --listen :12443 --url https://new.example --also-url https://hub.example:12443
  gangway serve --data /var/lib/gangway --listen :12443 --url https://hub.example:12443 --page-listen :443 --page-url https://fleet.example --acme --acme-accept-tos
  gangway serve --data /var/lib/gangway --listen :12443 --url https://hub.example:12443 --database postgres://hub@db.example/gangway --database-password-file /etc/gangway/database-password
  gangway serve --data ./hub --tpm-roots ./makers.pem`,
		Args: args(),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			memory.Use()
			crv, err := curveOf(curve)
			if err != nil {
				return err
			}
			perOwner, err := humanize.ParseBytes(quota)
			if err != nil || perOwner == 0 || perOwner > 1<<60 {
				return usagef("--object-quota %q is not a size such as 64GiB", quota)
			}
			options.quota = int64(perOwner)
			if options.proxy, err = proxy.proxy(); err != nil {
				return err
			}
			if options.profiles && metrics == "" {
				return usagef("--profiles needs --metrics-listen: the hub serves profiles only there")
			}
			if err := limits.into(&options); err != nil {
				return err
			}
			if err := images.check(); err != nil {
				return err
			}
			online, err := web.online()
			if err != nil {
				return err
			}
			log, err := a.logger(logFormat)
			if err != nil {
				return err
			}
			closeLog, err := a.accessLog(accessLog, &options)
			if err != nil {
				return err
			}
			defer closeLog()
			forwards, err := forwarder(endpoint, log)
			if err != nil {
				return err
			}
			if forwards != nil {
				options.logs = forwards
				forwarding, stop := context.WithCancel(context.WithoutCancel(ctx))
				ended := make(chan struct{})
				go func() { defer close(ended); forwards.Run(forwarding) }()
				// The server has stopped when this runs; the exporter then sends the last log
				// lines.
				defer func() { stop(); <-ended }()
			}
			endTraces, err := traces.into(ctx, &options, c.Flags().Changed("traces-ratio"), log)
			if err != nil {
				return err
			}
			defer endTraces()
			// Check all addresses before listening, so that a wrong address is always a usage
			// error.
			for _, at := range listen {
				if err := checkAddress("--listen", at); err != nil {
					return err
				}
			}
			if metrics != "" {
				if err := checkAddress("--metrics-listen", metrics); err != nil {
					return err
				}
			}
			var listeners []net.Listener
			for _, at := range listen {
				l, err := listenOn("--listen", at)
				if err != nil {
					return err
				}
				defer l.Close()
				listeners = append(listeners, l)
			}
			if len(listeners) == 0 {
				return usagef("--listen is empty: give an address and port, such as :12443")
			}
			var private net.Listener
			if metrics != "" {
				if private, err = listenOn("--metrics-listen", metrics); err != nil {
					return err
				}
				defer private.Close()
			}
			if err := pages.check(); err != nil {
				return err
			}
			var forPages []net.Listener
			for _, at := range pages.listen {
				l, err := listenOn("--page-listen", at)
				if err != nil {
					return err
				}
				defer l.Close()
				forPages = append(forPages, l)
			}
			urls, names, err := addresses(url, also, listeners[0].Addr())
			if err != nil {
				return err
			}
			serve := func(ctx context.Context, m *mover, s sockets) error {
				i, err := openInstance(ctx, data, openOptions{Options: pki.Options{Name: name, Curve: crv}, serve: true, newDatabase: newDatabase})
				if err != nil {
					return err
				}
				defer i.close()
				if err := i.ca.Prove(); err != nil {
					return fmt.Errorf("the key of a CA cannot be used, so the hub cannot onboard devices: %w", err)
				}
				if _, err := i.store.NextEpoch(ctx); err != nil {
					return err
				}
				if options.restore, err = i.latestRestore(ctx); err != nil {
					return err
				}
				gone, err := i.objectsGone(ctx, s3)
				if err != nil {
					return err
				}
				if gone {
					a.note("Warning: %s does not exist, but owners have uploaded objects. Stop the hub and restore the folder from its backup, or ask owners to upload their objects again.", filepath.Join(data, objectFolder))
				}
				if err := i.openObjects(ctx, s3); err != nil {
					return err
				}
				known, err := makers.set(ctx)
				if err != nil {
					return err
				}
				if err := images.into(&options, data, log); err != nil {
					return err
				}
				if options.pageURL, options.pageCertificate, err = pages.certificate(data, log); err != nil {
					return err
				}
				server, service, err := i.server(urls, names, known, log, options)
				if err != nil {
					return err
				}
				service.Online = online
				accounts, err := i.store.CountAccounts(ctx)
				if err != nil {
					return err
				}
				if i.ca.Created() {
					where := filepath.Join(data, databaseFile)
					if _, shared, _ := database(ctx); shared {
						where = "in PostgreSQL"
					}
					a.note("First start: created the hub's keys in %s and its database %s.", keysFolder(ctx, data), where)
					a.note("Back up both; the keys cannot be created again.")
				} else if c.Flags().Changed("curve") || c.Flags().Changed("name") {
					a.note("The hub's keys exist already: --curve and --name have no effect.")
				}
				a.note("Hub %s", strings.Join(urls, ", also "))
				if options.pageURL != "" {
					a.note("Pages %s", options.pageURL)
				}
				a.note("Hub name (its root key): %s", i.ca.HubName())
				if c := i.ca.TLSCA(); c != nil && time.Until(c.NotAfter) < pki.TLSCAWarning {
					a.note("Warning: the hub's TLS CA expires on %s. After this date, nobody can connect to the hub. Renew the TLS CA: see 'gangway ca request --help'.", c.NotAfter.Format(time.DateOnly))
				}
				if err := a.noteAddresses(ctx, i, urls, listeners, options.proxy != nil || len(options.proxyProtocol) > 0); err != nil {
					return err
				}
				if err := a.noteMakers(ctx, i, known); err != nil {
					return err
				}
				if accounts == 0 {
					a.note("There is no account yet. Create the first account on this machine:\n  gangway account create --data %s --nick YOUR-NAME", data)
				}
				m.server.Store(server)
				return serveAll(ctx, server, s.listeners, s.pages, s.private)
			}
			return a.serveThroughMove(ctx, data, sockets{listeners, forPages, private}, serve)
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", "folder of the hub's keys and database (required)")
	f.StringSliceVar(&listen, "listen", []string{"127.0.0.1:12443"}, "address and port to listen on; \":12443\" is all addresses of this machine (repeatable)")
	f.StringVar(&url, "url", "", "https URL that devices and people use (default: the URL of --listen, if that is a loopback address)")
	f.StringSliceVar(&also, "also-url", nil, "another https URL of this hub, such as its former URL; the hub sends all its URLs to its devices (repeatable)")
	f.StringVar(&name, "name", "", `name in the CA certificates that the hub creates when it first starts (default "Gangway")`)
	f.StringVar(&curve, "curve", "P-256", "curve of the CA keys that the hub creates when it first starts: P-256 or P-384")
	f.BoolVar(&newDatabase, "new-database", false, "start with an empty database if the keys exist and the database does not; every device must onboard again")
	makers.add(f)
	f.BoolVar(&options.openRegistration, "open-registration", false, "let anyone who can reach the hub create an account ('pvr register')")
	f.BoolVar(&options.tls12, "allow-tls12", false, "also accept TLS 1.2, for devices with a Pantavisor that does not support TLS 1.3")
	web.add(f)
	proxy.add(f)
	pages.add(f)
	limits.add(f)
	images.add(f)
	f.StringVar(&metrics, "metrics-listen", "", "address and port for GET /metrics over plain HTTP, such as 127.0.0.1:12444; it must not be reachable from outside (default: none)")
	f.StringVar(&quota, "object-quota", "64GiB", "how much each owner may store in objects and states")
	addS3Flags(f, &s3)
	f.StringVar(&endpoint, "otlp-logs-endpoint", "", "https URL of a log engine to which the hub forwards the devices' log lines by OTLP/HTTP, such as https://logs.example/v1/logs; headers come from OTEL_EXPORTER_OTLP_HEADERS (default: none)")
	traces.add(f)
	f.StringVar(&accessLog, "access-log", "", "file to which the hub appends a line in JSON for each request; - is the standard output (default: none)")
	f.BoolVar(&options.profiles, "profiles", false, "serve Go's profiles of the hub at /debug/pprof/ on --metrics-listen; anyone who can request profiles can make the hub use much CPU time")
	f.StringVar(&logFormat, "log-format", "text", "format of the log: text or json")
	return c
}

// serveAll serves the hub on `listeners` until `ctx` ends or a server fails. On the listeners
// `forPages`, it serves only the web pages. If `private` is not nil, it serves the operator's
// metrics on this listener.
func serveAll(ctx context.Context, server *api.Server, listeners, forPages []net.Listener, private net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Serve(ctx, listeners...) })
	if len(forPages) > 0 {
		group.Go(func() error { return server.ServePages(ctx, forPages...) })
	}
	if private != nil {
		group.Go(func() error { return server.ServePrivate(ctx, private) })
	}
	return group.Wait()
}

// accessLog opens the access log, if `path` is not empty. Only the hub's user may read the file,
// because the lines contain the IP addresses of clients.
func (a *app) accessLog(path string, o *serverOptions) (done func() error, err error) {
	done = func() error { return nil }
	switch path {
	case "":
		return done, nil
	case "-":
		o.accessLog = slog.New(slog.NewJSONHandler(a.stdout, nil))
		return done, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return done, fmt.Errorf("--access-log: %w", err)
	}
	o.accessLog = slog.New(slog.NewJSONHandler(f, nil))
	return f.Close, nil
}

func (a *app) logger(format string) (*slog.Logger, error) {
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(a.stderr, nil)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(a.stderr, nil)), nil
	}
	return nil, usagef("--log-format must be text or json, not %q", format)
}

// checkAddress checks the form of the address in a flag.
func checkAddress(flag, at string) error {
	_, port, err := net.SplitHostPort(at)
	if _, number := strconv.ParseUint(at, 10, 16); number == nil {
		return usagef("%s %q is a port without an address: write :%s for all addresses of this machine, or 127.0.0.1:%s for this machine only", flag, at, at, at)
	}
	if err != nil {
		return usagef("%s %q is not ADDRESS:PORT: write it like :12443, 127.0.0.1:12443 or [::1]:12443", flag, at)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return usagef("%s %q: the port %q is not a number from 1 to 65535", flag, at, port)
	}
	return nil
}

// listenOn listens on the address and port that a flag gives. The argument `at` is the flag's
// value. The errors of listenOn say what to write instead.
func listenOn(flag, at string) (net.Listener, error) {
	if err := checkAddress(flag, at); err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", at)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s %s: address already in use: another program listens there ('ss -ltnp' shows which); stop it, or choose another port", flag, at)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s %s: %s is not an address of this machine ('ip address' lists the addresses); %s :%s listens on all addresses", flag, at, host, flag, port)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s %s: only root may listen on ports below 1024: choose another port, or run 'setcap cap_net_bind_service=+ep' on this program", flag, at)
	case err != nil:
		return nil, fmt.Errorf("%s %s: %w", flag, at, err)
	}
	return l, nil
}
