package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"gangway/device/agent"

	"gangway/internal/cmdline"

	"github.com/spf13/cobra"
)

func exportCommand(o *options, stdout io.Writer) *cobra.Command {
	var dir, handle string
	var remove bool
	c := &cobra.Command{
		Use:   "export --out DIR",
		Short: "Export the device's certificate and a handle to its TPM key, for OpenSSL",
		Long: `Export lets programs that use OpenSSL's TPM provider (Debian: tpm2-openssl) sign in
to the hub as this device. It stores the identity key at a persistent handle of the TPM
and writes these files into DIR:

  identity.pem   the device's certificate and its issuer
  hub-ca.pem     the hub's CA certificate
  key.uri        the key's URI for OpenSSL, for example handle:0x81020000
  openssl.cnf    an OpenSSL configuration that uses the TPM

No file contains a secret: the key stays in the TPM. Every program that can access the
TPM can use the key; this was also possible before the export. There is no TSS2 PRIVATE
KEY file, because the key is a primary key.

If your programs use HTTP, 'gangway-agent proxy' is simpler, because they need no key.`,
		Example: `  gangway-agent export --out /etc/gangway/identity
  gangway-agent export --remove --out /etc/gangway/identity`,
		Args: cmdline.Args(),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg := agent.ExportConfig{TPM: o.tpm, StateDir: o.state, Dir: dir, Remove: remove}
			if dir == "" && !remove {
				return cmdline.Usagef("--out is missing; name the folder for the files")
			}
			if handle != "" {
				h, err := strconv.ParseUint(handle, 0, 32)
				if err != nil {
					return cmdline.Usagef("--handle %q is not a number; write a handle such as 0x81020000", handle)
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
				fmt.Fprintf(stdout, "Removed the key from %d persistent handle(s).\n", done.Removed)
				return nil
			}
			fmt.Fprintf(stdout, `The key is at %[1]s; the files are in %[2]s. For example (curl 8.12 or later):
  curl --engine 'tpm2:?tpm2.signature=yes' --key-type PROV --key %[1]s --cert %[2]s/%[3]s --cacert %[2]s/%[4]s HUB/device
`, done.Key, done.Dir, agent.ExportChain, agent.ExportCA)
			return nil
		},
	}
	c.Flags().StringVar(&dir, "out", "", "folder for the files; created if missing")
	c.Flags().StringVar(&handle, "handle", "", "persistent handle of the key, 0x81020000 to 0x8102FFFF (default: the first free handle)")
	c.Flags().BoolVar(&remove, "remove", false, "undo an export: remove the key's persistent handle and the files in --out")
	return c
}
