package main

import (
	"fmt"
	"net/url"
	"time"

	"gangway/hub/api"
	"gangway/tcg"

	"github.com/spf13/cobra"
)

// statusOf is a device's status, with what its owner must look at besides.
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
		Use: "cloned ID|NICK", Short: "Show whether a device's TPM was cloned, and decide", Args: args("the device's id or nick"),
		Long: `Cloned shows what does not fit one machine with one TPM: a cloned virtual machine
has the keys of the first one, so the hub takes it for the same device. What the
two TPMs attest of their clocks contradicts itself. Nothing is refused until you
decide.

--one says that it is one machine: what was found so far is answered, for
example by a snapshot that you restored. --two says that they are several: the
hub refuses all of them. Give each of them a TPM state of its own (a new vTPM)
and onboard it again, as a new device; then delete this one. --undecided takes
either decision back.`,
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
					return usagef("--one, --two and --undecided exclude each other")
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
					if a.output != "json" {
						a.printCloned(d, v) // what is answered is what was shown here
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
				a.note("%s is one machine. What was found so far is answered.", d.Nick)
			case two:
				a.note("%s is refused. Give each machine a TPM state of its own and onboard it again, then delete %s.", d.Nick, d.Nick)
			case undecided:
				a.note("What was decided about %s is taken back.", d.Nick)
			default:
				a.printCloned(d, v)
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&one, "one", false, "say that it is one machine")
	f.BoolVar(&two, "two", false, "say that several machines run with the TPM's state, and refuse them")
	f.BoolVar(&undecided, "undecided", false, "take the last decision back")
	return c
}

func (a *app) printCloned(d api.DeviceView, v api.ClonedView) {
	a.printf("%s\n", d.Nick)
	state := map[string]string{
		"": "no", "suspected": "suspected: something does not fit one machine", "certain": "yes: several machines use its TPM state by turns", "refused": "yes, as you decided: it is refused",
	}[v.State]
	a.line("cloned", state)
	if v.Decided != nil {
		a.line("decided", map[string]string{"one": "one machine", "two": "several machines"}[v.Decision]+", by "+v.By+", "+v.Decided.Local().Format(time.DateTime))
	}
	if len(v.Findings) == 0 {
		return
	}
	a.printf("\nWhat does not fit one machine\n")
	for _, f := range v.Findings {
		mark := "✗"
		if f.Answered {
			mark = "·"
		}
		a.printf("  %s %s  %s\n", mark, f.Time.Local().Format(time.DateTime), tcg.Printable(f.Words))
	}
	if v.Decision == "" {
		a.printf("\n")
		a.note("%s", fmt.Sprintf("Decide with 'gangway device cloned %s --one' or '--two'.", d.Nick))
	}
}
