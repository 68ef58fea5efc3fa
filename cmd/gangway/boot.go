package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"gangway/hub/api"

	"github.com/spf13/cobra"
)

func (a *app) bootCommand() *cobra.Command {
	var accept, lock, unlock, again bool
	var like string
	var number int64
	c := &cobra.Command{
		Use: "boot ID|NICK", Short: "Show what a device booted, and choose its reference", Args: args("the device's id or nick"),
		Long: `Boot shows what a device booted, as its TPM attests it, and compares it with the
reference and with your manifests. The reference is the device's first boot, until you
choose another reference. If a policy has measured_boot: require, a device may use the
API only while its boot matches.

The boot has one of these states:
  unmeasured        the device has never sent a measurement
  matches           every part of the boot is expected or known
  changed           at least one part has changed: see what changed, then accept the boot
                    with --accept, or repair the machine
  nothing-measured  the firmware measured nothing into the TPM; this never matches
  refused           the newest measurement is not valid; the output shows the
                    measurement before it

The hub judges each part of the boot. A part has one of these states:
  expected          one of your manifests states its value: see 'gangway boot'
  known             its value is that of the reference, or you accepted it for a cohort
  changed           it is neither expected nor known
  unexplained       it is neither expected nor known, and the event log does not explain
                    its value

Names of measured things are derived from the measured data. Text in brackets comes
from the machine's event log; nothing verifies this text.

--accept makes the last boot the reference. --like copies the reference of another
device of the same model. --lock protects the reference from changes by mistake.`,
		Example: `  gangway device boot brave-otter-3fa2
  gangway device boot brave-otter-3fa2 --accept --lock
  gangway device boot brave-otter-3fa2 --accept --measurement 41
  gangway device boot brave-otter-3fa2 --like quick-bow-6a13
  gangway device boot brave-otter-3fa2 --again`,
		RunE: func(c *cobra.Command, arg []string) error {
			if number != 0 && !accept {
				return usagef("--measurement needs --accept")
			}
			if accept && like != "" || lock && unlock {
				return usagef("--accept and --like are mutually exclusive, and so are --lock and --unlock")
			}
			d, err := findDevice(c.Context(), arg[0])
			if err != nil {
				return err
			}
			path := "/devices/" + url.PathEscape(d.ID) + "/boot"
			change := map[string]any{}
			switch {
			case accept:
				if number == 0 {
					v, err := call[api.BootView](c.Context(), "GET", path, nil)
					if err != nil {
						return err
					}
					number = v.Number
				}
				change["from"], change["measurement"] = "latest", number
			case like != "":
				other, err := findDevice(c.Context(), like)
				if err != nil {
					return err
				}
				change["from"] = "device:" + other.ID
			}
			if lock || unlock {
				change["lock"] = lock
			}
			if again {
				if _, err := call[api.BootView](c.Context(), "POST", path+"/request", nil); err != nil {
					return err
				}
				a.note("The hub will ask %s for a new measurement when the device next reports.", d.Nick)
			}
			if len(change) > 0 {
				if _, err := call[api.BootView](c.Context(), "POST", path+"/reference", change); err != nil {
					return err
				}
			}
			return a.showBoot(c.Context(), d, path)
		},
	}
	f := c.Flags()
	f.BoolVar(&accept, "accept", false, "make the last boot the reference")
	f.Int64Var(&number, "measurement", 0, "with --accept: fail if this is not the number of the device's last measurement")
	f.StringVar(&like, "like", "", "copy the reference of this device (id or nick); both devices must be of the same model")
	f.BoolVar(&lock, "lock", false, "lock the reference against changes, until --unlock")
	f.BoolVar(&unlock, "unlock", false, "allow changes of the reference again")
	f.BoolVar(&again, "again", false, "ask the device for a new measurement")
	return c
}

func (a *app) showBoot(ctx context.Context, d api.DeviceView, path string) error {
	v, err := call[api.BootView](ctx, "GET", path, nil)
	if err != nil {
		return err
	}
	if done, err := a.json(v); done {
		return err
	}
	a.printf("%s\n", d.Nick)
	a.line("boot", v.State)
	if no := v.Refusal; no != nil {
		a.line("refused", fmt.Sprintf("%s: %s (%s)", no.Time.Local().Format(time.DateTime), visible(no.Reason), no.Code))
		a.line("remedy", visible(no.Hint))
	}
	if v.Measured != nil {
		a.line("measured", fmt.Sprintf("%s, number %d", v.Measured.Local().Format(time.DateTime), v.Number))
	}
	if m := v.Latest; m != nil {
		a.line("Secure Boot", m.SecureBoot)
		a.line("PCR bank", m.Bank)
		switch {
		case !m.Log:
			a.line("event log", "none: only the PCRs are compared")
		case m.LogProblem != "":
			a.line("event log", visible(m.LogProblem))
		}
		if m.Log && len(m.Unexplained) > 0 {
			a.line("unexplained", "PCR "+strings.Trim(strings.ReplaceAll(fmt.Sprint(m.Unexplained), " ", ", "), "[]")+": the event log does not explain the values of these PCRs; the hub still compares them")
		}
	}
	if r := v.Reference; r != nil {
		locked := ""
		if r.Locked {
			locked = ", locked"
		}
		a.line("reference", r.From+", of "+r.Since.Local().Format(time.DateTime)+locked)
	}
	if v.Requested {
		a.line("requested", "a new measurement")
	}
	if s := v.System; s != nil {
		a.line("system", fmt.Sprintf("%s (sequence %d)", s.Name, s.Sequence))
	}
	if len(v.Parts) > 0 {
		a.printf("\nParts of the boot\n")
		for _, p := range v.Parts {
			a.printf("  %-10s %-17s %s\n", p.Part, p.State, visible(p.Words))
		}
	}
	if len(v.Changes) > 0 {
		a.printf("\nWhat changed\n")
		for _, c := range v.Changes {
			a.printf("  ✗ %s\n", visible(c.Words))
		}
	}
	if m := v.Latest; m != nil && len(m.Events) > 0 {
		a.printf("\nWhat was booted\n")
		for _, e := range m.Events {
			text := e.Digest
			if e.Text != "" {
				text = e.Text
			}
			if e.Label != "" {
				text += fmt.Sprintf("  [log: %s]", e.Label)
			}
			a.printf("  PCR %-3d %-38s %s\n", e.PCR, visible(e.What), visible(text))
		}
	}
	if len(v.History) > 1 {
		a.printf("\nEarlier\n")
		for _, p := range v.History[1:] {
			words := ""
			if len(p.Words) > 0 {
				words = ": " + p.Words[0]
			}
			a.printf("  %s  %s%s\n", p.Time.Local().Format(time.DateTime), p.State, visible(words))
		}
	}
	return nil
}
