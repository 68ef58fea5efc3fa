package main

import (
	"fmt"
	"net/url"
	"time"

	"gangway/hub/api"

	"github.com/spf13/cobra"
)

// statusOf returns the text of the column STATUS: a device's status, with the word cloned if the
// TPM is suspected or known to be cloned.
func statusOf(d api.DeviceView) string {
	switch d.Cloned {
	case "":
		return d.Status
	case "refused":
		return "refused: cloned"
	case "certain":
		return d.Status + ", cloned"
	}
	return d.Status + ", cloned?"
}

func (a *app) clonedCommand() *cobra.Command {
	var one, two, undecided bool
	c := &cobra.Command{
		Use: "cloned ID|NICK", Short: "Show whether a device's TPM was cloned, and decide what the hub does", Args: args("the device's id or nick"),
		Long: `Cloned shows findings that cannot come from one machine with one TPM. A cloned virtual
machine has the same keys as the original, so both are one device to the hub. But the
clocks that the two TPMs attest contradict each other. The hub refuses nothing until
you decide.

--one says that only one machine uses the TPM, for example after you restored a
snapshot. The hub then asks again only about new findings. --two says that there are
several machines: the hub refuses all of them. Give each machine a new TPM state (a new
vTPM) and onboard it again, as a new device; then delete this device. --undecided
withdraws your decision.`,
		Example: `  gangway device cloned brave-otter-3fa2
  gangway device cloned brave-otter-3fa2 --one
  gangway device cloned brave-otter-3fa2 --two
  gangway device cloned brave-otter-3fa2 --undecided`,
		RunE: func(c *cobra.Command, arg []string) error {
			decided, decision := false, ""
			for flag, is := range map[string]bool{"one": one, "two": two, "": undecided} {
				if !is {
					continue
				}
				if decided {
					return usagef("--one, --two and --undecided are mutually exclusive")
				}
				decided, decision = true, flag
			}
			d, err := findDevice(c.Context(), arg[0])
			if err != nil {
				return err
			}
			path := "/devices/" + url.PathEscape(d.ID) + "/cloned"
			v, err := call[api.ClonedView](c.Context(), "GET", path, nil)
			if err != nil {
				return err
			}
			if decided {
				change := map[string]any{"decision": decision}
				if one {
					if a.forPeople() {
						a.printCloned(d, v) // --one decides only about these findings
					}
					change["findings"] = v.Open()
				}
				if v, err = call[api.ClonedView](c.Context(), "PUT", path, change); err != nil {
					return err
				}
			}
			if done, err := a.json(v); done {
				return err
			}
			switch {
			case one:
				a.note("Your decision: %s is one machine. The hub asks again only if there are new findings.", d.Nick)
			case two:
				a.note("%s is refused. Give each machine a new TPM state and onboard it again, then delete %s.", d.Nick, d.Nick)
			case undecided:
				a.note("The decision about %s is withdrawn.", d.Nick)
			default:
				a.printCloned(d, v)
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&one, "one", false, "say that only one machine uses this TPM state")
	f.BoolVar(&two, "two", false, "say that several machines use this TPM state, and refuse all of them")
	f.BoolVar(&undecided, "undecided", false, "withdraw the last decision")
	return c
}

func (a *app) printCloned(d api.DeviceView, v api.ClonedView) {
	a.printf("%s\n", d.Nick)
	state := map[string]string{
		"": "no", "suspected": "suspected: some findings cannot come from one machine", "certain": "yes: several machines use its TPM state in turn", "refused": "yes, by your decision: the hub refuses the device",
	}[v.State]
	a.line("cloned", state)
	if v.Decided != nil {
		a.line("decided", map[string]string{"one": "one machine", "two": "several machines"}[v.Decision]+", by "+v.By+", "+v.Decided.Local().Format(time.DateTime))
	}
	if len(v.Findings) == 0 {
		return
	}
	a.printf("\nFindings that cannot come from one machine\n")
	for _, f := range v.Findings {
		mark := "✗"
		if f.Answered {
			mark = "·"
		}
		a.printf("  %s %s  %s\n", mark, f.Time.Local().Format(time.DateTime), visible(f.Words))
	}
	if v.Decision == "" {
		a.printf("\n")
		a.note("%s", fmt.Sprintf("Decide with 'gangway device cloned %s --one' or '--two'.", d.Nick))
	}
}
