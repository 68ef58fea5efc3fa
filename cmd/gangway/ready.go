package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/internal/cmdline"
	"gangway/internal/span"

	"github.com/spf13/cobra"
)

func (a *app) readyCommand() *cobra.Command {
	var data, keys string
	var listen []string
	var timeout time.Duration
	c := &cobra.Command{
		Use: "ready --data DIR", Short: "Ask the hub on this machine whether it is ready, as a container's health check", Args: args(),
		Long: `Ready sends GET /readyz to the hub on this machine, and verifies the hub's certificate
with the root certificate in the folder of the hub's keys. The hub is ready if it can read
and write its database, and if the disk has room.

The exit code is 0 if the hub is ready, and 1 otherwise. The command needs no account and
reads no key. The container image has no shell and no HTTP client, so use this command as
its health check.`,
		Example: `  gangway ready --data /var/lib/gangway
  gangway ready --data ./hub --listen 127.0.0.1:12443 --timeout 2s
  gangway ready --data /var/lib/gangway/hub --pki /etc/gangway/pki`,
		RunE: func(c *cobra.Command, _ []string) error {
			if data == "" {
				return usagef("--data is needed: the folder of the hub's keys and database")
			}
			if timeout <= 0 || len(listen) == 0 {
				return usagef("--timeout must be above 0, not %s, and --listen must be an address, not %q", span.Format(timeout), listen)
			}
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			root, err := os.ReadFile(filepath.Join(cmp.Or(keys, filepath.Join(data, pkiFolder)), "root.crt"))
			if err != nil {
				return err
			}
			ready, err := askReady(ctx, listen[0], root)
			if err != nil {
				return err
			}
			if done, err := a.json(ready); done {
				return err
			}
			a.printf("%s\n", ready.Status)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", "folder of the hub's keys and database (required)")
	f.StringVar(&keys, "pki", "", "folder of the hub's keys, such as a mounted secret (default: pki in the data folder)")
	f.StringSliceVar(&listen, "listen", []string{"127.0.0.1:12443"}, "address and port of the hub, as for 'gangway serve'; only the first address is used")
	cmdline.SpanVar(f, &timeout, "timeout", 5*time.Second, "how long to wait for the answer")
	return c
}

// maxReadiness is the maximum size of an answer of /readyz, in bytes.
const maxReadiness = 64 << 10

// askReady sends GET /readyz to the hub at `address`. It returns an error if the hub is not ready.
// `root` is the hub's root certificate in PEM. The address may be 127.0.0.1, because the TLS
// certificate of each hub names 127.0.0.1.
func askReady(ctx context.Context, address string, root []byte) (api.Readiness, error) {
	var ready api.Readiness
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return ready, usagef("--listen %q is not an address and port: %w", address, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // the hub listens on all addresses
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(root) {
		return ready, errors.New("root.crt is not a PEM certificate: restore it from its backup")
	}
	transport := &http.Transport{
		DialTLSContext: (&tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "127.0.0.1"}}).DialContext,
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return ready, err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return ready, fmt.Errorf("the hub does not answer at %s: %w", address, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxReadiness))
	if err != nil {
		return ready, err
	}
	if answer.StatusCode != http.StatusOK {
		return ready, fmt.Errorf("the hub at %s is not ready (%s): %s", address, answer.Status, strings.TrimSpace(string(text)))
	}
	return ready, json.Unmarshal(text, &ready)
}
