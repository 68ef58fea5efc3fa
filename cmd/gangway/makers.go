package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gangway/hub/trust"

	"github.com/spf13/pflag"
)

// makerFlags are the flags of 'gangway serve' and 'gangway trust check' that name files with
// certificates of TPM makers, in addition to the certificates in the trust store.
type makerFlags struct {
	roots, links []string
	noBuiltIn    bool
}

func (m *makerFlags) add(f *pflag.FlagSet) {
	f.StringSliceVar(&m.roots, "tpm-roots", nil, "file or folder of TPM makers' CA certificates to trust in addition to the trust store (repeatable)")
	f.StringSliceVar(&m.links, "tpm-intermediates", nil, "file or folder of intermediate CA certificates, which help to build chains and are not trusted as roots (repeatable)")
	f.BoolVar(&m.noBuiltIn, "no-builtin-roots", false, "do not trust the built-in certificates of TPM makers")
}

// The method `set` returns the certificates in the files that the flags name. It adds the built-in
// certificates unless the flag --no-builtin-roots is given. An unusable certificate is an error,
// because a hub must not start with fewer certificates than the operator gave.
func (m *makerFlags) set(ctx context.Context) (*trust.Set, error) {
	var all []trust.Certificate
	if !m.noBuiltIn {
		all = trust.BuiltIn()
	}
	for _, list := range []struct {
		paths []string
		links bool
	}{{m.roots, false}, {m.links, true}} {
		certs, problems, err := readMakers(ctx, list.paths)
		if err != nil {
			return nil, err
		}
		if len(problems) > 0 {
			return nil, fmt.Errorf("read the TPM makers' certificates: %w", problems[0])
		}
		for _, c := range certs {
			// A certificate of --tpm-intermediates is never a trusted root, even if it is
			// self-signed.
			c.Root = c.Root && !list.links
			c.Source = "file " + c.Source
			all = append(all, c)
		}
	}
	return trust.NewSet(all...), nil
}

// readMakers reads CA certificates from files, cabinets (.cab), and folders of these files. The
// result `problems` lists the certificates that cannot be used.
func readMakers(ctx context.Context, paths []string) (certs []trust.Certificate, problems []*trust.Problem, err error) {
	for _, path := range paths {
		err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			if name != path && !trust.IsCertificateFile(name) && !strings.EqualFold(filepath.Ext(name), ".cab") {
				return nil // folders of certificates also hold notes and licences
			}
			b, err := readBounded(name)
			if err != nil {
				return err
			}
			more, wrong, err := trust.Read(ctx, filepath.ToSlash(name), b)
			certs, problems = append(certs, more...), append(problems, wrong...)
			return err
		})
		if err != nil {
			return nil, nil, fmt.Errorf("read the TPM makers' certificates: %w", err)
		}
	}
	return certs, problems, nil
}

// readBounded reads the file with the given name, or standard input for the name "-". More than
// trust.MaxFile bytes are an error.
func readBounded(name string) ([]byte, error) {
	f := os.Stdin
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return nil, err
		}
		defer f.Close()
	}
	b, err := io.ReadAll(io.LimitReader(f, trust.MaxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > trust.MaxFile {
		return nil, fmt.Errorf("%s is too large for a list of certificates: it has more than %d bytes", name, trust.MaxFile)
	}
	return b, nil
}

// noteMakers prints the number of TPM makers' certificates that the hub trusts. It runs when the
// hub starts.
func (a *app) noteMakers(ctx context.Context, i *instance, known *trust.Set) error {
	rows, err := i.store.TrustedCertificates(ctx)
	if err != nil {
		return err
	}
	set, err := known.WithStored(rows)
	if err != nil {
		return err
	}
	roots, links := set.Count()
	a.note("TPM makers trusted: %d root(s), %d intermediate(s). 'gangway trust ls --data %s' lists them.", roots, links, i.dir)
	if roots == 0 {
		a.note("No device can onboard until you import a root: gangway trust import --data %s FILE", i.dir)
	}
	if old := filepath.Join(i.dir, "tpm-roots"); isFolder(old) {
		a.note("The hub no longer reads %s. Import it, then remove it: gangway trust import --data %s %s", old, i.dir, old)
	}
	return nil
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
