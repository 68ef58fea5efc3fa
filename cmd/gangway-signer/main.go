// Command gangway-signer holds the connection to an HSM or to a cloud's key service, and signs for
// a hub on a Unix socket. The hub is statically linked, but the library of an HSM (PKCS #11) is a
// loadable C module, and the libraries of the clouds are large, so the signer is a separate program
// in a separate Go module. It is Gangway's only program that uses cgo.
package main

import (
	"context"
	"crypto"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"gangway/hub/pki/signer"
	"gangway/internal/cmdline"
	"gangway/internal/manual"
	"gangway/internal/version"

	"github.com/spf13/cobra"
)

// Exit codes. The code for success is 0.
const (
	exitFailed = 1 // the command failed
	exitUsage  = 2 // unknown command or flag, or wrong arguments
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, arg []string, stdout, stderr io.Writer) int {
	root := command(stdout, stderr)
	root.SetArgs(arg)
	ran, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return 0
	case cmdline.IsUsage(err):
		fmt.Fprintf(stderr, "gangway-signer: %v\n%s\n", err, cmdline.Advice(ran))
		return exitUsage
	}
	fmt.Fprintf(stderr, "gangway-signer: %v\n", err)
	return exitFailed
}

func command(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "gangway-signer",
		Short: "Sign for a hub, with keys that are in an HSM or in a cloud",
		Long: `Gangway-signer holds the connection to an HSM (PKCS #11), or to the key service of AWS,
Google Cloud or Azure, and uses the keys there to sign the certificates of a hub. The hub
reaches the signer at a Unix socket, by URIs like
signer:/run/gangway-signer/socket?key=aca.

The exit code is 0 for success, 1 for a failure and 2 for wrong usage.`,
		Example: `  gangway-signer create-key aca --module /usr/lib/softhsm/libsofthsm2.so --token gangway --pin-file /etc/gangway-signer/pin
  gangway-signer serve --module /usr/lib/softhsm/libsofthsm2.so --token gangway --pin-file /etc/gangway-signer/pin --key aca`,
		SilenceUsage: true, SilenceErrors: true,
		Version:           version.Current.String(),
		PersistentPreRunE: func(c *cobra.Command, _ []string) error { return cmdline.FromEnvironment(c) },
	}
	root.SetVersionTemplate("gangway-signer {{.Version}}\n")
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.AddCommand(serveCommand(stderr), createKeyCommand(stdout), manual.Command())
	cmdline.Prepare(root)
	cmdline.Environment(root, "GANGWAY_SIGNER")
	return root
}

// serveFlags say which keys the signer serves, and to whom.
type serveFlags struct {
	token  tokenFlags
	keys   []string
	socket string
	users  []string
	group  string
}

func serveCommand(stderr io.Writer) *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use: "serve --key NAME[=LABEL|=URI]", Short: "Serve signatures on a Unix socket", Args: cmdline.Args(),
		Long: `Serve opens its keys, and signs for the users of its socket until it is stopped. The value
of --key has the name by which the hub asks for the key, and says where the key is:

  NAME, NAME=LABEL
        in the token of --module, --token and --pin-file
  NAME=pkcs11:token=LABEL;object=LABEL?module-path=FILE&pin-source=file:FILE
        in another token; the three flags give the values that the URI leaves out
  NAME=awskms:key-id=ARN;region=REGION
        in AWS KMS
  NAME=cloudkms:projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V
        in Google Cloud KMS
  NAME=azurekms:vault=NAME;name=KEY;version=VERSION
        in Azure Key Vault; url=https://HOST instead of vault= for a managed HSM

The libraries of the clouds find their credentials in the environment, in files or on the
machine, as other programs of that cloud do.

Anyone who can use the socket can get any certificate signed. So only the signer's own
user and the users of --allow-user may use the socket. The signer asks the kernel for the
user of each connection.

Serve signs only with the keys of --key, and only digests that fit the key: SHA-256 for
P-256, SHA-384 for P-384. It logs each signature.

Each flag has an environment variable, such as GANGWAY_SIGNER_MODULE.`,
		Example: `  gangway-signer serve --module /usr/lib/softhsm/libsofthsm2.so --token gangway --pin-file /etc/gangway-signer/pin --key aca --key device-ca --key tls-ca --allow-user gangway --group gangway
  gangway-signer serve --module /usr/lib/softhsm/libsofthsm2.so --token gangway --pin-file ./pin --key aca=hub-1-aca --socket ./signer.socket
  gangway-signer serve --key 'aca=awskms:key-id=alias/aca;region=eu-central-1'`,
		RunE: func(c *cobra.Command, _ []string) error {
			return f.serve(c.Context(), slog.New(slog.NewTextHandler(stderr, nil)))
		},
	}
	flags := c.Flags()
	f.token.add(flags)
	flags.StringSliceVar(&f.keys, "key", nil, "key to serve: NAME, NAME=LABEL or NAME=URI (repeatable, required)")
	flags.StringVar(&f.socket, "socket", "/run/gangway-signer/socket", "path of the Unix socket")
	flags.StringSliceVar(&f.users, "allow-user", nil, "name or id of another user that may use the signer (repeatable)")
	flags.StringVar(&f.group, "group", "", "group that may use the socket too (default: none; the socket's mode is 0600)")
	return c
}

func (f *serveFlags) serve(ctx context.Context, log *slog.Logger) error {
	wanted, err := keyNames(f.keys)
	if err != nil {
		return err
	}
	options := signer.ListenOptions{Log: log}
	if options.Users, err = userIDs(f.users); err != nil {
		return err
	}
	if options.Group, err = groupID(f.group); err != nil {
		return err
	}
	ring := keyring{token: f.token}
	defer ring.Close()
	keys := map[string]crypto.Signer{}
	for name, at := range wanted {
		if keys[name], err = ring.open(ctx, at); err != nil {
			return fmt.Errorf("--key %s: %w", name, err)
		}
	}
	h, err := signer.NewHandler(keys, log)
	if err != nil {
		return err
	}
	l, err := signer.Listen(f.socket, options)
	if err != nil {
		return err
	}
	log.Info("The signer is ready.", "socket", f.socket, "keys", len(keys))
	return h.Serve(ctx, l)
}

func createKeyCommand(stdout io.Writer) *cobra.Command {
	var token tokenFlags
	var curve string
	c := &cobra.Command{
		Use: "create-key LABEL --module FILE --token LABEL --pin-file FILE", Short: "Create a key in the token", Args: cmdline.Args("LABEL"),
		Long: `Create-key creates an ECDSA key in the token. The key is sensitive and not extractable, so
it never leaves the HSM. If the token has a key with this label already, create-key
creates nothing. It prints the SHA-256 of the public key, as 'gangway ca request' does.`,
		Example: `  gangway-signer create-key device-ca --module /usr/lib/softhsm/libsofthsm2.so --token gangway --pin-file /etc/gangway-signer/pin`,
		RunE: func(_ *cobra.Command, arg []string) error {
			t, err := token.open()
			if err != nil {
				return err
			}
			defer t.Close()
			hash, err := createKey(t, arg[0], curve)
			if err != nil {
				return err
			}
			fmt.Fprintln(stdout, hash)
			return nil
		},
	}
	token.add(c.Flags())
	c.Flags().StringVar(&curve, "curve", "P-256", "curve of the key: P-256 or P-384")
	return c
}
