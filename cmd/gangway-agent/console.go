package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"gangway/device/console"
	"gangway/device/console/access"
	"gangway/internal/cmdline"
	"gangway/internal/version"

	"github.com/gdamore/tcell/v2"
	"github.com/spf13/cobra"
)

func consoleCommand(o *options) *cobra.Command {
	var hook, limit, log string
	var idle time.Duration
	c := &cobra.Command{
		Use:   "console",
		Short: "Show this machine on a full screen: network, TPM, hub, log, claim code",
		Long: `Console is a full-screen program for a person in front of the machine or at its
serial line. Its pages show the machine's state and what is wrong with it, network, TPM,
hub, identity, revision, log and claim code. It restarts the machine; on Gangway's own
images it also edits the network settings and wipes the machine. It shows no secret.

The machine's owner limits it with the user-meta gangway.console: off, read (shows the
machine only), on, or full (also wipes a machine that has an owner). Without the
user-meta, it is on.

It needs a terminal of at least 40 columns and 12 lines, and no colours.`,
		Example: `  gangway-agent console
  TERM=vt102 gangway-agent console --log-file /var/log/gangway-agent.log`,
		Args: cmdline.Args(),
		RunE: func(c *cobra.Command, _ []string) error {
			exam, err := o.doctor()
			if err != nil {
				return err
			}
			cfg := console.Config{Doctor: exam, Machine: console.System{}, LogFile: log, Version: version.Current.String(), Idle: idle, Plain: os.Getenv("NO_COLOR") != ""}
			if cfg.Limit, err = access.Parse(limit); err != nil {
				return cmdline.Usagef("--limit: %v", err)
			}
			if hook != "" {
				cfg.Machine = console.Hook{Program: hook}
			}
			if cfg.Screen, err = newScreen(); err != nil {
				return err
			}
			return console.Run(c.Context(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&log, "log-file", "", "file with the machine's log (default: systemd's journal of gangway-agent)")
	f.StringVar(&limit, "limit", "full", "the highest level that the owner may allow: off, read, on or full")
	f.StringVar(&hook, "machine-hook", "", "program that restarts the machine, changes its network settings and wipes it; Gangway's images have one")
	f.DurationVar(&idle, "idle", 0, "leave the console if no key is pressed for so long (default: never)")
	f.StringVar(&o.token, "token-file", "", "join token file, for a machine that is not onboarded: says which hub to check")
	f.StringVar(&o.hub, "hub-file", "", "hub file, for the same purpose")
	return c
}

// newScreen returns this process's terminal. The descriptions of terminals are in this program: a
// machine needs no terminfo database.
func newScreen() (tcell.Screen, error) {
	s, err := tcell.NewTerminfoScreen()
	if errors.Is(err, tcell.ErrTermNotFound) {
		return nil, cmdline.Usagef("the terminal type %q is unknown; set TERM to xterm, linux, vt220, vt102 or vt100", os.Getenv("TERM"))
	}
	if err != nil {
		return nil, fmt.Errorf("console: this is not a terminal: %w", err)
	}
	return s, nil
}
