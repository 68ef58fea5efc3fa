package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"gangway/internal/cmdline"
	"gangway/internal/fleet"

	"github.com/spf13/cobra"
)

func makerCommand(stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "maker DIR",
		Short: "Make the CA of the emulated TPMs, which a test hub must trust",
		Long: `Maker makes the root and the intermediate CA of a maker of emulated TPMs, with their
private keys, in the folder DIR. It overwrites nothing.

Anyone with these keys can make TPMs that the hub trusts. So only a test hub may trust
the root, and its policy must accept the TPMs by their maker's name, FAKE.`,
		Example: `  gangway-fleet maker ./maker
  gangway serve --data ./test-hub --tpm-roots ./maker/root.pem --tpm-intermediates ./maker/intermediate.pem`,
		Args: cmdline.Args("DIR"),
		RunE: func(_ *cobra.Command, arg []string) error {
			m, err := fleet.NewMaker("Gangway fleet", fleet.MakerOptions{})
			if err != nil {
				return err
			}
			if err := m.Save(arg[0]); errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s already contains the CA of emulated TPMs: use this CA, or choose another folder", arg[0])
			} else if err != nil {
				return err
			}
			fmt.Fprintf(stdout, `The CA of the emulated TPMs is in %s. To make a test hub trust the CA, start the hub like this:
  gangway serve --data DIR --tpm-roots %s --tpm-intermediates %s
and add this line to the hub's or the owner's policy, with 'gangway policy set FILE':
  software_tpms: [FAKE]
`, arg[0], filepath.Join(arg[0], fleet.RootFile), filepath.Join(arg[0], fleet.IntermediateFile))
			return nil
		},
	}
}
