package main

import (
	"fmt"
	"strings"
	"time"

	"gangway/hub/trust"

	"github.com/spf13/cobra"
)

// maxListed is the maximum number of entries that a list on the terminal shows.
const maxListed = 20

// importResult is the JSON output of 'gangway trust import'.
type importResult struct {
	Imported []trustView     `json:"imported"`
	Known    int             `json:"known"` // number of certificates that the trust store trusted already
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
		Short: "Import TPM makers' certificates from files, and trust them",
		Long: `Import reads CA certificates from files: PEM (other text in the file is ignored),
DER, PKCS #7 (.p7b) and Microsoft's TrustedTpm.cab, for which it needs cabextract. It
also reads folders of these files.

A self-signed certificate becomes a trusted root. Another certificate becomes a link,
which only helps to build chains. If a certificate cannot be used, import names it and
imports nothing; with --skip-bad it imports the others. A distrusted certificate
becomes trusted again.`,
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
			change, imported := set.Import(certs, asRoot, now)
			roots := 0
			for _, e := range imported {
				result.Imported = append(result.Imported, viewTrust(e))
				if e.Root {
					roots++
				}
			}
			result.Known = len(trust.NewSet(certs...).Entries()) - len(imported)
			did := fmt.Sprintf("%d root(s) and %d link(s) were imported", roots, len(imported)-roots)
			change.Event = trustEvent(trust.EventImported, now, "%s from %s", did, trust.Shortened(strings.Join(paths, ", ")))
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
	f.BoolVar(&skipBad, "skip-bad", false, "skip certificates that cannot be used, and import the others")
	f.BoolVar(&asRoot, "as-root", false, "trust the certificates as roots, even if another CA issued them")
	return c
}

// printRoots prints the trusted roots among the imported certificates.
func (a *app) printRoots(imported []trust.Entry) {
	n := 0
	for _, e := range imported {
		if !e.Root {
			continue
		}
		if n++; n > maxListed {
			continue
		}
		a.printf("root  %x…  %s: %s\n", e.Fingerprint[:8], e.Maker, visible(e.Cert.Subject.String()))
	}
	if n > maxListed {
		a.printf("and %d more roots\n", n-maxListed)
	}
}
