// Package finding describes the results of the checks of gangway doctor, gangway-agent doctor and
// the installer, and prints them for people.
package finding

import (
	"fmt"
	"io"
)

// Severity says how serious a finding is.
type Severity string

// The severities, from the least to the most severe.
const (
	OK      Severity = "ok"
	Note    Severity = "note"    // useful information; no action is needed
	Warning Severity = "warning" // works now, but something is missing or will fail
	Problem Severity = "problem" // prevents the machine or the hub from working, now or soon
)

// Action is a stable word by which programs recognise a remedy, such as "restart". The field Remedy
// describes the same action for people.
type Action string

// The actions.
const (
	FirmwareSetup  Action = "firmware-setup"  // change a setting in the firmware's setup
	UpdateFirmware Action = "update-firmware" // install a newer firmware
	ClearTPM       Action = "clear-tpm"       // clear the TPM, which destroys the keys in it
	Restart        Action = "restart"         // restart the machine
	Wait           Action = "wait"            // leave the machine on until the TPM's lockout ends
	Approve        Action = "approve"         // decide about the machine on its hub
	SetClock       Action = "set-clock"       // set the machine's clock
)

// Finding is the result of one check.
type Finding struct {
	// Code is the stable code of the finding or, if the check passed, the name of the check.
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Fact     string   `json:"fact"`             // the fact, one sentence
	Cause    string   `json:"cause,omitempty"`  // the cause; empty if the fact contains it
	Remedy   string   `json:"remedy,omitempty"` // the remedy; empty if there is nothing to do
	// Action tells programs the remedy. It is empty if no constant of the type Action describes the
	// remedy.
	Action Action `json:"action,omitempty"`
}

// Worst returns the worst severity of the findings.
func Worst(findings []Finding) Severity {
	order := map[Severity]int{OK: 0, Note: 1, Warning: 2, Problem: 3}
	worst := OK
	for _, f := range findings {
		if order[f.Severity] > order[worst] {
			worst = f.Severity
		}
	}
	return worst
}

// Write prints findings for people. `paint` adds colour to the name of a severity. If `paint` is
// nil, the output has no colour.
func Write(w io.Writer, findings []Finding, paint func(Severity, string) string) error {
	if paint == nil {
		paint = func(_ Severity, text string) string { return text }
	}
	for _, f := range findings {
		if _, err := fmt.Fprintf(w, "%s %s (%s)\n", paint(f.Severity, fmt.Sprintf("%-8s", f.Severity)), f.Fact, f.Code); err != nil {
			return err
		}
		if f.Cause != "" {
			fmt.Fprintf(w, "%-8s   why:    %s\n", "", f.Cause)
		}
		if f.Remedy != "" {
			fmt.Fprintf(w, "%-8s   remedy: %s\n", "", f.Remedy)
		}
	}
	_, err := fmt.Fprintf(w, "%s.\n", Summary(findings))
	return err
}

// Summary returns the number of findings of each severity as a text, without a full stop at the
// end.
func Summary(findings []Finding) string {
	counts := map[Severity]int{}
	for _, f := range findings {
		counts[f.Severity]++
	}
	return fmt.Sprintf("%d problem(s), %d warning(s), %d note(s), %d check(s) passed", counts[Problem], counts[Warning], counts[Note], counts[OK])
}
