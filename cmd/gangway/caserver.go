package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"gangway/hub/store"
	"gangway/internal/cmdline"

	"github.com/spf13/cobra"
)

// serverIssue holds the values of the flags of 'gangway ca issue-server'.
type serverIssue struct {
	data, out string
	names     []string
	life      time.Duration
}

func (a *app) caIssueServer() *cobra.Command {
	o := serverIssue{life: 90 * 24 * time.Hour}
	c := &cobra.Command{
		Use: "issue-server REQUEST --data DIR --name HOST", Short: "Issue the TLS certificate of a proxy in front of the hub", Args: args("REQUEST"),
		Long: `Issue-server issues the TLS server certificate of a proxy that terminates TLS in front
of the hub. Devices trust only the hub's own CA, so they connect to such a proxy only if
it has a certificate of this CA. A proxy that forwards TLS unchanged needs no certificate.

REQUEST is a certificate request in PEM, made with the proxy's key. Of the request,
issue-server uses only the key: --name gives the names, and the certificate is only for
TLS servers. It writes the certificate, and the TLS CA if the hub has one, to the file
-o, or to standard output. The certificate expires, and nothing renews it: issue a new
certificate before that time.

Anyone with the proxy's key can pose as the hub at the names of the certificate, until
the certificate expires. The event ca.server-certificate in the audit trail records each
certificate.`,
		Example: `  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=proxy -keyout proxy.key -out proxy.csr
  gangway ca issue-server proxy.csr --data /var/lib/gangway --name proxy.example -o proxy.crt
  gangway ca issue-server proxy.csr --data /var/lib/gangway --name proxy.example --name 192.0.2.7 --expires-in 30d > proxy.crt`,
		RunE: func(c *cobra.Command, arg []string) error {
			if len(o.names) == 0 {
				return usagef("--name is needed: the host by which devices reach the proxy")
			}
			if o.out != "" && exists(o.out) {
				return fmt.Errorf("%s exists: choose another file", o.out)
			}
			request, err := readSmall(arg[0], maxCAFile)
			if err != nil {
				return err
			}
			return a.issueServer(c.Context(), request, o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.data, "data", "", "folder of the hub's keys and database (required)")
	f.StringSliceVar(&o.names, "name", nil, "DNS name or IP address by which devices reach the proxy (required, repeatable)")
	f.StringVarP(&o.out, "out", "o", "", "new file for the certificate (default: standard output)")
	cmdline.SpanVar(f, &o.life, "expires-in", o.life, "validity of the certificate, from 1d to 366d")
	return c
}

func (a *app) issueServer(ctx context.Context, request []byte, o serverIssue) error {
	i, err := existing(ctx, o.data)
	if err != nil {
		return err
	}
	defer i.close()
	now := time.Now()
	chain, leaf, err := i.ca.IssueProxy(request, o.names, now, o.life)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	view := struct {
		Names       []string  `json:"names"`
		Expires     time.Time `json:"expires"`
		KeyHash     string    `json:"key-hash"`
		Certificate string    `json:"certificate,omitempty"`
	}{o.names, leaf.NotAfter.UTC(), hex.EncodeToString(sum[:]), ""}
	// Store the audit event before anyone gets the certificate, so that no certificate exists
	// without its event.
	by, names := operator(), strings.Join(o.names, ", ")
	e := store.Event{Time: now, Kind: "ca.server-certificate", Message: fmt.Sprintf("A TLS server certificate for %s was issued. It expires on %s; SHA-256 of its key: %s.", names, view.Expires.Format(time.DateOnly), view.KeyHash)}
	if err := i.store.AppendEvent(ctx, e.By(&by)); err != nil {
		return err
	}
	if o.out != "" {
		if err := createFile(o.out, chain, 0o644); err != nil {
			return err
		}
	} else {
		view.Certificate = string(chain)
	}
	if done, err := a.json(view); done {
		return err
	}
	a.printf("%s", view.Certificate)
	a.note("The certificate is for %s, with the key SHA-256 %s. It expires on %s: issue a new certificate before that day, and let the proxy load it.", names, view.KeyHash, view.Expires.Format(time.DateOnly))
	return nil
}
