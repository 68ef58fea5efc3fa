package main

import (
	"fmt"
	"strings"
	"unicode"

	"gangway/device/install/netfile"
	"gangway/hub/api"

	"github.com/spf13/cobra"
)

// networkMeta is the key of a device's network settings: in user-meta those that
// its owner sets, in device-meta what the device says of them.
const networkMeta = "gangway.network"

// deviceNetwork is what device network prints as JSON.
type deviceNetwork struct {
	Device string `json:"device"`
	// Set are the settings that the owner has set, a line each, passwords masked;
	// nil: none. Mistake is what is wrong with them.
	Set     []string `json:"set"`
	Mistake string   `json:"mistake,omitempty"`
	Report  string   `json:"report"` // of the device
}

func (a *app) deviceNetwork() *cobra.Command {
	var o networkOptions
	var automatic bool
	c := &cobra.Command{
		Use:   "network ID|NICK",
		Short: "Show or change the network settings of a device that was installed from a stick",
		Long: `Network shows which network settings a device has, and what became of the last
change. With settings it changes them: all of them, those that are not named become
automatic. The device restarts to try them. If it does not reach the hub within ten
minutes, it goes back to the former ones by itself, and says so here.`,
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
					return usagef("--automatic has no other settings beside it")
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
			a.note("Set. %s takes it within a minute or so, and restarts to try it; 'gangway device network %s' says how that ends.", d.Nick, d.Nick)
			return nil
		},
	}
	o.flags(c.Flags())
	c.Flags().BoolVar(&automatic, "automatic", false, "let the network configure the device")
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
		return fmt.Errorf("%s does not say which network settings it has: it was not installed from a stick, or by an older one", d.Nick)
	}
	for line := range strings.Lines(n.Report) {
		a.printf("%-8s %s\n", "device", printableLine(line))
	}
	return nil
}

// maskNetworks masks the proxy's password in the network settings that devices'
// owner has set, before they are printed. What cannot be read is masked whole.
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

// printableLine is a line that a device has sent, without what a terminal would
// act on.
func printableLine(line string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, line)
}
