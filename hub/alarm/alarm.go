// Package alarm finds the conditions of a hub on which its operator must act, such as a certificate
// that expires soon or a backup that is too old. A Reading has what the hub measured about itself,
// and Check compares it with the bounds of this package. The package does no I/O and reads no
// clock.
//
// A condition appears in four places, always with the same name: as an event when it begins and
// when it ends, as a line of 'gangway doctor', as an alert in contrib/prometheus/alerts.yml, and as
// a section of docs/runbook.md. Tests check that the same conditions are in all four places.
package alarm

import (
	"fmt"
	"slices"
	"time"
)

// Bounds of the conditions: a condition begins when the number that the hub measured passes its
// bound. The alerts in contrib/prometheus/alerts.yml use the same numbers.
const (
	// CertificateSoon: the condition begins if a certificate of the hub expires within this time.
	// This condition should never begin, because the hub and ACME renew their certificates when 30
	// days are left.
	CertificateSoon = 14 * 24 * time.Hour
	// RootSoon: the condition begins if a TPM maker's root certificate expires within this time.
	// Only the makers renew these certificates.
	RootSoon = 90 * 24 * time.Hour
	// BackupOld: the condition begins if the newest backup is older than this time.
	BackupOld = 7 * 24 * time.Hour
	// MaxDrift is the largest accepted difference between the hub's clock and the database's clock.
	MaxDrift = 5 * time.Second
	// LowDisk is a factor: the condition begins if the disk has less free space than LowDisk times
	// the reserve. For the reserve, see docs/operations.md, "A full disk".
	LowDisk = 3
	// The condition about quiet devices begins if enough devices become quiet within QuietWindow:
	// at least QuietDevices devices, and at least 1/QuietShare of all devices.
	QuietWindow  = time.Hour
	QuietDevices = 10
	QuietShare   = 10
	// The condition about refusals begins if two things happen within RefusalWindow: the rules
	// about TPMs and boots refuse at least Refusals onboarding requests, and the hub accepts fewer
	// onboarding requests than it refuses.
	RefusalWindow = 15 * time.Minute
	Refusals      = 10
)

// Reading is what a hub measured about itself.
type Reading struct {
	Now time.Time
	// Created is the time of the hub's first start.
	Created time.Time
	// Certificates are the hub's own certificates.
	Certificates []Certificate
	// RootsSoon is the number of trusted roots of TPM makers that expire within RootSoon. Roots
	// that have expired do not count.
	RootsSoon int
	// Disk is the disk of the data folder. Nil: unknown.
	Disk *Disk
	// Database is true if the database answered. If it is false, the fields below are unknown.
	Database bool
	Backup   time.Time // time of the newest recorded backup; zero: none is recorded
	// BackupFault is a sentence that says which fault the hub found when it last checked the newest
	// backup; empty: no fault.
	BackupFault string
	// Drift says how far the hub's clock is ahead of the database's clock. If the hub's clock is
	// behind, Drift is negative.
	Drift time.Duration
	// Devices, Quiet and Waiting count the devices of all owners: all devices, the devices that
	// have stopped contacting the hub (quiet), and the devices that wait for their owner's
	// decision. QuietBefore is the smallest number of quiet devices that the hub had at any time
	// within the last QuietWindow. Waiting is at most MaxWaiting.
	Devices, Quiet, QuietBefore, Waiting int
	DatabaseSize                         int64 // in bytes
	// Withdrawn is the number of devices whose TPM maker's certificates the hub no longer trusts.
	Withdrawn int
	// Unset is true if no time server sets the clock of the hub's machine. ClockKnown is false if
	// the kernel does not report whether a time server sets the clock.
	Unset, ClockKnown bool
	// Refused is the number of onboarding requests within the last RefusalWindow that the rules
	// about TPMs and boots refused. Accepted is the number of those that the hub accepted in the
	// same time.
	Refused, Accepted int
}

// MaxWaiting bounds Reading.Waiting.
const MaxWaiting = 10_000

// Certificate is a certificate of the hub. Its Name is one of a fixed list.
type Certificate struct {
	Name    string
	Expires time.Time // zero: there is no certificate yet
}

// Disk has sizes in bytes.
type Disk struct{ Free, Size, Reserve int64 }

// Condition is a condition that a reading shows, for example that the newest backup is too old.
type Condition struct {
	Name string
	Fact string // one sentence
}

// Rule describes one condition, and finds it in a reading.
type Rule struct {
	Name   string
	Title  string // what the rule watches
	Alert  string // the alert in contrib/prometheus/alerts.yml, whose section in docs/runbook.md explains the condition
	Remedy string // one sentence
	// If the reading shows the condition, fact returns one sentence about it. If not, it returns
	// "".
	fact func(*Reading) string
}

// Rules has one Rule for each condition, in the order in which 'gangway doctor' and the hub's web
// pages show the conditions.
var Rules = []Rule{
	{"certificate-expires", "Certificates of the hub", "GangwayCertificateExpires", "See the hub's log for why the certificate is not renewed, or replace the certificate's files.", certificateExpires},
	{"maker-root-expires", "Roots of TPM makers", "GangwayMakerRootExpires", "Ask the TPM maker for the new root certificate, and import it with 'gangway trust import'.", rootExpires},
	{"disk-low", "Free disk space", "GangwayDiskLow", "Free disk space: see 'A full disk' in docs/operations.md.", diskLow},
	{"backup-old", "Backup", "GangwayBackupOld", "Make a backup: see 'Backup' in docs/operations.md.", backupOld},
	{"backup-damaged", "Content of the backup", "GangwayBackupDamaged", "Make a new backup, check it with 'gangway backup check', and examine the disk of the backups.", backupDamaged},
	{"clock-drift", "Clocks", "GangwayClockDrift", "Let a time server set the clocks of the hub and of the database's machine, for example with chrony.", clockDrift},
	{"devices-quiet", "Devices that go quiet together", "GangwayDevicesQuiet", "Look for a common reason: a site, a network, a power cut, or a new revision.", devicesQuiet},
	{"refusals", "Refused onboarding", "GangwayManyRefusals", "Look at the latest refusals with 'gangway events --kind enrolment.', and at the latest changes of policies, EK lists and trust.", manyRefusals},
	{"trust-withdrawn", "Devices with TPM makers that are not trusted", "GangwayTrustWithdrawn", "List the devices with 'gangway device rejudge', and decide for each.", trustWithdrawn},
}

// Find returns the rule with this name.
func Find(name string) (Rule, bool) {
	i := slices.IndexFunc(Rules, func(r Rule) bool { return r.Name == name })
	if i < 0 {
		return Rule{}, false
	}
	return Rules[i], true
}

// Check returns the conditions that the reading shows, in the order of Rules. `unknown` has the
// names of the conditions about which the reading says nothing. If such a condition lasted before,
// the caller must assume that it still lasts.
func Check(r *Reading) (lasting []Condition, unknown []string) {
	for _, rule := range Rules {
		if !r.Database && slices.Contains(fromDatabase, rule.Name) || r.Disk == nil && rule.Name == "disk-low" {
			unknown = append(unknown, rule.Name)
			continue
		}
		if fact := rule.fact(r); fact != "" {
			lasting = append(lasting, Condition{rule.Name, fact})
		}
	}
	return lasting, unknown
}

// fromDatabase names the conditions that are unknown if the database did not answer. They depend on
// the fields that follow the field Database in Reading.
var fromDatabase = []string{"backup-old", "backup-damaged", "clock-drift", "devices-quiet", "trust-withdrawn"}

func certificateExpires(r *Reading) string {
	for _, c := range r.Certificates {
		switch left := c.Expires.Sub(r.Now); {
		case c.Expires.IsZero():
			return fmt.Sprintf("The hub has no certificate for %q yet.", c.Name)
		case left <= 0:
			return fmt.Sprintf("The hub's certificate %q expired on %s.", c.Name, c.Expires.UTC().Format(time.DateOnly))
		case left < CertificateSoon:
			return fmt.Sprintf("The hub's certificate %q expires on %s.", c.Name, c.Expires.UTC().Format(time.DateOnly))
		}
	}
	return ""
}

func rootExpires(r *Reading) string {
	if r.RootsSoon == 0 {
		return ""
	}
	return fmt.Sprintf("%d trusted root certificate(s) of TPM makers expire within %d days.", r.RootsSoon, int(RootSoon.Hours()/24))
}

func diskLow(r *Reading) string {
	if r.Disk.Free >= LowDisk*r.Disk.Reserve {
		return ""
	}
	return fmt.Sprintf("%d MiB are free on the hub's disk. The hub refuses uploads if less than %d MiB are free.", r.Disk.Free>>20, r.Disk.Reserve>>20)
}

func backupOld(r *Reading) string {
	switch {
	case r.Backup.IsZero() && r.Now.Sub(r.Created) > BackupOld:
		return "No backup of the hub is recorded."
	case !r.Backup.IsZero() && r.Now.Sub(r.Backup) > BackupOld:
		return fmt.Sprintf("The newest recorded backup of the hub is from %s.", r.Backup.UTC().Format(time.DateOnly))
	}
	return ""
}

func backupDamaged(r *Reading) string {
	if r.BackupFault == "" {
		return ""
	}
	return "The newest backup cannot be restored. " + r.BackupFault
}

func clockDrift(r *Reading) string {
	switch {
	case r.Drift.Abs() > MaxDrift:
		return fmt.Sprintf("The hub's clock and the database's clock differ by %s.", r.Drift.Abs().Round(time.Second))
	case r.ClockKnown && r.Unset:
		return "No time server sets the clock of the hub's machine."
	}
	return ""
}

func devicesQuiet(r *Reading) string {
	more := r.Quiet - r.QuietBefore
	if more < QuietDevices || more*QuietShare < r.Devices {
		return ""
	}
	return fmt.Sprintf("%d of %d devices became quiet within an hour.", more, r.Devices)
}

func manyRefusals(r *Reading) string {
	if r.Refused < Refusals || r.Refused <= r.Accepted {
		return ""
	}
	return fmt.Sprintf("The rules about TPMs and boots refused %d onboarding requests within 15 minutes, and %d were accepted.", r.Refused, r.Accepted)
}

func trustWithdrawn(r *Reading) string {
	if r.Withdrawn == 0 {
		return ""
	}
	return fmt.Sprintf("The hub no longer trusts the TPM makers' certificates of %d of its devices.", r.Withdrawn)
}
