package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"gangway/hub/store"
	"gangway/hub/trust"
	"gangway/tcg"

	"github.com/spf13/cobra"
)

func (a *app) trustCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "trust", Short: "Show and change which TPM makers are trusted",
		Long: `Trust shows and changes the trust store: the CA certificates by which the
hub verifies TPMs. It works on the hub's data folder, so run it on the hub's
machine. If the hub is running, a change applies from the next request on. See
docs/trust.md.`,
	}
	c.AddCommand(a.trustLs(), a.trustImport(), a.trustRemove(), a.trustRestore(), a.trustCheck())
	return c
}

// trustView is a certificate of the trust store, as the trust commands print it.
type trustView struct {
	SHA256    string     `json:"sha256"`
	Maker     string     `json:"maker"`
	Subject   string     `json:"subject"`
	Issuer    string     `json:"issuer"`
	Kind      string     `json:"kind"` // root, link
	State     string     `json:"state"`
	Source    string     `json:"source"`
	BuiltIn   bool       `json:"built-in"`
	NotBefore time.Time  `json:"not-before"`
	NotAfter  time.Time  `json:"not-after"`
	Changed   *time.Time `json:"changed,omitempty"` // time of the operator's last change
	Quirks    []string   `json:"quirks,omitempty"`
}

func viewTrust(e trust.Entry) trustView {
	v := trustView{
		SHA256: hex.EncodeToString(e.Fingerprint[:]), Maker: e.Maker,
		Subject: tcg.Printable(e.Cert.Subject.String()), Issuer: tcg.Printable(e.Cert.Issuer.String()),
		Kind: "link", State: "trusted", Source: tcg.Printable(e.Source), BuiltIn: e.BuiltIn,
		NotBefore: e.Cert.NotBefore, NotAfter: e.Cert.NotAfter, Quirks: e.Quirks,
	}
	if e.Root {
		v.Kind = "root"
	}
	if e.Distrusted {
		v.State = "distrusted"
	}
	if e.Stored {
		v.Changed = &e.Added
	}
	return v
}

// openTrust opens a data folder, and returns the hub's trust store: the built-in certificates, the
// certificates that the operator added, and the certificates that the operator marked as
// distrusted.
func openTrust(ctx context.Context, data string) (*instance, *trust.Set, error) {
	i, err := existing(ctx, data)
	if err != nil {
		return nil, nil, err
	}
	rows, err := i.store.TrustedCertificates(ctx)
	if err == nil {
		var set *trust.Set
		if set, err = trust.NewSet(trust.BuiltIn()...).WithStored(rows); err == nil {
			return i, set, nil
		}
	}
	return nil, nil, errors.Join(err, i.close())
}

func (a *app) trustLs() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "ls [--data DIR]", Aliases: []string{"list"}, Short: "List the makers' certificates", Args: args(),
		Long: `Ls lists the built-in certificates. With --data, it lists the trust store of that
hub: the built-in certificates with the operator's changes, and the imported certificates.

The kind is root (a trusted root), link (an intermediate CA, which only helps to build
chains) or distrusted (no chain may contain it, whatever its source).`,
		Example: "  gangway trust ls\n  gangway trust ls --data /var/lib/gangway --output json",
		RunE: func(c *cobra.Command, _ []string) error {
			set := trust.NewSet(trust.BuiltIn()...)
			if data != "" {
				i, known, err := openTrust(c.Context(), data)
				if err != nil {
					return err
				}
				defer i.close()
				set = known
			}
			views := []trustView{}
			for _, e := range set.Entries() {
				views = append(views, viewTrust(e))
			}
			if err := printList(a, views, trustColumns, "The trust store is empty."); err != nil || !a.forPeople() {
				return err
			}
			roots, links := set.Count()
			a.note("%d root(s), %d link(s).", roots, links)
			return nil
		},
	}
	c.Flags().StringVar(&data, "data", "", dataFlag)
	return a.table(c, columnNames(trustColumns)...)
}

// trustColumns are the columns of 'gangway trust ls'.
var trustColumns = []column[trustView]{
	{name: "sha-256", cell: func(v trustView) string { return v.SHA256[:16] + "…" }, value: func(v trustView) string { return v.SHA256 }, whole: true},
	{name: "maker", cell: func(v trustView) string { return v.Maker }},
	{name: "kind", cell: func(v trustView) string {
		if v.State != "trusted" {
			return v.State
		}
		return v.Kind
	}, tone: func(v trustView) tone {
		if v.State != "trusted" {
			return bad
		}
		return plainTone
	}, whole: true},
	{name: "until", cell: func(v trustView) string { return v.NotAfter.Format(time.DateOnly) }, whole: true},
	{name: "subject", cell: func(v trustView) string { return v.Subject }},
	{name: "source", cell: func(v trustView) string { return v.Source }},
	{name: "issuer", wide: true, cell: func(v trustView) string { return v.Issuer }},
}

func (a *app) trustRemove() *cobra.Command {
	var data string
	var distrust bool
	c := &cobra.Command{
		Use: "remove --data DIR SHA-256", Aliases: []string{"rm"}, Short: "Stop trusting a maker's certificate", Args: args("the certificate's SHA-256"),
		Long: `Remove stops trusting a certificate. Give its SHA-256, or at least the first 8 digits
of it. A built-in certificate is marked as distrusted. An imported certificate is
removed; with --distrust it is marked as distrusted instead, and then no chain may
contain it, even if a device sends it.

Devices that have onboarded stay active. To remove a device, use 'gangway device
delete'.`,
		Example: "  gangway trust remove --data /var/lib/gangway 3784884ec83a8d7e\n  gangway trust remove --data ./hub --distrust cd8185ff",
		RunE: func(c *cobra.Command, arg []string) error {
			i, set, err := openTrust(c.Context(), data)
			if err != nil {
				return err
			}
			defer i.close()
			e, err := findTrusted(set, arg[0])
			if err != nil {
				return err
			}
			if e.Distrusted {
				return fmt.Errorf("%q is distrusted already; 'gangway trust restore' trusts it again", e.Name())
			}
			now := time.Now()
			change, did := e.Remove(), "was removed"
			if e.BuiltIn || distrust {
				change, did = e.Distrust(now), "is distrusted now"
				e.Distrusted = true
			}
			change.Event = trustEvent(trust.EventRemoved, now, "%s %s", e.Described(), did)
			if err := i.store.ChangeTrust(c.Context(), change); err != nil {
				return err
			}
			if done, err := a.json(viewTrust(e)); done {
				return err
			}
			a.note("%s %s. Devices that have onboarded stay active.", e.Described(), did)
			for _, other := range set.Entries() {
				if other.Fingerprint != e.Fingerprint && !other.Distrusted && string(other.Cert.RawSubjectPublicKeyInfo) == string(e.Cert.RawSubjectPublicKeyInfo) {
					a.note("Another certificate of the same key is still trusted: %x", other.Fingerprint)
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&data, "data", "", "the hub's data folder (required)")
	c.Flags().BoolVar(&distrust, "distrust", false, "mark the certificate as distrusted: no chain may contain it, even if a device sends it (default: only remove an imported certificate)")
	return c
}

func (a *app) trustRestore() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "restore --data DIR SHA-256", Short: "Trust a distrusted certificate again", Args: args("the certificate's SHA-256"),
		Long: `Restore removes the mark "distrusted" from a certificate. The certificate
is then trusted again, as the root or link that it was. Give its SHA-256, or at least
the first 8 digits of it.`,
		Example: "  gangway trust restore --data /var/lib/gangway 3784884ec83a8d7e",
		RunE: func(c *cobra.Command, arg []string) error {
			i, set, err := openTrust(c.Context(), data)
			if err != nil {
				return err
			}
			defer i.close()
			e, err := findTrusted(set, arg[0])
			if err != nil {
				return err
			}
			if !e.Distrusted {
				return fmt.Errorf("%q is not distrusted", e.Name())
			}
			now := time.Now()
			change := e.Restore(now)
			change.Event = trustEvent(trust.EventRestored, now, "%s is trusted again", e.Described())
			if err := i.store.ChangeTrust(c.Context(), change); err != nil {
				return err
			}
			e.Distrusted = false
			v := viewTrust(e)
			if done, err := a.json(v); done {
				return err
			}
			a.note("%s is trusted again, as a %s.", e.Described(), v.Kind)
			return nil
		},
	}
	c.Flags().StringVar(&data, "data", "", "the hub's data folder (required)")
	return c
}

var fingerprintForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{8,64}$`) })

// findTrusted returns the certificate whose SHA-256 begins with the digits in `which`. The digits
// may be in upper case and may have colons between them, as OpenSSL prints a hash.
func findTrusted(set *trust.Set, which string) (trust.Entry, error) {
	print := strings.ToLower(strings.TrimSuffix(strings.ReplaceAll(which, ":", ""), "…"))
	if !fingerprintForm().MatchString(print) {
		return trust.Entry{}, usagef("%.100q is not the SHA-256 of a certificate: give 8 to 64 hexadecimal digits, as 'gangway trust ls' shows them", which)
	}
	var found []trust.Entry
	for _, e := range set.Entries() {
		if strings.HasPrefix(hex.EncodeToString(e.Fingerprint[:]), print) {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 0:
		return trust.Entry{}, fmt.Errorf("there is no certificate %s; 'gangway trust ls' lists the certificates. Certificates of 'gangway serve --tpm-roots' are not in this list: to remove such certificates, leave the flag out", print)
	case 1:
		return found[0], nil
	}
	return trust.Entry{}, fmt.Errorf("%d certificates have a SHA-256 that begins with %s: %s; give more digits", len(found), print, candidates(found, func(e trust.Entry) names {
		return names{hex.EncodeToString(e.Fingerprint[:]), e.Name(), ""}
	}))
}

func trustEvent(kind string, now time.Time, format string, args ...any) store.Event {
	by := operator()
	return trust.NewEvent(kind, now, format, args...).By(&by)
}
