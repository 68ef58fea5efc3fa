package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gangway/hub/pki"
	"gangway/internal/cmdline"

	"github.com/spf13/cobra"
)

// maxCAFile is the maximum size of a file with a CA's certificate request, or with the answer to
// that request, in bytes.
const maxCAFile = 64 << 10

func (a *app) caCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "ca", Short: "Keep the root's key offline, and give the hub's CAs new keys",
		Long: `Ca has commands for the keys of a hub's CAs. A hub has a root, and three CAs below it:
the attestation CA, the device CA and, if the root is offline, the TLS CA.

A proxy that terminates TLS in front of the hub gets its certificate with 'ca
issue-server'.

A hub gets the certificates of its CAs in a ceremony with three steps: 'ca request' on
the hub's machine makes new keys and a request. 'ca issue' on the root's machine shows
what it would sign, and writes an answer. 'ca install' on the hub's machine checks the
answer and puts the new keys to use. Only the two files travel between the machines, and
neither file contains a secret.`,
		Example: `  gangway ca init --offline-root /media/vault/root
  gangway ca request --data /var/lib/gangway -o request.pem
  gangway ca issue request.pem --root /media/vault/root -o answer.pem
  gangway ca install answer.pem --data /var/lib/gangway --hub-name 5f0c...`,
	}
	c.AddCommand(a.caInit(), a.caRequest(), a.caIssue(), a.caInstall(), a.caIssueServer(), a.caShow())
	return c
}

func (a *app) caInit() *cobra.Command {
	var dir, name, curve, key string
	c := &cobra.Command{
		Use: "init --offline-root DIR", Short: "Create an offline root, on a machine without a hub", Args: args(),
		Long: `Init creates a root in a folder: root.key and root.crt. Run it on a machine that is not
connected to a network, with the folder on a medium that you can lock away. Make a copy
of the folder on a second medium: without root.key, the hub's CAs can never get new keys.

With --key, the root's key is not in the folder but in the machine's TPM (tpm:HANDLE; init
makes the key at this persistent handle) or in an HSM (signer:SOCKET?key=NAME; the key
must exist, and gangway-signer must run). The folder then has root.uri instead of
root.key, and contains no secret.

Init prints the hub name, which is the SHA-256 of the root's key. Write the hub name
down: you need it for 'gangway ca install'.`,
		Example: `  gangway ca init --offline-root /media/vault/root
  gangway ca init --offline-root ./root --name 'Example Ltd' --curve P-384
  gangway ca init --offline-root ./root --key 'signer:/run/gangway-signer/socket?key=root'`,
		RunE: func(c *cobra.Command, _ []string) error {
			if dir == "" {
				return usagef("--offline-root is needed: the folder for the root's key and certificate")
			}
			crv, err := curveOf(curve)
			if err != nil {
				return err
			}
			root, err := pki.MakeRoot(c.Context(), dir, key, pki.Options{Name: name, Curve: crv})
			if err != nil {
				return err
			}
			out := struct {
				Folder  string `json:"folder"`
				HubName string `json:"hub-name"`
			}{dir, root.HubName()}
			if done, err := a.json(out); done {
				return err
			}
			a.printf("%s\n", out.HubName)
			a.note("The line above is the hub name of the new root %q in %s.", root.Certificate().Subject.CommonName, dir)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "offline-root", "", "new folder for the root's key and certificate (required)")
	f.StringVar(&name, "name", "", `name in the certificates of the root and of the CAs (default "Gangway")`)
	f.StringVar(&curve, "curve", "P-256", "curve of the root's key: P-256 or P-384 (no effect if a signer has the key)")
	f.StringVar(&key, "key", "", "URI of the root's key, if the key is not a file in the folder: for example tpm:0x81010070 or signer:/run/gangway-signer/socket?key=root")
	return c
}

func (a *app) caRequest() *cobra.Command {
	var data, out, curve string
	var options pki.RequestOptions
	var cancel bool
	c := &cobra.Command{
		Use: "request --data DIR", Short: "Create new keys for the hub's CAs, and a request for their certificates", Args: args(),
		Long: `Request creates new keys for CAs, and a request for their certificates. The new keys stay
in DIR/pki.request until 'gangway ca install' gets the answer; until then, the hub
continues to use its present keys.

For a new hub, request creates the keys of all three CAs. If the hub has CAs already, use
--ca to name those that get a new key. Reasons are: the TLS CA expires, a key may have
leaked, or an auditor asks for new keys each year. To take the root of such a hub offline,
request the TLS CA.

With --key, the key of a CA is not in a file but in the machine's TPM (tpm:HANDLE; request
makes the key at this persistent handle) or in an HSM (signer:SOCKET?key=NAME; the key
must exist, and gangway-signer must run).

Request prints the SHA-256 of each key. Compare these lines with the lines that
'gangway ca issue' prints.`,
		Example: `  gangway ca request --data /var/lib/gangway -o request.pem
  gangway ca request --data /var/lib/gangway --ca tls-ca -o request.pem
  gangway ca request --data /var/lib/gangway --key aca=tpm:0x81010060 --key device-ca=tpm:0x81010061 -o request.pem
  gangway ca request --data /var/lib/gangway --cancel`,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if data == "" {
				return usagef("--data is needed: the folder of the hub's keys and database")
			}
			if cancel {
				if out != "" || len(options.CAs)+len(options.Keys) > 0 {
					return usagef("--cancel can be combined only with --data")
				}
				return pki.CancelRequest(c.Context(), filepath.Join(data, pkiFolder))
			}
			if out == "" {
				return usagef("-o is needed: the file for the request")
			}
			if options.Curve, err = curveOf(curve); err != nil {
				return err
			}
			return a.requestCAs(c.Context(), data, out, options)
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", "folder of the hub's keys and database (required)")
	f.StringVarP(&out, "out", "o", "", "new file for the request")
	f.StringSliceVar(&options.CAs, "ca", nil, "the CA that gets a new key: aca, device-ca or tls-ca (repeatable; default for a new hub: all)")
	f.StringVar(&curve, "curve", "P-256", "curve of the new keys: P-256 or P-384")
	f.StringToStringVar(&options.Keys, "key", nil, "URI of a CA's key, if the key is not in a file: for example aca=tpm:0x81010060 or aca=signer:/run/gangway-signer/socket?key=aca (repeatable)")
	f.BoolVar(&cancel, "cancel", false, "delete the open request and its keys")
	return c
}

func (a *app) requestCAs(ctx context.Context, data, out string, o pki.RequestOptions) error {
	if exists(out) {
		return fmt.Errorf("%s exists: choose another file", out)
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	if file := filepath.Join(data, databaseFile); exists(file) && !exists(filepath.Join(data, pkiFolder)) {
		return fmt.Errorf("%s exists and %s does not: restore the keys from their backup; with new keys, the hub recognizes no device of this database", file, filepath.Join(data, pkiFolder))
	}
	request, list, err := pki.NewRequest(ctx, filepath.Join(data, pkiFolder), o)
	if err != nil {
		return err
	}
	if err := createFile(out, request, 0o644); err != nil {
		return fmt.Errorf("write the request (%s contains a copy): %w", filepath.Join(data, pkiFolder+".request"), err)
	}
	var lines []requestedKey
	for _, r := range list {
		lines = append(lines, requestedKey{r.Title, r.Key, r.KeyHash})
	}
	if done, err := a.json(lines); done {
		return err
	}
	for _, l := range lines {
		a.printf("%-15s  %s  SHA-256 %s\n", l.Title, l.Key, l.KeyHash)
	}
	a.note("The request is in %s. Sign it on the root's machine:\n  gangway ca issue %s --root FOLDER -o answer.pem", out, filepath.Base(out))
	return nil
}

// requestedKey is a line of the output of 'gangway ca request' and 'gangway ca issue'.
type requestedKey struct {
	Title   string `json:"ca"`
	Key     string `json:"key"`
	KeyHash string `json:"key-hash"`
}

func (a *app) caIssue() *cobra.Command {
	var rootDir, out string
	var yes bool
	life := pki.DefaultTLSLife
	c := &cobra.Command{
		Use: "issue REQUEST --root DIR -o ANSWER", Short: "Sign the certificates of a hub's CAs, on the root's machine", Args: args("REQUEST"),
		Long: `Issue reads a request of 'gangway ca request', and shows the certificates that the root
would sign. If you confirm, issue writes the answer for the hub: the root's certificate
and the new certificates.

Before you confirm, compare the SHA-256 of each key with the lines that 'gangway ca
request' printed. Issue takes only the keys from the request: the names, purposes and
expiry times of the certificates are fixed. The attestation CA and the device CA never
expire, because the identities of devices never expire.

The root's folder has root.crt, and root.key or the URI of the root's key in root.uri. If
the root of a hub is not offline, the root's folder is pki in the hub's data folder.`,
		Example: `  gangway ca issue request.pem --root /media/vault/root -o answer.pem
  gangway ca issue request.pem --root /var/lib/gangway/pki --tls-life 730d --yes -o answer.pem`,
		RunE: func(_ *cobra.Command, arg []string) error {
			if rootDir == "" || out == "" {
				return usagef("--root and -o are needed: the root's folder, and the file for the answer")
			}
			request, err := readSmall(arg[0], maxCAFile)
			if err != nil {
				return err
			}
			root, err := pki.OpenRoot(rootDir)
			if err != nil {
				return err
			}
			plan, err := root.Plan(request, time.Now(), life)
			if err != nil {
				return err
			}
			return a.issueCAs(root, plan, out, yes)
		},
	}
	f := c.Flags()
	f.StringVar(&rootDir, "root", "", "folder of the root's key and certificate (required)")
	f.StringVarP(&out, "out", "o", "", "new file for the answer (required)")
	cmdline.SpanVar(f, &life, "tls-life", life, "validity of the TLS CA, from 30d to 10950d")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask for confirmation")
	return c
}

func (a *app) issueCAs(root *pki.Root, plan []pki.Planned, out string, yes bool) error {
	if exists(out) {
		return fmt.Errorf("%s exists: choose another file", out)
	}
	a.note("The root %q (hub name %s) would sign:", root.Certificate().Subject.CommonName, root.HubName())
	lines := []requestedKey{}
	for _, p := range plan {
		end := "never expires"
		if p.NotAfter.Year() < 9999 {
			end = "expires on " + p.NotAfter.Format(time.DateOnly)
		}
		a.note("%-15s  %s  SHA-256 %s\n                 %s, %s", p.Title, p.Key, p.KeyHash, p.Subject, end)
		lines = append(lines, requestedKey{p.Title, p.Key, p.KeyHash})
	}
	if !yes {
		fmt.Fprint(a.stderr, "Are these the keys that the hub printed? Type yes: ")
		line, _ := bufio.NewReader(io.LimitReader(a.stdin, 256)).ReadString('\n')
		if answer := strings.ToLower(strings.TrimSpace(line)); answer != "yes" {
			return errors.New("not confirmed: nothing was signed; give --yes in a script")
		}
	}
	answer, err := root.Issue(plan)
	if err != nil {
		return err
	}
	if err := createFile(out, answer, 0o644); err != nil {
		return err
	}
	if done, err := a.json(lines); done {
		return err
	}
	a.note("The answer is in %s. Install it on the hub's machine:\n  gangway ca install %s --data DIR --hub-name %s", out, filepath.Base(out), root.HubName())
	return nil
}

func (a *app) caInstall() *cobra.Command {
	var data, name string
	c := &cobra.Command{
		Use: "install ANSWER --data DIR", Short: "Install the CA certificates that the root has signed, so that the hub's CAs use their new keys", Args: args("ANSWER"),
		Long: `Install checks the answer of 'gangway ca issue', and then puts the new keys and
certificates in DIR/pki. If the answer is wrong, for example because it is for another
hub or was altered, install changes nothing and the request stays open.

A new hub needs --hub-name, as 'gangway ca init' printed it on the root's machine: the
name shows that nobody replaced the root in the answer. A hub that has CAs accepts only
its own root.

The hub continues to accept devices with certificates of the former CAs. The former
folder stays beside the new one, as DIR/pki.replaced-TIME. Restart the hub, and delete
that folder when the hub works. Make a new backup.`,
		Example: `  gangway ca install answer.pem --data /var/lib/gangway --hub-name 5f0c...
  gangway ca install answer.pem --data /var/lib/gangway`,
		RunE: func(c *cobra.Command, arg []string) error {
			if data == "" {
				return usagef("--data is needed: the folder of the hub's keys and database")
			}
			if name = strings.ToLower(name); name != "" && !hubNameForm().MatchString(name) {
				return usagef("--hub-name must be 64 hexadecimal digits, as 'gangway ca init' prints them")
			}
			answer, err := readSmall(arg[0], maxCAFile)
			if err != nil {
				return err
			}
			return a.installCAs(c.Context(), data, answer, name)
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", "folder of the hub's keys and database (required)")
	f.StringVar(&name, "hub-name", "", "the hub name of the root: SHA-256 of its key, hexadecimal (required for a new hub)")
	return c
}

func (a *app) installCAs(ctx context.Context, data string, answer []byte, name string) error {
	done, err := pki.Install(filepath.Join(data, pkiFolder), answer, name, time.Now())
	if err != nil {
		return err
	}
	if done.First {
		// The hub is new, so it needs a new database. Otherwise, a hub that has keys but no
		// database refuses to start, because its database may have been lost.
		i, err := openInstance(ctx, data, openOptions{newDatabase: true})
		if err != nil {
			return err
		}
		if err := i.close(); err != nil {
			return err
		}
	}
	out := struct {
		HubName string   `json:"hub-name"`
		CAs     []string `json:"cas"`
		Kept    string   `json:"kept,omitempty"`
	}{HubName: done.HubName, Kept: done.Kept}
	for _, c := range done.CAs {
		out.CAs = append(out.CAs, c.Subject.CommonName)
	}
	if done, err := a.json(out); done {
		return err
	}
	for _, n := range out.CAs {
		a.printf("%s\n", n)
	}
	if out.Kept == "" {
		a.note("The hub is ready: start it with 'gangway serve'. Back up %s.", filepath.Join(data, pkiFolder))
	} else {
		a.note("Restart the hub to use the new keys. The former keys and certificates are in %s: delete this folder once the hub works with the new keys, and make a new backup.", out.Kept)
	}
	return nil
}

func (a *app) caShow() *cobra.Command {
	var data, keys string
	c := &cobra.Command{
		Use: "show --data DIR", Short: "Show the hub's CAs, where their keys are and when they expire", Args: args(),
		Long: `Show prints each CA of the hub: where its private key is (in a file, at a URI, or
offline), when the CA expires, and the SHA-256 of its key. A CA with the key "replaced" is
a former CA; the hub uses it only to verify the certificates of devices.`,
		Example: "  gangway ca show --data /var/lib/gangway",
		RunE: func(*cobra.Command, []string) error {
			if data == "" {
				return usagef("--data is needed: the folder of the hub's keys and database")
			}
			dir := cmp.Or(keys, filepath.Join(data, pkiFolder))
			if !exists(dir) { // pki.Open would make a new hub
				return fmt.Errorf("the hub's keys are not in %s", dir)
			}
			ca, err := pki.Open(dir, pki.Options{})
			if err != nil {
				return err
			}
			list := ca.Describe()
			if done, err := a.json(list); done {
				return err
			}
			for _, d := range list {
				end := "never expires"
				if !d.Forever {
					end = "expires " + d.NotAfter.Format(time.DateOnly)
				}
				a.printf("%s\n  key: %s, SHA-256 %s\n  %s\n", d.Subject, d.Key, d.KeyHash, end)
			}
			return nil
		},
	}
	c.Flags().StringVar(&data, "data", "", "folder of the hub's keys and database (required)")
	c.Flags().StringVar(&keys, "pki", "", "folder of the hub's keys, such as a mounted secret (default: pki in the data folder)")
	return c
}
