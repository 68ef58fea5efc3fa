// Package preflight checks a machine before Gangway uses it: the TPM, the firmware's event log, the
// mode of Secure Boot, the storage of the firmware's variables, and the clock. The installer shows
// the findings before it erases a disk, and sends them nowhere. gangway-agent doctor makes the same
// checks, but writes nothing to the firmware.
//
// If a fact is unknown, or if the machine works but has a weakness, the installation continues.
// Contradiction returns a finding that shows that the installed system could not work, for example
// that there is no TPM 2.0.
package preflight

import (
	"fmt"
	"time"

	"gangway/device/install"
	"gangway/internal/finding"
	"gangway/internal/version"

	"github.com/google/go-tpm/tpm2/transport"
)

// Finding is the result of one check. Severity says how serious a finding is.
type (
	Finding  = finding.Finding
	Severity = finding.Severity
)

// The severities, from the least to the most severe.
const (
	OK      = finding.OK
	Note    = finding.Note
	Warning = finding.Warning
	Problem = finding.Problem
)

// maxTime limits an examination. A TPM that does not answer must not stop the installation.
const maxTime = 30 * time.Second

// Machine describes the machine that is checked.
type Machine struct {
	OpenTPM  func() (transport.TPMCloser, error)
	EventLog string           // file with the firmware's event log
	Firmware install.Firmware // folder with the firmware's variables
	Now      func() time.Time
}

// Examine makes all checks. To test whether the firmware can store and remove a variable, it writes
// one that no program reads.
//
// Examine returns after at most 30 seconds.
func (m Machine) Examine() []Finding {
	done := make(chan []Finding, 1)
	go func() { done <- m.examine() }()
	select {
	case all := <-done:
		return all
	case <-time.After(maxTime):
		return []Finding{{
			Code: "check-timeout", Severity: Warning, Action: finding.Restart,
			Fact:  fmt.Sprintf("The check of the machine did not end within %s.", maxTime),
			Cause: "The TPM or the firmware does not answer.", Remedy: "Restart the machine; if the check fails again, update the firmware.",
		}}
	}
}

func (m Machine) examine() (all []Finding) {
	all = append(all, m.checkTPM()...)
	all = append(all, CheckSecureBoot(m.Firmware), CheckOneShot(m.Firmware), checkStorage(m.Firmware))
	return append(all, CheckClock(m.Now(), version.Current.Date))
}

func (m Machine) checkTPM() []Finding {
	link, err := m.OpenTPM()
	if err != nil {
		return []Finding{NoTPM("/dev/tpmrm0", err)}
	}
	defer link.Close()
	t, err := ReadTPM(link)
	if err != nil {
		return []Finding{NoTPM("/dev/tpmrm0", err)}
	}
	return append(t.Judge(false), CheckEventLog(m.EventLog, link)...)
}

// Contradiction returns the first finding that shows that the installed system could not work, or
// nil. Without a TPM 2.0, no machine can be onboarded. If `encrypt` is set, the TPM must also be
// able to seal the disk's key to a PCR of the SHA-256 bank.
func Contradiction(findings []Finding, encrypt bool) *Finding {
	for i, f := range findings {
		switch f.Code {
		case "tpm-version":
			return &findings[i]
		case "tpm-banks-weak", "tpm-banks-no-sha256", "tpm-owner-disabled":
			if encrypt {
				return &findings[i]
			}
		}
	}
	return nil
}

// CheckClock compares the clock with `built`, the time at which this program was built, in RFC 3339
// format. If `built` is not such a time, CheckClock returns no problem.
func CheckClock(now time.Time, built string) Finding {
	made, err := time.Parse(time.RFC3339, built)
	if err == nil && now.Before(made) {
		return Finding{
			Code: "clock-behind", Severity: Warning, Action: finding.SetClock,
			Fact:   fmt.Sprintf("The clock shows %s, but this program was built later, at %s.", now.UTC().Format(time.DateTime), made.UTC().Format(time.DateTime)),
			Cause:  "The battery of the clock is empty, or nothing has set the clock yet.",
			Remedy: "Set the clock in the firmware's setup. The installed system also sets its clock from its time servers or its hub.",
		}
	}
	return good("clock", "The clock shows %s UTC.", now.UTC().Format(time.DateTime))
}

func good(code, format string, args ...any) Finding {
	return Finding{Code: code, Severity: OK, Fact: fmt.Sprintf(format, args...)}
}
