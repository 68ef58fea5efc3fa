package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"

	"gangway/device/console/access"
	"gangway/device/install/slots"
	"gangway/image/stick"

	"github.com/spf13/cobra"
)

// system is the JSON output of 'gangway image system'.
type system struct {
	System string `json:"system"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	Kernel string `json:"kernel"`
	// Reference is the file of the reference manifest, with --manifest-key.
	Reference string `json:"reference-manifest,omitempty"`
}

func (a *app) imageSystem() *cobra.Command {
	var o imageOptions
	c := &cobra.Command{
		Use:   "system -o FILE",
		Short: "Build an updated system for machines that are already installed",
		Long: `System makes the file that an installed machine starts: kernel, drivers, init and
agent in one. To update machines, put the file into a revision as ` + slots.SystemPath + `.
A machine has two slots for systems. It writes the new system to the slot from which it
does not run, and starts the new system once. If the machine then reaches the hub, it
keeps the new system. The file contains no data of a single machine, and no secret. The
same input gives the same file, byte for byte.

With --manifest-key, the command also writes a reference manifest, FILE.manifest: what a
machine measures when it starts the system, signed by your key.

If the machines pin your key, give the same --revision-key. A system without the key
installs revisions without a signature.`,
		Example: `  gangway image system -o gangway/system.efi
  gangway image system --kernel ./my-kernel -o system.efi
  gangway image system --manifest-key manifest.key --manifest-name 'kernel of November' -o system.efi
  gangway image system --debug --token-file device_autojointoken.json -o system.efi`,
		Args: args(),
		RunE: func(c *cobra.Command, _ []string) error { return a.makeSystem(c.Context(), o) },
	}
	f := c.Flags()
	f.StringVarP(&o.out, "out", "o", "system.efi", "the file to write")
	o.partsFlags(f)
	f.BoolVar(&o.debug, "debug", false, "give the devices a shell; its password is the same as in installer images that were built with the same token file")
	o.consoleFlag(f)
	f.StringVar(&o.token, "token-file", "", "with --debug: the token file from which the password is derived")
	return c
}

func (a *app) makeSystem(ctx context.Context, o imageOptions) error {
	if o.debug != (o.token != "") {
		return usagef("--debug and --token-file must be given together: the shell's password is derived from the join token's secret")
	}
	var token []byte
	if o.debug {
		var err error
		if token, err = a.readToken(o.token); err != nil {
			return err
		}
	}
	console, err := access.Parse(o.console)
	if err != nil {
		return usagef("--console: %w", err)
	}
	reference, err := o.manifest.open(ctx)
	if err != nil {
		return err
	}
	parts, err := o.parts()
	if err != nil {
		return err
	}
	parts.Owner, parts.DiskPIN = reference.owner(), o.manifest.diskPIN
	b, err := stick.System(parts, token, console)
	if err != nil {
		return err
	}
	if err := reference.measure(&o, parts, nil, b); err != nil {
		return err
	}
	if err := os.WriteFile(o.out, b, 0o644); err != nil {
		return err
	}
	file, err := reference.write(a, o.out)
	if err != nil {
		return err
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(b))
	if done, err := a.json(system{o.out, int64(len(b)), sum, parts.Release, file}); done {
		return err
	}
	a.note("%s, %d MiB, SHA-256 %s. Put the file into a revision as %s.", o.out, len(b)>>20, sum, slots.SystemPath)
	return nil
}
