package main

import (
	"net/url"

	"gangway/hub/api"

	"github.com/spf13/cobra"
)

// publishCommands share a device's states, and end it.
func (a *app) publishCommands() []*cobra.Command {
	command := func(use, short, long, method, done string) *cobra.Command {
		return &cobra.Command{
			Use: use + " ID|NICK", Short: short, Long: long, Args: args("the device's id or nick"),
			Example: "  gangway device " + use + " brave-otter-3fa2",
			RunE: func(c *cobra.Command, arg []string) error {
				d, err := findDevice(c.Context(), arg[0])
				if err != nil {
					return err
				}
				now, err := call[api.DeviceView](c.Context(), method, "/devices/"+url.PathEscape(d.ID)+"/public", nil)
				if err != nil {
					return err
				}
				maskNetworks(now)
				if printed, err := a.json(now); printed {
					return err
				}
				a.note(done, now.Nick)
				return nil
			},
		}
	}
	return []*cobra.Command{
		command("publish", "Let everybody with an account here read a device's states",
			`Publish lets everybody who has an account on the hub read the device's trail: its
revisions, their states and the objects that they name, as 'pvr clone' does. Its
logs, metadata, addresses and TPM stay yours, and nobody else changes anything.`,
			"PUT", "%s is public: others can read its revisions with 'pvr clone'."),
		command("unpublish", "Keep a device's states to yourself again",
			`Unpublish ends what publish allowed, also for addresses that were given out.`,
			"DELETE", "%s is no longer public."),
	}
}
