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
		Long: `Console is a full-screen program for a person at the machine's screen or serial port.
Its pages show the machine's state and problems, network, TPM, hub, identity, revision,
log and claim code. Console can restart the machine. On Gangway's own images it can also
change the network settings and wipe the machine. It shows no secret.

The machine's owner limits the console with the user-meta gangway.console: off, read
(only shows the machine), on (the default), or full (also wipes a machine that has an
owner).

Console works on terminals of at least 40 columns and 12 lines, even without colours.`,
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
	f.StringVar(&limit, "limit", "full", "the highest console level that the owner may choose: off, read, on or full")
	f.StringVar(&hook, "machine-hook", "", "program that the console calls to restart or wipe the machine, or to change its network settings (default: the console can only restart the machine, with systemctl)")
	f.DurationVar(&idle, "idle", 0, "time without a key press after which the console closes (default: never)")
	f.StringVar(&o.token, "token-file", "", "join token file that names the hub to check, for a machine that is not onboarded")
	f.StringVar(&o.hub, "hub-file", "", "hub file that names the hub to check, for a machine that is not onboarded")
	return c
}

// newScreen returns a screen on this process's terminal. The descriptions of common terminals are
// part of this program, because Gangway's images have no terminfo database.
func newScreen() (tcell.Screen, error) {
	s, err := tcell.NewTerminfoScreen()
	if errors.Is(err, tcell.ErrTermNotFound) {
		return nil, cmdline.Usagef("the terminal type %q is unknown; set TERM to xterm, linux, vt220, vt102 or vt100", os.Getenv("TERM"))
	}
	if err != nil {
		return nil, fmt.Errorf("console: the standard input and output are not a terminal; run the command in a terminal: %w", err)
	}
	return s, nil
}
