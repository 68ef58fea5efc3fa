package main

import (
	"fmt"
	"strings"
	"time"

	"gangway/hub/store"
	"gangway/hub/trust"
	"gangway/tcg"

	"github.com/spf13/cobra"
)

// maxListed bounds what is listed one by one on a screen.
const maxListed = 20

// importResult is what import prints as JSON.
type importResult struct {
	Imported []trustView     `json:"imported"`
	Known    int             `json:"known"` // trusted already, unchanged
	Skipped  []importProblem `json:"skipped"`
}

type importProblem struct {
	Where  string `json:"where"`
	Reason string `json:"reason"`
}

func (a *app) trustImport() *cobra.Command {
	var data string
	var skipBad, asRoot bool
	c := &cobra.Command{
		Use:   "import --data DIR FILE|FOLDER|CABINET...",
		Short: "Trust makers' certificates from files",
		Long: `Import reads CA certificates: PEM with anything between, DER, PKCS #7 (.p7b),
folders of such files, and Microsoft's TrustedTpm.cab (with cabextract). Those that
are signed by their own key become trusted roots, the others links, which only help
to build chains. One that cannot be used is named, and nothing is imported unless
--skip-bad says to go on without it. What was distrusted is trusted again.`,
		Example: `  gangway trust import --data /var/lib/gangway TrustedTpm.cab
  gangway trust import --data ./hub makers.pem ./more-makers
  gangway trust import --data ./hub --as-root maker-issuing-ca.crt`,
		Args: func(_ *cobra.Command, got []string) error {
			if len(got) == 0 {
				return usagef("a file, folder or cabinet of certificates is missing")
			}
			return nil
		},
		RunE: func(c *cobra.Command, paths []string) error {
			i, set, err := openTrust(c.Context(), data)
			if err != nil {
				return err
			}
			defer i.close()
			certs, problems, err := readMakers(c.Context(), paths)
			if err != nil {
				return err
			}
			result := importResult{Imported: []trustView{}, Skipped: []importProblem{}}
			for n, p := range problems {
				result.Skipped = append(result.Skipped, importProblem{p.Where, p.Err.Error()})
				if n < maxListed {
					a.note("%v", p)
				} else if n == maxListed {
					a.note("and %d more", len(problems)-n)
				}
			}
			if len(problems) > 0 && !skipBad {
				return fmt.Errorf("%d of %d certificates cannot be used, so nothing was imported; --skip-bad imports the others", len(problems), len(problems)+len(certs))
			}
			now := time.Now()
			change, imported := changeOf(set, certs, asRoot, now)
			roots := 0
			for _, e := range imported {
				result.Imported = append(result.Imported, viewTrust(e))
				if e.Root {
					roots++
				}
			}
			result.Known = len(trust.NewSet(certs...).Entries()) - len(imported)
			did := fmt.Sprintf("%d root(s) and %d link(s) were imported", roots, len(imported)-roots)
			change.Event = trustEvent("trust.imported", now, "%s from %s", did, shortened(strings.Join(paths, ", ")))
			if err := i.store.ChangeTrust(c.Context(), change); err != nil {
				return err
			}
			if done, err := a.json(result); done {
				return err
			}
			a.printRoots(imported)
			a.note("%s; %d were trusted already, %d were skipped.", did, result.Known, len(problems))
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", "the hub's data folder (required)")
	f.BoolVar(&skipBad, "skip-bad", false, "go on without certificates that cannot be used")
	f.BoolVar(&asRoot, "as-root", false, "trust them as roots even if another CA issued them")
	return c
}

// changeOf is the change that makes the set trust the certificates, without
// those that it trusts already, and what it brings.
func changeOf(set *trust.Set, certs []trust.Certificate, asRoot bool, now time.Time) (change store.TrustChange, imported []trust.Entry) {
	for _, e := range trust.NewSet(certs...).Entries() {
		e.Root = e.Root || asRoot
		had, there := set.Entry(e.Fingerprint)
		// One that is built in gets a row as well, so that it is trusted where
		// the hub runs with --no-builtin-roots.
		if there && had.Stored && !had.Distrusted && (had.Root || !e.Root) {
			continue
		}
		e.BuiltIn, e.Stored, e.Added = had.BuiltIn, true, now
		e.Source = trust.ImportSource(shortened(e.Source))
		change.Put = append(change.Put, row(e.Certificate, kindOf(e.Certificate), e.Source, now))
		imported = append(imported, e)
	}
	return change, imported
}

// shortened keeps a source fit for a screen and for the store.
func shortened(source string) string {
	source = tcg.Printable(source)
	if r := []rune(source); len(r) > 200 {
		return "…" + string(r[len(r)-200:])
	}
	return source
}

// printRoots lists the new roots: whom the operator trusts from now on.
func (a *app) printRoots(imported []trust.Entry) {
	n := 0
	for _, e := range imported {
		if !e.Root {
			continue
		}
		if n++; n > maxListed {
			continue
		}
		a.printf("root  %x…  %s: %s\n", e.Fingerprint[:8], e.Maker, tcg.Printable(e.Cert.Subject.String()))
	}
	if n > maxListed {
		a.printf("and %d more roots\n", n-maxListed)
	}
}
