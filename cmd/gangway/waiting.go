package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"gangway/hub/api"
	"gangway/hub/evidence"
	"gangway/tcg"
	"gangway/wire"

	"github.com/spf13/cobra"
)

// decideCommand returns the command approve or deny; verb says which.
func (a *app) decideCommand(verb, short, long, done string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " ID", Short: short, Long: long,
		Args:    args("the device's id, as 'gangway device ls' shows it"),
		Example: fmt.Sprintf("  gangway device %s 65f0c1d2e3f4a5b6c7d8e9f0", verb),
		RunE: func(c *cobra.Command, arg []string) error {
			w, err := findWaiting(c.Context(), arg[0])
			if err != nil {
				return err
			}
			//			The request names the questions that this command has printed. The hub refuses the decision if
			// the machine has other questions by then.
			if a.output != "json" {
				a.printWaiting(w)
			}
			decided, err := call[api.WaitingView](c.Context(), "POST", "/devices/"+w.ID+"/"+verb, map[string][]string{"questions": w.Questions})
			if err != nil {
				return err
			}
			if done, err := a.json(decided); done {
				return err
			}
			a.note("%s", done)
			return nil
		},
	}
}

func (a *app) approveCommand() *cobra.Command {
	return a.decideCommand("approve", "Approve a machine that waits for your decision",
		`Approve accepts the EK of a machine that waits for your decision. First compare the
EK's SHA-256 with the one that 'gangway-agent status' shows on the machine. The agent
retries by itself. Only the TPM with this EK is accepted.

A TPM without an EK certificate may hide what the certificate would show: an emulator,
a maker that is not trusted, firmware that a rule refuses, or a TPM that is revoked or
another owner's device. Approve only a machine that you know.`,
		"Approved. The machine retries within a few minutes and onboards, as a device with a new id.")
}

func (a *app) denyCommand() *cobra.Command {
	return a.decideCommand("deny", "Deny a machine that waits for your decision",
		`Deny refuses a machine that waits for your decision, now and when it retries. You can
still approve it later. To remove a device that has onboarded, use 'gangway device
delete'.`,
		"Denied.")
}

func allWaiting(ctx context.Context) ([]api.WaitingView, error) {
	return call[[]api.WaitingView](ctx, "GET", "/devices/waiting", nil)
}

func findWaiting(ctx context.Context, id string) (api.WaitingView, error) {
	if !wire.IsID(id) {
		return api.WaitingView{}, usagef("%.100q is not a device id: 24 hexadecimal digits, as 'gangway device waiting' lists them", id)
	}
	list, err := allWaiting(ctx)
	if err != nil {
		return api.WaitingView{}, err
	}
	for _, w := range list {
		if w.ID == id {
			return w, nil
		}
	}
	return api.WaitingView{}, fmt.Errorf("no machine with the id %s waits for your decision; 'gangway device waiting' lists the machines that do", id)
}

func (a *app) printWaitingList(list []api.WaitingView) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSTATUS\tMACHINE\tTPM\tSINCE\tWHY")
	for _, one := range list {
		why := strings.Join(one.Questions, ", ")
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", one.ID, one.Status, tcg.Printable(strings.TrimSpace(one.Machine.Model+" "+one.Machine.Serial)),
			tcg.Printable(orNot(strings.TrimSpace(one.TPM.Manufacturer+" "+one.TPM.Model))), ago(one.Since), why)
	}
	return w.Flush()
}

func orNot(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func (a *app) printWaiting(w api.WaitingView) {
	a.printf("%s\n", w.ID)
	a.line("status", w.Status)
	a.line("machine", w.Machine.Model+", serial "+w.Machine.Serial)
	a.line("EK SHA-256", w.EK)
	a.line("tpm", fmt.Sprintf("%s, firmware %s", orNot(strings.TrimSpace(w.TPM.Manufacturer+" "+w.TPM.Model)), w.TPM.Firmware))
	a.line("key", w.Key+", in the TPM")
	a.line("join token", w.TokenID)
	a.line("first seen", w.Since.Local().Format(time.DateTime)+", last seen "+ago(w.LastSeen)+" from "+w.RealIP)
	if w.DecidedBy != "" {
		a.line("decided by", w.DecidedBy)
	}
	a.printf("\nEvidence, and the questions for you\n")
	a.printVerdict(w.Verdict)
}

func (a *app) line(k, v string) {
	if strings.TrimSpace(v) != "" {
		a.printf("  %-14s %s\n", k, tcg.Printable(v))
	}
}

func (a *app) printVerdict(v evidence.Verdict) {
	for _, s := range v.Checks {
		a.printf("  %s %-15s %s\n", markOf(s), s.Check, tcg.Printable(s.Detail))
	}
	for _, n := range v.Notes {
		a.printf("  · noted          %s\n", tcg.Printable(n))
	}
}

// markOf returns the result of a check in one character: ✓ passed, ? a question for a person, –
// skipped, ✗ failed.
func markOf(s evidence.Check) string {
	switch {
	case s.OK:
		return "✓"
	case s.Ask:
		return "?"
	case s.Skipped:
		return "–"
	}
	return "✗"
}
