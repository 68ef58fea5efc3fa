package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/hub/evidence"

	"github.com/spf13/cobra"
)

// decideCommand returns the command named `verb`, which is approve or deny.
func (a *app) decideCommand(verb, short, long, done string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " ID|SERIAL", Short: short, Long: long,
		Args:    args("the machine's id or serial number, as 'gangway device waiting' shows it,"),
		Example: fmt.Sprintf("  gangway device %s 65f0c1d2e3f4a5b6c7d8e9f0", verb),
		RunE: func(c *cobra.Command, arg []string) error {
			w, err := findWaiting(c.Context(), arg[0])
			if err != nil {
				return err
			}
			// The request contains the questions that this command has printed, because these are
			// what the person decides about. If the hub has other questions about the machine when
			// it gets the request, it refuses the decision.
			if a.forPeople() {
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

A missing EK certificate may hide a fact that the certificate would show: an emulator, a
maker that is not trusted, firmware that a rule refuses, a revoked TPM, or another owner's
device. Approve only a machine that you know.`,
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

// waitingColumns are the columns of 'gangway device waiting'.
var waitingColumns = []column[api.WaitingView]{
	{name: "id", cell: func(w api.WaitingView) string { return w.ID }},
	{name: "status", cell: func(w api.WaitingView) string { return w.Status }, tone: func(api.WaitingView) tone { return attention }, whole: true},
	{name: "machine", cell: func(w api.WaitingView) string { return strings.TrimSpace(w.Machine.Model + " " + w.Machine.Serial) }},
	{name: "tpm", cell: func(w api.WaitingView) string {
		return orNot(strings.TrimSpace(w.TPM.Manufacturer + " " + w.TPM.Model))
	}},
	{name: "since", moving: true, cell: func(w api.WaitingView) string { return ago(w.Since) }, value: func(w api.WaitingView) string { return stamp(w.Since) }},
	{name: "why", cell: func(w api.WaitingView) string { return strings.Join(w.Questions, ", ") }},
	{name: "ek-sha256", wide: true, cell: func(w api.WaitingView) string { return w.EK }},
	{name: "token", wide: true, cell: func(w api.WaitingView) string { return w.TokenID }},
	{name: "last-seen", moving: true, wide: true, cell: func(w api.WaitingView) string { return ago(w.LastSeen) }, value: func(w api.WaitingView) string { return stamp(w.LastSeen) }},
	{name: "address", wide: true, cell: func(w api.WaitingView) string { return w.RealIP }},
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
		a.printf("  %-14s %s\n", k, visible(v))
	}
}

func (a *app) printVerdict(v evidence.Verdict) {
	for _, s := range v.Checks {
		a.printf("  %s %-15s %s\n", markOf(s), s.Check, visible(s.Detail))
	}
	for _, n := range v.Notes {
		a.printf("  · noted          %s\n", visible(n))
	}
}

// markOf returns the result of a check in one character: ✓ passed, ? a person must decide, –
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
