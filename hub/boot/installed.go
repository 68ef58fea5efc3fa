package boot

import (
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"gangway/hub/evidence"
	"gangway/tcg"
	"gangway/tcg/eventlog"
	"gangway/wire"
	"gangway/wire/manifest"
	"gangway/wire/manifest/measure"
)

// Installation is an installer's report on the partition table that it wrote (wire.InstallReport).
// The device's IAK signed the report, so a program made the report on a machine with the device's
// TPM. Boot is the boot in which that program ran. Judge decides whether that program was the
// owner's installer.
type Installation struct {
	Table []byte       `json:"table"` // UEFI_GPT_DATA
	Boot  *Measurement `json:"boot"`
	// Evidence of Boot, so that anyone can verify the quote again.
	Attest    []byte `json:"attest"`
	Signature []byte `json:"signature"`
	EventLog  []byte `json:"event-log"`
}

// VerifyInstallation checks the quote of an installer's report. The error's text is a sentence for
// the device's owner. If the report of a measurement is invalid, the caller treats the measurement
// as one without a report.
func VerifyInstallation(iak *tcg.Public, r *wire.InstallReport) (*Installation, error) {
	if len(r.Table) > wire.MaxInstallReport || len(r.EventLog) > wire.MaxInstallReport {
		return nil, fmt.Errorf("It has more than %d bytes.", wire.MaxInstallReport) //lint:ignore ST1005 shown to a person
	}
	if eventlog.CheckPartitions(r.Table) != nil {
		return nil, errors.New("It has no partition table.") //lint:ignore ST1005 shown to a person
	}
	e := &Evidence{Attest: r.Attest, Signature: r.Signature, Bank: tcg.AlgID(r.Bank), PCRs: r.PCRs, Log: r.EventLog}
	q, bank, err := verifyQuote(iak, e, wire.InstallQualifying(r.Table, r.EventLog))
	if err != nil {
		var no *evidence.Refusal
		if errors.As(err, &no) && no.Code == CodeNonce {
			return nil, errors.New("The quote was not made for the reported partition table.") //lint:ignore ST1005 shown to a person
		}
		if errors.As(err, &no) {
			return nil, errors.New(no.Reason)
		}
		return nil, err
	}
	return &Installation{Table: r.Table, Boot: newMeasurement(q, e, bank), Attest: r.Attest, Signature: r.Signature, EventLog: r.EventLog}, nil
}

// report is the result of findReport. It says whether an installer's report counts as a proof of
// the partition table. The report counts if all of the following is true:
//
//   - The quote shows a boot of an installer that one of the owner's manifests names. Firmware
//     started the installer directly, or through a boot manager that such a manifest names. The
//     installer had no command line, or one that its manifest names. So no other program on this
//     machine can have made the report, not even the installed system.
//   - The TPM was reset between the report and this boot.
//   - No report of a later installation has counted for this device.
type report struct {
	counts  bool
	problem string // a sentence that says why no report counts
	by      string // the name of the manifest that names the installer
	resets  uint32 // the TPM's reset counter in the boot of the installer
	table   []byte
}

// findReport finds out whether the installer's report counts.
func (j *judge) findReport() (r report) {
	i := j.Installed
	switch {
	case i == nil && j.InstalledProblem != "":
		r.problem = "The report of an installer is not valid: " + j.InstalledProblem
		return r
	case i == nil || i.Boot == nil:
		r.problem = "The device sent no report of an installer."
		return r
	case i.Boot.ResetCount >= j.ResetCount:
		r.problem = "The report of an installer is not older than this boot."
		return r
	case j.Before != nil && i.Boot.ResetCount < j.Before.Installed:
		r.problem = "The report of an installer is about an earlier installation, not about the last installation."
		return r
	}
	boot := &judge{Measurement: i.Boot}
	for _, m := range j.Manifests {
		for _, s := range m.Installers {
			if s.PCR11[boot.Bank][""] != valueOf(boot.Measurement, phasePCR) { // an installer extends no phases
				continue
			}
			boot.Manifests = append(boot.Manifests, &manifest.Manifest{Name: m.Name, BootManager: m.BootManager, System: s})
		}
	}
	for _, m := range boot.Manifests {
		if boot.startedAlone(m) && boot.ownLine(m) {
			return report{counts: true, by: m.Name, resets: i.Boot.ResetCount, table: i.Table}
		}
	}
	r.problem = "The report of an installer was not made by an installer that the owner's manifests name."
	return r
}

// hasReportedTable reports whether PCR 5 proves the partition table of the installer's report. One
// of two proofs is enough. Either the log explains PCR 5, and has this partition table and no
// other. Or PCR 5 has the value that EDK II firmware produces if it measures only this partition
// table.
func (j *judge) hasReportedTable() bool {
	bank, ok := hashOf(j.Bank)
	if !ok || !j.report.counts {
		return false
	}
	if valueOf(j.Measurement, exitPCR) == hex.EncodeToString(measure.PCR5(j.report.table, bank)) {
		return true
	}
	return !slices.Contains(j.Unexplained, exitPCR) && slices.Equal(partitions(j.Events), []string{tableDigest(bank, j.report.table)})
}

func tableDigest(bank crypto.Hash, table []byte) string {
	return hex.EncodeToString(digestOf(bank, table))
}

// The method `unproven` reports whether no installer's report proves the partition table, although
// the installer of this system makes reports. Without a reference, this boot is the device's first
// boot. With a reference, the method uses what was true of the reference's boot.
func (j *judge) unproven() bool {
	reports := slices.ContainsFunc(j.meant, func(m *manifest.Manifest) bool { return len(m.Installers) > 0 })
	return !j.report.counts && (j.Reference == nil && reports || j.Reference != nil && j.Reference.Unproven)
}

// tableWords says why the partition table in PCR 5 is expected.
func (j *judge) tableWords() string {
	switch {
	case j.hasReportedTable():
		return fmt.Sprintf(" PCR 5 has the partition table that the installer of %q wrote on this disk.", j.report.by)
	case j.Reference != nil:
		return fmt.Sprintf(" PCR 5 has the partition table of the reference of %s.", j.Reference.Since.UTC().Format("2 January 2006"))
	}
	return ""
}

// addsOwnEntry reports whether PCR 1 differs from the reference only in the boot menu: entries were
// removed, or the new entry is the one that the installer wrote for the reported partition table.
// The entry needs no other check, because PCR 4 shows the programs that it starts.
func (j *judge) addsOwnEntry() bool {
	guid, start, size, ok := eventlog.FirstESP(j.report.table)
	if !ok || !j.hasReportedTable() || j.Reference == nil || slices.Contains(j.Unexplained, menuPCR) {
		return false
	}
	own := fmt.Sprintf("%s, %x", wire.BootDescription, sha256.Sum256(wire.BootEntry(start, size, guid)))
	was, othersBefore := menu(eventsOf(j.Reference.Events, menuPCR))
	is, othersAfter := menu(eventsOf(j.Events, menuPCR))
	is = slices.DeleteFunc(is, func(text string) bool { return text == own })
	return len(was) > 0 && sameDigests(othersBefore, othersAfter) && isWithin(is, was)
}
