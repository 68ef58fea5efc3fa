package main

import (
	"crypto/sha256"
	"fmt"
	"os"

	"gangway/device/install/slots"
	"gangway/image/stick"

	"github.com/spf13/cobra"
)

// system is what image system prints as JSON.
type system struct {
	System string `json:"system"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	Kernel string `json:"kernel"`
}

func (a *app) imageSystem() *cobra.Command {
	var o imageOptions
	c := &cobra.Command{
		Use:   "system -o FILE",
		Short: "Make a system to update installed machines with, through a revision",
		Long: `System makes the file that an installed machine runs: kernel, drivers, init and
agent in one. As ` + slots.SystemPath + ` in a revision it is written to the machines'
other slot, tried once, and kept if it reaches the hub. There is nothing of one
machine in it, and no secret. The same input gives the same file to the byte.`,
		Example: `  gangway image system -o gangway/system.efi
  gangway image system --kernel ./my-kernel -o system.efi
  gangway image system --debug --token-file device_autojointoken.json -o system.efi`,
		Args: args(),
		RunE: func(*cobra.Command, []string) error { return a.makeSystem(o) },
	}
	f := c.Flags()
	f.StringVarP(&o.out, "out", "o", "system.efi", "the system's file")
	o.partsFlags(f)
	f.BoolVar(&o.debug, "debug", false, "give the devices a console, with the password of the join token's images")
	f.StringVar(&o.token, "token-file", "", "the join token file of the password, with --debug")
	return c
}

func (a *app) makeSystem(o imageOptions) error {
	if o.debug != (o.token != "") {
		return usagef("--debug and --token-file go together: the console's password follows from the token")
	}
	var token []byte
	if o.debug {
		var err error
		if token, err = readToken(o.token); err != nil {
			return err
		}
	}
	parts, err := o.parts()
	if err != nil {
		return err
	}
	b, err := stick.System(parts, token)
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.out, b, 0o644); err != nil {
		return err
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(b))
	if done, err := a.json(system{o.out, int64(len(b)), sum, parts.Release}); done {
		return err
	}
	a.note("%s, %d MiB, SHA-256 %s. It goes into a revision as %s.", o.out, len(b)>>20, sum, slots.SystemPath)
	return nil
}
