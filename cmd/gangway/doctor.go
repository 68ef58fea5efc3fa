package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"gangway/hub/doctor"
	"gangway/internal/cmdline"
	"gangway/internal/finding"
	"gangway/internal/span"

	"github.com/spf13/cobra"
)

// errFindings makes doctor exit with code 1 without another message, because the findings are
// already printed.
var errFindings = errors.New("a finding is a problem")

func (a *app) doctorCommand() *cobra.Command {
	var cfg doctor.Config
	c := &cobra.Command{
		Use: "doctor --data DIR", Short: "Check a hub on its own machine, with a remedy for each finding", Args: args(),
		Long: `Doctor examines a hub: who may read its folder, its keys, the free space on its disks, its
database, its backup, the clock, how many files it may open, where it listens, and
whether its URLs answer with its certificate. Run it on the hub's machine, as root or as
the hub's user. It changes nothing, and the hub may be running.

Each finding has a fact, the reason, and a remedy. The exit code is 1 if a finding is a
problem, and 0 otherwise. With --output json the findings are a list, with stable codes.

For a machine that is a device, use 'gangway-agent doctor' there.`,
		Example: `  gangway doctor --data /var/lib/gangway
  gangway doctor --data /var/lib/gangway --backup /backup
  gangway doctor --data ./hub --output json`,
		RunE: func(c *cobra.Command, _ []string) error {
			if cfg.Data == "" {
				return usagef("--data is needed: the folder of the hub's keys and database")
			}
			if cfg.CheckTime < time.Second {
				return usagef("--check-time must be at least 1s, not %s", span.Format(cfg.CheckTime))
			}
			if info, err := os.Stat(cfg.Data); err != nil || !info.IsDir() {
				return fmt.Errorf("%q is not a hub's data folder: name the folder of 'gangway serve --data'", cfg.Data)
			}
			var err error
			if cfg.Database, _, err = databaseOf(c.Context(), cfg.Data); err != nil {
				return err
			}
			cfg.PKI = keysFolder(c.Context(), cfg.Data)
			return a.examine(c, cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Data, "data", "", "the hub's data folder (required)")
	f.StringVar(&cfg.Backup, "backup", "", "folder with the backups of 'gangway backup', or with copies of gangway.db and pki that you made by hand")
	cmdline.SpanVar(f, &cfg.CheckTime, "check-time", time.Minute, "how long the check of the database may take")
	return c
}

func (a *app) examine(c *cobra.Command, cfg doctor.Config) error {
	findings := doctor.Examine(c.Context(), cfg)
	if err := c.Context().Err(); err != nil {
		return errors.New("interrupted")
	}
	done, err := a.json(findings)
	if !done {
		err = finding.Write(a.stdout, visibleFindings(findings), a.findingPainter())
	}
	if err == nil && finding.Worst(findings) == finding.Problem {
		err = errFindings
	}
	return err
}

// visibleFindings escapes the control characters in the texts of findings. A finding may quote the
// answer of an unknown server that uses the hub's address.
func visibleFindings(list []finding.Finding) []finding.Finding {
	out := make([]finding.Finding, len(list))
	for i, f := range list {
		f.Fact, f.Cause, f.Remedy = visible(f.Fact), visible(f.Cause), visible(f.Remedy)
		out[i] = f
	}
	return out
}

func (a *app) findingPainter() func(finding.Severity, string) string {
	if !a.colour() {
		return nil
	}
	return func(s finding.Severity, text string) string {
		return paint(map[finding.Severity]tone{finding.OK: good, finding.Note: faint, finding.Warning: attention, finding.Problem: bad}[s], text)
	}
}
