package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"strings"
	"time"

	"gangway/hub/api"

	"github.com/spf13/cobra"
)

func (a *app) deviceCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "device", Short: "Show and manage your devices",
		Long: `Device shows and manages the devices of your account, and the machines that
wait for your decision. A device is named by its id or its nick; both are in 'gangway
device ls'.`,
	}
	show := &cobra.Command{
		Use: "show ID|NICK", Short: "Show a device with its whole chain of evidence", Args: args("the device's id or nick"),
		Long: `Show prints a device's data, the checks of its evidence, its certificates and its
events. Given the id of a machine that waits for your decision, it prints the
machine's evidence and the questions that you must decide.`,
		Example: "  gangway device show brave-otter-3fa2\n  gangway device show 65f0c1... --output json",
		RunE:    func(c *cobra.Command, arg []string) error { return a.showDevice(c.Context(), arg[0]) },
	}
	rename := &cobra.Command{
		Use: "rename ID|NICK NEW-NICK", Short: "Give a device a new nick", Args: args("the device's id or nick", "the new nick"),
		Long:    "Rename gives a device a new nick. Its id stays the same.",
		Example: "  gangway device rename brave-otter-3fa2 oslo-gate-1",
		RunE: func(c *cobra.Command, arg []string) error {
			d, err := findDevice(c.Context(), arg[0])
			if err != nil {
				return err
			}
			now, err := call[api.DeviceView](c.Context(), "PATCH", "/devices/"+d.ID, map[string]string{"nick": arg[1]})
			if err != nil {
				return err
			}
			maskNetworks(now)
			if done, err := a.json(now); done {
				return err
			}
			a.note("%s is now %s.", d.Nick, now.Nick)
			return nil
		},
	}
	var yes bool
	del := &cobra.Command{
		Use: "delete ID|NICK", Aliases: []string{"rm"}, Short: "Delete a device and release its TPM", Args: args("the device's id or nick"),
		Long: `Delete revokes the device's certificates immediately and releases its TPM: with any
owner's join token, the machine may onboard again as a new device. The agent does not
onboard again by itself, even if the token file is still on the machine: a person must run
'gangway-agent onboard --again' there. Other software on the machine might onboard it
again. To prevent that too, disable the join token with 'gangway token disable'.`,
		Example: "  gangway device delete brave-otter-3fa2\n  gangway device delete 65f0c1d2e3f4a5b6c7d8e9f0 --yes",
		RunE: func(c *cobra.Command, arg []string) error {
			d, err := findDevice(c.Context(), arg[0])
			if err != nil {
				return err
			}
			if !yes {
				fmt.Fprintf(a.stderr, "This revokes the certificates of %s (%s) and releases its TPM. Type the device's nick to confirm: ", d.Nick, d.ID)
				line, err := bufio.NewReader(io.LimitReader(a.stdin, 256)).ReadString('\n')
				if err != nil || strings.TrimSpace(line) != d.Nick {
					return fmt.Errorf("not confirmed: the nick is %q; the device was not deleted", d.Nick)
				}
			}
			gone, err := call[api.DeviceView](c.Context(), "DELETE", "/devices/"+d.ID, nil)
			if err != nil {
				return err
			}
			if done, err := a.json(gone); done {
				return err
			}
			a.note("%s is deleted. Its certificates are revoked, and its TPM is released.", d.Nick)
			return nil
		},
	}
	del.Flags().BoolVar(&yes, "yes", false, "do not ask for confirmation")
	waiting := &cobra.Command{
		Use: "waiting", Short: "List the machines that wait for your decision", Args: args(),
		Long: `Waiting lists the machines whose evidence leaves questions that only you can decide.
'gangway device show ID' shows a machine's questions. Then use 'approve' or 'deny'.`,
		Example: "  gangway device waiting\n  gangway device waiting --output json",
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := allWaiting(c.Context())
			if err != nil {
				return err
			}
			return printList(a, list, waitingColumns, "No machine waits for your decision.")
		},
	}
	a.watchable(a.table(waiting, columnNames(waitingColumns)...))
	c.AddCommand(a.deviceLs(), show, waiting, a.approveCommand(), a.denyCommand(), a.bootCommand(), a.clonedCommand(), a.rejudgeCommand(), a.deviceRecoveryKey(), a.deviceNetwork(), a.deviceClaim(), rename, del)
	c.AddCommand(a.deviceLogs(), a.deviceMeta(), a.deviceSet(), a.deviceRevisions(), a.deviceState(), a.devicePost(), a.deviceRollback())
	c.AddCommand(a.publishCommands()...)
	return c
}

func ago(t time.Time) string {
	switch d := time.Since(t); {
	case t.IsZero():
		return "never"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", max(int(d.Seconds()), 0))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return t.Local().Format(time.DateOnly)
	}
}

func (a *app) showDevice(ctx context.Context, which string) error {
	d, err := findDevice(ctx, which)
	if err != nil {
		if w, waits := findWaiting(ctx, which); waits == nil {
			if done, err := a.json(w); done {
				return err
			}
			a.printWaiting(w)
			return nil
		}
	}
	if err != nil {
		return err
	}
	e, err := call[api.EvidenceView](ctx, "GET", "/devices/"+d.ID+"/evidence", nil)
	if err != nil {
		return err
	}
	events, err := call[[]api.EventView](ctx, "GET", "/events?device="+d.ID, nil)
	if err != nil {
		return err
	}
	summary, err := call[api.SummaryView](ctx, "GET", "/trails/"+d.ID+"/summary", nil)
	if err != nil {
		return err
	}
	maskNetworks(d)
	if done, err := a.json(struct {
		Device   api.DeviceView   `json:"device"`
		Revision api.SummaryView  `json:"revision"`
		Evidence api.EvidenceView `json:"evidence"`
		Events   []api.EventView  `json:"events"`
	}{d, summary, e, events}); done {
		return err
	}
	a.printf("%s\n", d.Nick)
	a.line("id", d.ID)
	a.line("owner", d.OwnerNick)
	a.line("status", statusOf(d))
	a.line("boot", d.Boot)
	a.line("revision", revisionOf(summary))
	a.line("machine", strings.TrimSpace(d.Machine.Model+", serial "+d.Machine.Serial))
	a.line("tpm", fmt.Sprintf("%s %s, firmware %s", d.TPM.Manufacturer, d.TPM.Model, d.TPM.Firmware))
	a.line("key", d.Key+", in the TPM")
	a.line("join token", d.TokenID)
	a.line("onboarded", d.TimeCreated.Local().Format(time.DateTime))
	a.line("last seen", ago(d.LastSeen)+" from "+d.RealIP)
	if len(d.Unreadable) > 0 {
		a.line("unreadable", visible(strings.Join(d.Unreadable, ", "))+": metadata that an older hub stored; replace or delete it")
	}

	a.printf("\nChain of evidence, judged %s\n", e.Accepted.Local().Format(time.DateTime))
	a.printVerdict(e.Verdict)
	a.printf("\nCertificates\n")
	for _, c := range []struct{ name, text string }{
		{"EK (maker)", e.EKCertificate}, {"AIK", e.AIKCertificate}, {"IDevID", e.IDevIDCertificate},
		{"ACA", e.ACA}, {"device CA", e.DeviceCA}, {"hub root", e.Root},
	} {
		a.printCertificate(c.name, c.text)
	}
	a.printf("\nRequest SHA-256 %s (%d bytes; --output json prints it, so that you can check it again)\n", e.RequestSHA256, len(e.Request))
	if len(events) > 0 {
		a.printf("\nEvents\n")
		printEvents(a.stdout, events)
	}
	return nil
}

// revisionOf describes the revision that a device runs, and the status of a newer revision.
func revisionOf(s api.SummaryView) string {
	switch {
	case s.Revision < 0:
		return "none: the device has not reported a state"
	case s.ProgressRev < 0:
		return fmt.Sprintf("%d posted", s.Revision)
	}
	words := revisionWords(s.ProgressRev, s.Status, s.Progress)
	if s.StatusMsg != "" {
		words += ": " + s.StatusMsg
	}
	if s.Revision > s.ProgressRev {
		words += fmt.Sprintf("; %d is posted", s.Revision)
	}
	return words
}

func (a *app) printCertificate(name, text string) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return
	}
	sum := sha256.Sum256(block.Bytes)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		a.printf("  %-12s SHA-256 %x\n", name, sum)
		return
	}
	until := "without expiry"
	if c.NotAfter.Year() < 9999 {
		until = "until " + c.NotAfter.Format(time.DateOnly)
	}
	subject := visible(c.Subject.String())
	if subject == "" {
		subject = "(no subject)"
	}
	a.printf("  %-12s %s\n", name, subject)
	a.printf("  %-12s   by %s, %s\n", "", visible(c.Issuer.String()), until)
	a.printf("  %-12s   SHA-256 %x\n", "", sum)
}
