package main

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/hub/webcert"
	"gangway/wire"

	"github.com/spf13/pflag"
	"golang.org/x/crypto/acme/autocert"
)

// pageFlags are the flags of 'gangway serve' for web pages that have a host name, a listener and a
// certificate of their own.
type pageFlags struct {
	listen    []string
	url       string
	cert, key string

	acme, acceptTOS         bool
	directory, email, roots string
}

func (p *pageFlags) add(f *pflag.FlagSet) {
	f.StringSliceVar(&p.listen, "page-listen", nil, "address and port only for the hub's web pages, with a certificate that browsers trust, such as :443 (repeatable; default: the web pages are only at --listen)")
	f.StringVar(&p.url, "page-url", "", "https URL of the web pages at --page-listen, such as https://fleet.example")
	f.StringVar(&p.cert, "tls-cert", "", "file with the web pages' certificate and its intermediates, in PEM; when the file changes, the hub reads it again")
	f.StringVar(&p.key, "tls-key", "", "file of the key of --tls-cert, in PEM")
	f.BoolVar(&p.acme, "acme", false, "get the web pages' certificate from a CA with ACME (tls-alpn-01), instead of --tls-cert; connections to port 443 of --page-url must reach --page-listen")
	f.StringVar(&p.directory, "acme-directory", autocert.DefaultACMEDirectory, "URL of the CA's directory")
	f.StringVar(&p.email, "acme-email", "", "e-mail address for the CA's warnings")
	f.BoolVar(&p.acceptTOS, "acme-accept-tos", false, "accept the terms of service of the ACME CA")
	f.StringVar(&p.roots, "acme-ca", "", "file of the CA certificates, in PEM, by which the hub verifies a private --acme-directory (default: the CA certificates of the system)")
}

// check returns an error if two flags contradict each other, or if one requires another that is
// missing.
func (p *pageFlags) check() error {
	switch files := p.cert != "" || p.key != ""; {
	case len(p.listen) == 0 && p.url == "" && !files && !p.acme:
		return nil
	case len(p.listen) == 0 || p.url == "":
		return usagef("--page-listen and --page-url must be given together: give the web pages' own address and port, and their URL; --tls-cert and --acme are only for these pages")
	case !wire.IsHubURL(p.url):
		return usagef("--page-url %q is not of the form https://host[:port]; write it like https://fleet.example", p.url)
	case files && p.acme:
		return usagef("--tls-cert and --acme are mutually exclusive")
	case !files && !p.acme:
		return usagef("--page-url needs a certificate that browsers trust: give --tls-cert and --tls-key, or --acme")
	case files && (p.cert == "" || p.key == ""):
		return usagef("--tls-cert and --tls-key must be given together")
	case p.acme && !p.acceptTOS:
		return usagef("--acme needs --acme-accept-tos: read the terms of service of the CA at %s first", p.directory)
	case p.acme && !strings.HasPrefix(p.directory, "https://"):
		return usagef("--acme-directory %q is not an https URL", p.directory)
	}
	return nil
}

// certificate returns the URL and the certificate of the web pages. Both are zero if the web pages
// have no listener of their own. The argument `data` is the hub's data folder.
func (p *pageFlags) certificate(data string, log *slog.Logger) (string, api.PageCertificate, error) {
	if p.url == "" {
		return "", nil, nil
	}
	u, err := url.Parse(p.url)
	if err != nil {
		return "", nil, err
	}
	at := "https://" + u.Host
	if !p.acme {
		c, err := webcert.NewFiles(p.cert, p.key, u.Hostname(), log, time.Now)
		return at, c, err
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return "", nil, usagef("--page-url %s has an IP address, but --acme needs a DNS name", p.url)
	}
	var roots *x509.CertPool
	if p.roots != "" {
		text, err := os.ReadFile(p.roots)
		if err != nil {
			return "", nil, fmt.Errorf("read --acme-ca: %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(text) {
			return "", nil, fmt.Errorf("--acme-ca %s has no PEM certificate", p.roots)
		}
	}
	c, err := webcert.NewACME(webcert.ACMEConfig{
		Name: u.Hostname(), Directory: p.directory, Email: p.email, Cache: filepath.Join(data, acmeFolder), Roots: roots, Log: log,
	})
	return at, c, err
}
