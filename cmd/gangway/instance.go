package main

import (
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gangway/hub/api"
	"gangway/hub/objects"
	"gangway/hub/onboard"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/store/postgres"
	"gangway/hub/trust"
	"gangway/internal/version"
)

// instance is an open data folder of a hub.
type instance struct {
	dir    string
	ca     *pki.Hub
	store  offlineStore // the database as the commands use it
	engine engine       // the same database as the server uses it
	lock   *os.File     // nil if this process does not serve the hub

	objects   objects.Store // nil until openObjects
	objectsAt string        // names the bucket or the folder with the objects
}

// openOptions are the options for opening a data folder.
type openOptions struct {
	pki.Options
	// serve locks the folder, so that no second server starts on it.
	serve bool
	// newDatabase allows an empty database for existing keys.
	newDatabase bool
}

// The names of files and folders in a data folder.
const (
	pkiFolder    = "pki"
	databaseFile = "gangway.db"
	objectFolder = "objects"
	acmeFolder   = "acme"       // the account at the ACME CA, and the web pages' certificate
	serveFile    = "serve.lock" // holds the server's process id
	// objectsIDFile is the file that contains the random name by which replicas recognise this data
	// folder's objects. It exists only if the database is in PostgreSQL.
	objectsIDFile = "objects.id"
)

// openInstance opens a data folder. If the keys and the database are both missing, it creates both.
// It refuses a folder to which other users may write, and a database without keys. If
// `o.newDatabase` is not set, it also refuses keys without a database.
func openInstance(ctx context.Context, dir string, o openOptions) (_ *instance, err error) {
	if dir == "" {
		return nil, usagef("--data is needed: the folder of the hub's keys and database")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("other users may write to %s (mode %04o): run 'chmod 700 %s' and start again", dir, info.Mode().Perm(), dir)
	}
	i := &instance{dir: dir}
	defer func() {
		if err != nil {
			i.close()
		}
	}()
	if o.serve {
		if i.lock, err = serveAlone(dir); err != nil {
			return nil, err
		}
	}
	if err := i.openEngine(ctx, dir, o); err != nil {
		return nil, err
	}
	return i, nil
}

// exists reports whether a file or folder exists at the path. It also returns true if the file
// system reports any error other than "does not exist", because opening the path then returns that
// error.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// serveAlone locks a data folder for one server, until the file is closed or the process ends. This
// works even if the hub stores its objects in S3, because the lock is a file in the data folder.
func serveAlone(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, serveFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid := make([]byte, 20)
		n, _ := f.ReadAt(pid, 0)
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another 'gangway serve' is running on %s (process %s): stop it first", dir, strings.TrimSpace(string(pid[:n])))
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := fmt.Fprintln(f, os.Getpid()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// The function `existing` opens a data folder in which a hub has already created its keys.
func existing(ctx context.Context, dir string) (*instance, error) {
	if dir == "" {
		return nil, usagef("--data is needed: the folder of the hub's keys and database")
	}
	if _, err := os.Stat(keysFolder(ctx, dir)); err != nil {
		return nil, fmt.Errorf("%q is not a hub's data folder: start the hub on it first with 'gangway serve --data %s'", dir, dir)
	}
	return openInstance(ctx, dir, openOptions{})
}

// close closes the object store and the database, and releases the lock.
func (i *instance) close() error {
	var errs []error
	if i.objects != nil {
		errs = append(errs, i.objects.Close())
	}
	if i.engine != nil {
		errs = append(errs, i.engine.Close())
	}
	if i.lock != nil {
		errs = append(errs, syscall.Flock(int(i.lock.Fd()), syscall.LOCK_UN), i.lock.Close())
	}
	return errors.Join(errs...)
}

// openObjects opens the object store and sets `i.objects`. If the configuration `c` has an endpoint
// and a bucket, the store is that bucket. If `c` has neither, the store is a folder in the data
// folder. On an error, `i.objects` stays nil.
func (i *instance) openObjects(ctx context.Context, c objects.S3Config) error {
	if c.Endpoint == "" && c.Bucket == "" {
		f, err := objects.OpenFolder(filepath.Join(i.dir, objectFolder))
		if err != nil {
			return err
		}
		i.objects = f
		i.objectsAt, err = i.folderID()
		return err
	}
	if c.Endpoint == "" || c.Bucket == "" {
		return usagef("--s3-endpoint and --s3-bucket must be given together")
	}
	if c.Prefix == "" {
		// A hub deletes the objects under its prefix that are not in its database, so two hubs must
		// not share a prefix.
		c.Prefix = "gangway-" + i.ca.HubName()[:16] + "/"
	}
	s3, err := objects.OpenS3(ctx, c)
	if err != nil {
		return err
	}
	i.objects = s3
	i.objectsAt = fmt.Sprintf("s3 %s %s %s", c.Endpoint, c.Bucket, c.Prefix)
	return nil
}

// folderID returns a unique name of the data folder's objects, by which replicas notice that they
// use different folders. If the database is a file in the data folder, the name is empty, because
// such a hub has no replicas.
func (i *instance) folderID() (string, error) {
	if !i.shared() {
		return "", nil
	}
	path := filepath.Join(i.dir, objectsIDFile)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, rand.Text())
		err = errors.Join(err, f.Close())
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	text, err := os.ReadFile(path)
	return "folder " + strings.TrimSpace(string(text)), err
}

// The method `shared` reports whether other hubs may use the same database.
func (i *instance) shared() bool {
	_, is := i.engine.(*postgres.Store)
	return is
}

// objectsGone reports whether the folder with the objects is missing although the database lists
// objects. This happens if the folder was not restored from its backup, or if its disk is not
// mounted. If the objects are in S3, objectsGone returns false.
func (i *instance) objectsGone(ctx context.Context, c objects.S3Config) (bool, error) {
	if c.Endpoint != "" || exists(filepath.Join(i.dir, objectFolder)) {
		return false, nil
	}
	return i.store.HasContents(ctx)
}

// serverOptions are the operator's options for a server.
type serverOptions struct {
	openRegistration, tls12 bool
	proxy                   *api.Proxy
	quota                   int64 // quota of each owner, in bytes; 0: the default
	rates                   api.Rates
	timeouts                api.Timeouts
	capacity                int
	proxyProtocol           []netip.Prefix
	eventsAge, unprovenAge  time.Duration
	drain                   time.Duration
	logAge                  time.Duration
	logBounds               store.LogBounds
	logs                    api.LogForwarder // nil: none
	accessLog               *slog.Logger     // nil: none
	traces                  api.Traces       // nil: none
	profiles                bool
	images                  api.ImageBuilder // nil: none
	imageLimits             api.ImageLimits
	pageURL                 string // URL of the web pages' own listener; empty: the web pages have no listener of their own
	pageCertificate         api.PageCertificate
	restore                 *store.Restore // the latest; nil: the hub was never restored
}

// latestRestore returns the latest restore of the hub, or nil.
func (i *instance) latestRestore(ctx context.Context) (*store.Restore, error) {
	r, err := i.store.LatestRestore(ctx)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return &r, err
}

// server makes the hub's onboarding service and HTTP server. The first element of `urls` is the
// public URL. The argument `makers` has the certificates of TPM makers from the binary and the
// flags. The service adds the operator's changes from the trust store.
func (i *instance) server(urls, names []string, makers *trust.Set, log *slog.Logger, o serverOptions) (*api.Server, *onboard.Service, error) {
	service := &onboard.Service{Store: i.engine, CA: i.ca, Log: log, Now: time.Now, PublicURL: urls[0]}
	service.SetTrust(makers)
	s, err := api.New(i.config(urls, names, service, log, o))
	return s, service, err
}

// config returns the configuration of the hub's HTTP server.
func (i *instance) config(urls, names []string, service *onboard.Service, log *slog.Logger, o serverOptions) api.Config {
	return api.Config{
		Store: i.engine, CA: i.ca, Onboard: service, Objects: i.objects, ObjectQuota: o.quota, Log: log, Now: time.Now,
		PublicURL: urls[0], AlsoURLs: urls[1:], DataDir: i.dir, Names: names, OpenRegistration: o.openRegistration,
		Rates: o.rates, Timeouts: o.timeouts, Capacity: o.capacity, ProxyProtocol: o.proxyProtocol, TLS12: o.tls12, Proxy: o.proxy,
		Images: o.images, ImageLimits: o.imageLimits, EventsAge: o.eventsAge, UnprovenAge: o.unprovenAge, Version: version.Current.Version,
		PageURL: o.pageURL, PageCertificate: o.pageCertificate, Drain: o.drain, Replicas: i.shared(), ObjectsAt: i.objectsAt,
		AccessLog: o.accessLog, Traces: o.traces, Profiles: o.profiles,
		LogForwarder: o.logs, LogAge: o.logAge, LogBounds: o.logBounds,
		Restore: o.restore,
	}
}

func curveOf(name string) (elliptic.Curve, error) {
	switch name {
	case "P-256":
		return elliptic.P256(), nil
	case "P-384":
		return elliptic.P384(), nil
	}
	return nil, usagef("--curve must be P-256 or P-384, not %q", name)
}
