package main

import (
	"context"
	"crypto/elliptic"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"gangway/hub"
	"gangway/objects"
	"gangway/onboard"
	"gangway/pki"
	"gangway/store/sqlite"
	"gangway/trust"
)

// instance is a hub's data folder, opened.
type instance struct {
	dir   string
	ca    *pki.Hub
	store *sqlite.Store

	objects objects.Store // nil until openObjects
}

// Files in a data folder.
const (
	pkiFolder    = "pki"
	databaseFile = "gangway.db"
	objectFolder = "objects"
)

// openInstance opens a data folder, and makes what is not there: the folder,
// the authorities, the database. It refuses a folder that others may write,
// and a database whose authorities are gone.
func openInstance(ctx context.Context, dir string, o pki.Options) (*instance, error) {
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
		return nil, fmt.Errorf("others may write to %s (mode %04o): 'chmod 700 %s' and start again", dir, info.Mode().Perm(), dir)
	}
	database := filepath.Join(dir, databaseFile)
	if _, err := os.Stat(filepath.Join(dir, pkiFolder)); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(database); err == nil {
			return nil, fmt.Errorf("%s is there and %s is not: restore it from its backup, for without it no device of this database is known again", database, filepath.Join(dir, pkiFolder))
		}
	}
	i := &instance{dir: dir}
	if i.ca, err = pki.Open(filepath.Join(dir, pkiFolder), o); err != nil {
		return nil, err
	}
	if i.store, err = sqlite.Open(ctx, database); err != nil {
		return nil, err
	}
	return i, nil
}

// existing opens a data folder that a hub has been started on before.
func existing(ctx context.Context, dir string) (*instance, error) {
	if dir == "" {
		return nil, usagef("--data is needed: the folder of the hub's keys and database")
	}
	if _, err := os.Stat(filepath.Join(dir, pkiFolder)); err != nil {
		return nil, fmt.Errorf("%q is no hub's data folder: start the hub on it first with 'gangway serve --data %s'", dir, dir)
	}
	return openInstance(ctx, dir, pki.Options{})
}

func (i *instance) close() error {
	var err error
	if i.objects != nil {
		err = i.objects.Close()
	}
	return errors.Join(err, i.store.Close())
}

// openObjects opens the contents of objects: the data folder's, or, with an
// endpoint, those of an S3 service.
func (i *instance) openObjects(ctx context.Context, c objects.S3Config) (err error) {
	if c.Endpoint == "" && c.Bucket == "" {
		i.objects, err = objects.OpenFolder(filepath.Join(i.dir, objectFolder))
		return err
	}
	if c.Endpoint == "" || c.Bucket == "" {
		return usagef("--s3-endpoint and --s3-bucket belong together")
	}
	if c.Prefix == "" {
		// What a hub does not know it removes: no two may share their keys.
		c.Prefix = "gangway-" + i.ca.HubName()[:16] + "/"
	}
	i.objects, err = objects.OpenS3(ctx, c)
	return err
}

// serverOptions are what an operator may choose of a server.
type serverOptions struct {
	openRegistration, tls12 bool
	proxy                   *hub.Proxy
	quota                   int64 // each owner's, in bytes; 0: the default
}

// server makes the hub's service and HTTP server. makers are the makers'
// certificates before the operator's word in the store.
func (i *instance) server(publicURL string, names []string, makers *trust.Set, log *slog.Logger, o serverOptions) (*hub.Server, *onboard.Service, error) {
	service := &onboard.Service{Store: i.store, CA: i.ca, Log: log, Now: time.Now, PublicURL: publicURL}
	service.SetTrust(makers)
	s, err := hub.New(hub.Config{Store: i.store, CA: i.ca, Onboard: service, Objects: i.objects, ObjectQuota: o.quota, Log: log, Now: time.Now, PublicURL: publicURL, Names: names, OpenRegistration: o.openRegistration, TLS12: o.tls12, Proxy: o.proxy, Version: version()})
	return s, service, err
}

// addresses works out the public URL and the names in the TLS certificate.
func addresses(publicURL string, l net.Addr) (string, []string, error) {
	if publicURL == "" {
		tcp := l.(*net.TCPAddr)
		if !tcp.IP.IsLoopback() {
			return "", nil, usagef("--url is needed when the hub listens on another address than loopback: the address that devices and people use, e.g. https://hub.example:12443")
		}
		publicURL = "https://" + tcp.String()
	}
	u, err := url.Parse(publicURL)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.User != nil {
		return "", nil, usagef("--url %q is not of the form https://host[:port]", publicURL)
	}
	names := []string{u.Hostname()}
	for _, more := range []string{"localhost", "127.0.0.1", "::1"} {
		if more != u.Hostname() {
			names = append(names, more)
		}
	}
	return "https://" + u.Host, names, nil
}

func curveOf(name string) (elliptic.Curve, error) {
	switch name {
	case "P-256":
		return elliptic.P256(), nil
	case "P-384":
		return elliptic.P384(), nil
	}
	return nil, usagef("--curve is P-256 or P-384, not %q", name)
}
