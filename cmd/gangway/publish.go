package main

import (
	"net/url"

	"gangway/hub/api"

	"github.com/spf13/cobra"
)

// publishCommands returns the commands publish and unpublish.
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
		command("publish", "Let all accounts of the hub read a device's states",
			`Publish lets every account of the hub read the device's trail, for example with 'pvr
clone': its revisions, their states, and the objects that the states name. The
device's logs, metadata, addresses and TPM stay private, and only you can change
anything.`,
			"PUT", "%s is public: others can read its revisions with 'pvr clone'."),
		command("unpublish", "Make a device's states private again",
			`Unpublish ends the access that publish gave. Download URLs that the hub issued for
that access stop working too.`,
			"DELETE", "%s is no longer public."),
	}
}
