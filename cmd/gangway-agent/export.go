package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"gangway/device/agent"

	"github.com/spf13/cobra"
)

func exportCommand(o *options, stdout io.Writer) *cobra.Command {
	var dir, handle string
	var remove bool
	c := &cobra.Command{
		Use:   "export --out DIR",
		Short: "Make the identity usable for OpenSSL's TPM provider",
		Long: `Export makes the identity key persistent in the TPM, which programs with OpenSSL's
TPM provider (Debian: tpm2-openssl) can use, and writes into DIR

  identity.pem   the certificate and its issuer
  hub-ca.pem     the hub's CA
  key.uri        where the key is, as OpenSSL takes it: handle:0x81020000
  openssl.cnf    OpenSSL's configuration for it

None of them is a secret: the key stays in the TPM. Who may use the TPM may use it,
as before. The key is a primary key, so there is no TSS2 PRIVATE KEY file of it.

For programs that need no key at all, see 'gangway-agent proxy'.`,
		Example: `  gangway-agent export --out /etc/gangway/identity
  gangway-agent export --remove --out /etc/gangway/identity`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg := agent.ExportConfig{TPM: o.tpm, StateDir: o.state, Dir: dir, Remove: remove}
			if dir == "" && !remove {
				return usageError{errors.New("--out is needed: the folder to write into")}
			}
			if handle != "" {
				h, err := strconv.ParseUint(handle, 0, 32)
				if err != nil {
					return usageError{fmt.Errorf("--handle is a number such as 0x81020000, not %q", handle)}
				}
				cfg.Handle = uint32(h)
			}
			auth, err := readAuth(o.endorsementAuth)
			if err != nil {
				return err
			}
			cfg.EndorsementAuth = auth
			done, err := agent.Export(c.Context(), cfg)
			if err != nil {
				return err
			}
			if o.output == "json" {
				return json.NewEncoder(stdout).Encode(done)
			}
			if remove {
				fmt.Fprintf(stdout, "The key was taken out of %d persistent handle(s).\n", done.Removed)
				return nil
			}
			fmt.Fprintf(stdout, `The key is at %[1]s; what names it is in %[2]s. For example (curl 8.12 or later):
  curl --engine 'tpm2:?tpm2.signature=yes' --key-type PROV --key %[1]s --cert %[2]s/%[3]s --cacert %[2]s/%[4]s HUB/device
`, done.Key, done.Dir, agent.ExportChain, agent.ExportCA)
			return nil
		},
	}
	c.Flags().StringVar(&dir, "out", "", "folder for the files, made if it is not there")
	c.Flags().StringVar(&handle, "handle", "", "persistent handle, 0x81020000 to 0x8102FFFF (default: the first free one)")
	c.Flags().BoolVar(&remove, "remove", false, "take the key and the files away again")
	return c
}
