package main

import (
	"fmt"
	"strings"
	"unicode"

	"gangway/device/install/netfile"
	"gangway/hub/api"

	"github.com/spf13/cobra"
)

// networkMeta is the key of a device's network settings: the owner's settings in
// user-meta, and the device's report about them in device-meta.
const networkMeta = "gangway.network"

// deviceNetwork is the JSON output of 'gangway device network'.
type deviceNetwork struct {
	Device string `json:"device"`
	// Set has the owner's settings, one per line, with passwords masked. Set is nil if the owner
	// has no settings, or if the settings from the hub cannot be parsed. In the latter case,
	// Mistake describes the error.
	Set     []string `json:"set"`
	Mistake string   `json:"mistake,omitempty"`
	Report  string   `json:"report"` // as the device wrote it
}

func (a *app) deviceNetwork() *cobra.Command {
	var o networkOptions
	var automatic bool
	c := &cobra.Command{
		Use:   "network ID|NICK",
		Short: "Show or change the network settings of a device that an installer image installed",
		Long: `Network shows the network settings of a device, and the result of the last change.

With settings, it replaces all of them: a setting that you do not name becomes
automatic. The device restarts to try the new settings. If it does not reach the hub
within ten minutes, it restores the former settings by itself and reports the failure.`,
		Example: `  gangway device network oslo-gate-1
  gangway device network oslo-gate-1 --address 192.0.2.11/24 --gateway 192.0.2.1 --dns 192.0.2.53
  gangway device network oslo-gate-1 --network-file network.txt
  gangway device network oslo-gate-1 --automatic`,
		Args: args("the device's id or nick"),
		RunE: func(c *cobra.Command, arg []string) error {
			settings, err := o.settings()
			if err != nil {
				return err
			}
			if automatic {
				if settings != nil {
					return usagef("--automatic cannot be combined with other settings")
				}
				settings = &netfile.Settings{}
			}
			d, err := findDevice(c.Context(), arg[0])
			if err != nil {
				return err
			}
			if settings == nil {
				return a.showNetwork(d)
			}
			_, err = call[map[string]any](c.Context(), "PATCH", "/devices/"+d.ID+"/user-meta", map[string]string{networkMeta: settings.Text()})
			if err != nil {
				return err
			}
			a.note("The settings are stored. %s gets the settings within about a minute, and restarts to try them. 'gangway device network %s' shows the result.", d.Nick, d.Nick)
			return nil
		},
	}
	o.flags(c.Flags())
	c.Flags().BoolVar(&automatic, "automatic", false, "remove the owner's settings, so that the network configures the device")
	return c
}

func (a *app) showNetwork(d api.DeviceView) error {
	n := deviceNetwork{Device: d.ID}
	n.Report, _ = d.DeviceMeta[networkMeta].(string)
	if text, ok := d.UserMeta[networkMeta].(string); ok {
		s, err := netfile.Parse([]byte(text))
		if err != nil {
			n.Mistake = err.Error()
		} else if n.Set = s.Masked(); len(n.Set) == 0 {
			n.Set = []string{"automatic"}
		}
	}
	if done, err := a.json(n); done {
		return err
	}
	for _, line := range n.Set {
		a.printf("%-8s %s\n", "set", line)
	}
	if n.Mistake != "" {
		a.printf("%-8s cannot be used: %s\n", "set", n.Mistake)
	}
	if n.Report == "" {
		return fmt.Errorf("%s has not reported its network settings: no installer image installed it, or the image is too old to report them", d.Nick)
	}
	for line := range strings.Lines(n.Report) {
		a.printf("%-8s %s\n", "device", printableLine(line))
	}
	return nil
}

// maskNetworks prepares devices for printing: in the network settings in each device's user-meta,
// it replaces the proxy's password with asterisks. It replaces settings as a whole if they cannot
// be parsed.
func maskNetworks(devices ...api.DeviceView) {
	for _, d := range devices {
		text, ok := d.UserMeta[networkMeta].(string)
		if !ok {
			continue
		}
		d.UserMeta[networkMeta] = "********"
		if s, err := netfile.Parse([]byte(text)); err == nil {
			d.UserMeta[networkMeta] = strings.Join(s.Masked(), "\n")
		}
	}
}

// printableLine removes the characters that are not printable from a device's text line.
func printableLine(line string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, line)
}
