package boot

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"gangway/wire/manifest"
)

// Rules say what Judge expects of a device's boot.
type Rules struct {
	// Reference is the device's reference. It is nil until the hub accepts a boot of the device.
	Reference *Reference
	// Manifests are the reference manifests of the device's owner that have valid signatures.
	Manifests []*manifest.Manifest
	// Wanted lists the systems that are meant to run, each as the SHA-256 of its file in lower-case
	// hexadecimal: the system of the device's present revision, and the systems of revisions that
	// the device has not finished. If Wanted is empty, any system in Manifests is meant to run.
	Wanted []string
	// Since is the time at which the device reported the present revision as installed (status
	// DONE). It is zero if the present revision has no system that a manifest names. A reference
	// that is older than Since does not count for the parts of the boot that manifests determine.
	Since time.Time
	// Before is the system that ran when the device's boot last matched, or nil if it is not known.
	Before *System
	// Known has the owner's decisions about cohorts (groups of devices that measured the same
	// value). It has only the decisions that apply to this device.
	Known []Decision
}

// System is a system that ran on a device, as a manifest names it.
type System struct {
	Name     string    `json:"name"`
	SHA256   string    `json:"sha256"` // of the file, hexadecimal
	Sequence uint64    `json:"sequence"`
	Since    time.Time `json:"since"` // the first measurement of this system
	// Installed is the TPM's reset counter during the boot of the installer whose report the hub
	// accepted last, or 0 if the hub has accepted no report. The hub does not accept a report with
	// a lower reset counter.
	Installed uint32 `json:"installed,omitempty"`
}

// Decision is an owner's decision to accept a boot measurement, for example a firmware version, for
// all devices that have measured it (a cohort).
type Decision struct {
	Part  string // name of a part, or FirmwareCode
	Value string // as in Measurement.Values
	Since time.Time
}

// Verdict judges a boot by its parts.
type Verdict struct {
	Parts   []PartVerdict `json:"parts"`
	System  *System       `json:"system,omitempty"` // the system that ran, if a manifest names it
	Changes []Change      `json:"-"`                // empty if the boot matches
	// Learn is true if the device has no reference yet, and this boot may become the reference.
	Learn bool `json:"-"`
	// Unproven is the value of Reference.Unproven for the new reference, if Learn is true.
	Unproven bool `json:"-"`
}

// PartVerdict judges one part of a boot.
type PartVerdict struct {
	Part  string `json:"part"`
	State string `json:"state"`
	Words string `json:"words"`           // a sentence for a person
	Cause string `json:"cause,omitempty"` // a stable code of the likely cause; empty if it is not known
	Value string `json:"value"`           // as in Measurement.Values
}

// Matches reports whether all parts of the boot are expected or known.
func (v *Verdict) Matches() bool {
	return !slices.ContainsFunc(v.Parts, func(p PartVerdict) bool { return !AtLeast(p.State, StateKnown) })
}

// Judge judges a boot. The verdict depends only on the PCR values and on the digests that lead to
// these values.
func Judge(m *Measurement, r Rules) *Verdict {
	j := &judge{Measurement: m, Rules: r, values: m.Values()}
	v := new(Verdict)
	if m.NothingMeasured() {
		for _, p := range Parts {
			v.Parts = append(v.Parts, PartVerdict{p.Name, StateNothing, upperFirst(p.Words) + " is not proven: the firmware measured nothing into PCR 0 to 7.", "", j.values[p.Name]})
		}
		v.Changes = []Change{{PCR: -1, What: "the measurement", Words: fmt.Sprintf("In the TPM's %s bank, PCR 0 to 7 have their values after a reset, or only separators: the firmware measured nothing that distinguishes this boot from another.", m.Bank)}}
		return v
	}
	j.findSystem()
	j.report = j.findReport()
	if v.System = j.ran; j.ran != nil && j.Before != nil {
		j.ran.Installed = j.Before.Installed
	}
	if j.ran != nil && j.hasReportedTable() {
		j.ran.Installed = j.report.resets
	}
	// Judge the parts of the boot that manifests determine first, because on a first boot these
	// verdicts decide whether the other parts may become the reference.
	path, system := j.part(PartPath), j.part(PartSystem)
	j.learn = r.Reference == nil && (len(r.Manifests) == 0 || (AtLeast(path.State, StateKnown) || j.ownPath()) && AtLeast(system.State, StateKnown))
	v.Learn, v.Unproven = j.learn, j.learn && j.unproven()
	if j.learn {
		path, system = j.part(PartPath), j.part(PartSystem)
	}
	v.Parts = []PartVerdict{j.part(PartFirmware), j.part(PartKeys), path, system, j.part(PartRest)}
	j.explain(v)
	return v
}

// judge is the state of one call of Judge.
type judge struct {
	*Measurement
	Rules
	values map[string]string
	// meant has the manifests of the systems that are meant to run and whose start results in the
	// measured value of PCR 11. Several manifests may have the same PCR 11.
	meant  []*manifest.Manifest
	other  *manifest.Manifest // the manifest with the measured PCR 11, if none is in `meant`
	back   bool               // the system is older than the system that ran before, and no revision asks for the older system
	ran    *System
	learn  bool // the boot becomes the reference
	report report
}

// findSystem finds the manifests that name the running system. It recognizes the system by the
// value of PCR 11.
func (j *judge) findSystem() {
	for _, m := range j.Manifests {
		if !ranSystem(j.Measurement, m) {
			continue
		}
		if len(j.Wanted) > 0 && !slices.Contains(j.Wanted, m.System.SHA256) {
			j.other = m
			continue
		}
		j.meant = append(j.meant, m)
	}
	// The programs in PCR 4 distinguish systems with the same PCR 11.
	if i := slices.IndexFunc(j.meant, j.started); i > 0 {
		j.meant[0], j.meant[i] = j.meant[i], j.meant[0]
	}
	is := j.other
	if len(j.meant) > 0 {
		is, j.other = j.meant[0], nil
	}
	if is == nil {
		return
	}
	j.ran = &System{Name: is.Name, SHA256: is.System.SHA256, Sequence: is.Sequence}
	j.back = j.Before != nil && is.Sequence < j.Before.Sequence
	if j.back && len(j.Wanted) == 0 {
		j.meant, j.other = nil, is // no revision asks for the older system
	}
}

// ranSystem reports whether the value of PCR 11 results from a start of the system that the
// manifest `of` names.
func ranSystem(m *Measurement, of *manifest.Manifest) bool {
	values := of.System.PCR11[m.Bank]
	is := valueOf(m, phasePCR)
	for _, v := range values {
		if v == is {
			return true
		}
	}
	return values[""] != "" && reaches(m.Bank, values[""], is, afterLog(phasePCR))
}

// part judges the part of the boot with the given name.
func (j *judge) part(name string) PartVerdict {
	p, _ := PartNamed(name)
	v := PartVerdict{Part: name, Value: j.values[name]}
	if words, ok := j.expected(p); ok {
		v.State, v.Words = StateExpected, words
		return v
	}
	if d, ok := j.decided(p); ok {
		v.State, v.Words = StateKnown, fmt.Sprintf("%s: the owner accepted these values for a cohort of devices on %s.", upperFirst(p.Words), d.Since.UTC().Format("2 January 2006"))
		return v
	}
	if words, ok := j.byReference(p); ok {
		v.State, v.Words = StateKnown, words
		return v
	}
	return j.changed(p, v)
}

// expected reports whether a part of the boot was measured as one of the owner's manifests states.
func (j *judge) expected(p Part) (words string, ok bool) {
	switch p.Name {
	case PartKeys:
		for _, m := range j.Manifests {
			if m.SecureBoot != nil && j.enrolled(m.SecureBoot) {
				return fmt.Sprintf("The Secure Boot keys are those of the image %q.", m.Name), true
			}
		}
	case PartPath:
		if j.ownPath() && !j.unproven() {
			i := slices.IndexFunc(j.meant, j.startedAlone)
			return fmt.Sprintf("Firmware started the programs of %q, and no other program.%s", j.meant[i].Name, j.tableWords()), true
		}
	case PartSystem:
		i := slices.IndexFunc(j.meant, j.ownLine)
		if i >= 0 {
			return fmt.Sprintf("The system is %q (sequence %d).%s", j.meant[i].Name, j.meant[i].Sequence, j.orderedBack()), true
		}
	case PartRest:
		if len(j.meant) > 0 && j.ownFiles() && j.empty(6, 8, 13, 14, 15) {
			return "Only the system's own files were measured into the remaining PCRs.", true
		}
	}
	return "", false
}

// ownPath reports whether firmware started only the programs of a system that is meant to run, and
// the partition table of the disk is accepted (see settled).
func (j *judge) ownPath() bool {
	return slices.ContainsFunc(j.meant, j.startedAlone) && j.settled()
}

func (j *judge) orderedBack() string {
	if !j.back {
		return ""
	}
	return fmt.Sprintf(" This is a roll-back from %q (sequence %d), ordered by a revision.", j.Before.Name, j.Before.Sequence)
}

// decided finds a decision by which the owner accepted the measured value of a part of the boot.
func (j *judge) decided(p Part) (Decision, bool) {
	for _, d := range j.Known {
		if d.Part == p.Name && d.Value == j.values[p.Name] || d.Part == FirmwareCode && p.Name == PartFirmware && d.Value == j.values[FirmwareCode] {
			return d, true
		}
	}
	return Decision{}, false
}

// byReference reports whether a part of the boot has the same values as the reference. If there is
// no reference yet, it reports whether the values of this boot become the reference for the part.
func (j *judge) byReference(p Part) (words string, ok bool) {
	r := j.Reference
	switch {
	case j.learn && p.Name == PartPath && j.unproven():
		return fmt.Sprintf("Firmware started the programs of %q. The partition table (PCR 5) was measured for the first time, and no installer's report proves it. This boot is the reference now. %s", j.meant[0].Name, j.report.problem), true
	case j.learn:
		return fmt.Sprintf("%s: measured for the first time. This boot is the reference now.", pcrList(p.PCRs)), true
	case r == nil, len(r.PCRs) == 0, r.Bank != j.Bank:
		return "", false
	}
	day := r.Since.UTC().Format("2 January 2006")
	if p.Name == PartPath && j.knownManager() && j.settled() {
		return fmt.Sprintf("Firmware started the boot manager of the reference of %s, and then the programs of %q.", day, j.meant[0].Name), true
	}
	if j.outdated(p) || len(j.differences(p)) > 0 {
		return "", false
	}
	if len(r.only(p.PCRs).PCRs) == 0 {
		return fmt.Sprintf("The reference of %s has no value for %s, so this part is not compared.", day, pcrList(p.PCRs)), true
	}
	return fmt.Sprintf("%s: the same values as in the reference of %s.", pcrList(p.PCRs), day), true
}

// differences returns the differences of a part from the reference, which must not be nil. It
// leaves out PCR 9 if a manifest explains its value (see ownFiles), and PCR 1 if an installer's
// report explains its value (see addsOwnEntry).
func (j *judge) differences(p Part) []Change {
	pcrs := compared(p)
	if p.Name == PartRest && len(j.meant) > 0 && j.ownFiles() {
		pcrs = slices.DeleteFunc(pcrs, func(pcr int) bool { return pcr == nvPCR })
	}
	if p.Name == PartFirmware && j.addsOwnEntry() {
		pcrs = slices.DeleteFunc(pcrs, func(pcr int) bool { return pcr == menuPCR })
	}
	return j.Reference.differencesIn(pcrs, j.Measurement)
}

// differencesIn compares a boot with the reference as Compare does, but only in the PCRs `pcrs`. If
// the reference has none of these PCRs, there is no difference.
func (r *Reference) differencesIn(pcrs []int, m *Measurement) []Change {
	part := r.only(pcrs)
	if len(part.PCRs) == 0 && len(r.PCRs) > 0 && r.Bank == m.Bank {
		return nil
	}
	return Compare(part, m)
}

// compared returns the PCRs of a part of the boot that Judge compares with a reference. For
// PartRest, they include PCR 10, which belongs to no part, because a person may have entered a
// value of PCR 10 in the reference.
func compared(p Part) []int {
	if p.Name == PartRest {
		return append(slices.Clone(p.PCRs), imaPCR)
	}
	return slices.Clone(p.PCRs)
}

// outdated reports whether the reference is too old for a part of the boot: manifests determine the
// part, and the reference is older than the present system.
func (j *judge) outdated(p Part) bool {
	if p.Name != PartPath && p.Name != PartSystem {
		return false
	}
	since := j.Since
	if j.Before != nil && j.back && j.other != nil && j.Before.Since.After(since) {
		since = j.Before.Since
	}
	return !since.IsZero() && !j.Reference.Since.After(since)
}

// only returns a copy of the reference that has only the PCRs `pcrs`.
func (r *Reference) only(pcrs []int) *Reference {
	part := *r
	part.PCRs = make(map[int]string)
	for _, pcr := range pcrs {
		if v, ok := r.PCRs[pcr]; ok {
			part.PCRs[pcr] = v
		}
	}
	return &part
}

// settled reports whether the partition table in PCR 5 is accepted. It is accepted in four cases:
//
//   - The owner's installer reported the table.
//   - PCR 5 has the same value as in the reference.
//   - The log explains PCR 5 and shows the partition table of the reference.
//   - There is no reference yet, no installer's report counts, and the log explains PCR 5.
//
// Boot managers measure their settings into PCR 5 too. These are ignored, because PCR 4 and 12 show
// the program and the command line that result from them.
func (j *judge) settled() bool {
	if j.hasReportedTable() {
		return true
	}
	explained := !slices.Contains(j.Unexplained, exitPCR)
	r := j.Reference
	switch {
	case r == nil:
		return explained && !j.report.counts
	case r.Bank != j.Bank:
		return false
	case len(r.differencesIn([]int{exitPCR}, j.Measurement)) == 0:
		return true
	}
	was, is := partitions(r.Events), partitions(j.Events)
	return explained && len(was) > 0 && slices.Equal(was, is)
}

// partitions returns the digests of the partition tables in PCR 5.
func partitions(events []Event) (digests []string) {
	for _, e := range eventsOf(events, exitPCR) {
		if e.What == whatPartitions {
			digests = append(digests, e.Digest)
		}
	}
	return digests
}

// empty reports whether nothing specific to a machine was measured into the PCRs `pcrs`.
func (j *judge) empty(pcrs ...int) bool {
	bank, ok := hashOf(j.Bank)
	if !ok {
		return false
	}
	empty := emptyPCRs(bank)
	return !slices.ContainsFunc(pcrs, func(pcr int) bool { return !empty[valueOf(j.Measurement, pcr)] })
}

// changed completes the verdict `v` on a part that is neither expected nor known.
func (j *judge) changed(p Part, v PartVerdict) PartVerdict {
	v.State = StateChanged
	for _, pcr := range p.PCRs {
		if slices.Contains(j.Unexplained, pcr) && (j.Reference == nil || len(j.Reference.differencesIn([]int{pcr}, j.Measurement)) > 0) {
			v.State = StateUnexplained
		}
	}
	v.Words, v.Cause = j.why(p)
	return v
}

// why names the likely cause of a change in a part of the boot.
func (j *judge) why(p Part) (words, cause string) {
	if p.Name == PartPath || p.Name == PartSystem {
		if words, cause := j.otherSystem(p); cause != "" {
			return words, cause
		}
	}
	r := j.Reference
	switch {
	case r == nil:
		return fmt.Sprintf("%s: the device has no reference yet, and the first boot did not start one of the owner's systems.", pcrList(p.PCRs)), CauseNoReference
	case r.Bank != j.Bank:
		return Compare(r, j.Measurement)[0].Words, CauseOtherBank
	}
	changes := r.differencesIn(compared(p), j.Measurement)
	if p.Name == PartKeys {
		if keys, cause := j.keyWords(changes); keys != "" {
			return keys, cause
		}
	}
	if p.Name == PartFirmware {
		if was, is := r.firmwareText(), j.FirmwareText(); was != is && was != "" && is != "" {
			return fmt.Sprintf("The firmware's version was %q in the reference of %s, and is %q now.", was, r.Since.UTC().Format("2 January 2006"), is), CauseFirmware
		}
	}
	if len(changes) == 0 {
		return fmt.Sprintf("%s: the reference of %s is older than the present system, so the hub does not compare this part with the reference.", pcrList(p.PCRs), r.Since.UTC().Format("2 January 2006")), CauseNoManifest
	}
	words = changes[0].Words
	if n := len(changes) - 1; n > 0 {
		words += fmt.Sprintf(" There are %d more differences.", n)
	}
	return words, ""
}

// otherSystem explains why the boot path or the system is not as the owner's manifests state.
func (j *judge) otherSystem(p Part) (words, cause string) {
	switch {
	case len(j.Manifests) == 0:
		return "", ""
	case j.other != nil && j.back:
		return fmt.Sprintf("The system was rolled back from %q (sequence %d) to %q (sequence %d), and no revision orders this.", j.Before.Name, j.Before.Sequence, j.other.Name, j.other.Sequence), CauseRolledBack
	case j.other != nil:
		return fmt.Sprintf("The system is %q (sequence %d), which is not meant to run on this device.", j.other.Name, j.other.Sequence), CauseUnwanted
	case p.Name == PartPath && j.report.counts && !j.hasReportedTable() && slices.ContainsFunc(j.meant, j.startedAlone):
		return fmt.Sprintf("PCR 5 does not have the partition table that the installer of %q wrote: the table was changed, or firmware started another disk.", j.report.by), CauseNoManifest
	case len(j.meant) > 0 && p.Name == PartPath:
		return fmt.Sprintf("PCR 4 and 5 do not have the values that a start of %q leaves there: firmware started another program, or started programs in another way.", j.meant[0].Name), CauseNoManifest
	case len(j.meant) > 0:
		return fmt.Sprintf("The system is %q, but it got a command line or credentials that its manifest does not name (PCR 12).", j.meant[0].Name), CauseNoManifest
	case p.Name == PartSystem:
		return fmt.Sprintf("None of the owner's manifests names this system (PCR 11 in the %s bank).", j.Bank), CauseNoManifest
	}
	return "None of the owner's manifests names this boot path (PCR 4).", CauseNoManifest
}

// keyWords explains a change of the Secure Boot variables.
func (j *judge) keyWords(changes []Change) (words, cause string) {
	all, cause := keyChanges(j.Reference.Keys, j.Keys)
	for _, c := range changes {
		if c.What == whatSecureBoot+"SecureBoot" {
			all, cause = append([]string{c.Words}, all...), CauseSecureBoot
		}
	}
	const most = 4
	if n := len(all) - most; n > 0 {
		all = append(all[:most], fmt.Sprintf("There are %d more differences.", n))
	}
	return strings.Join(all, " "), cause
}

// onlySeparated reports whether a part of the boot differs from the reference only by systemd's
// separator.
func (j *judge) onlySeparated(p Part) bool {
	if j.Reference == nil {
		return false
	}
	changes := j.differences(p)
	return len(changes) > 0 && !slices.ContainsFunc(changes, func(c Change) bool { return c.What != whatSeparator })
}

// namesKeys reports whether the Secure Boot variables explain the change of PCR 7.
func (j *judge) namesKeys() bool {
	if j.Reference == nil {
		return false
	}
	words, _ := keyChanges(j.Reference.Keys, j.Keys)
	return len(words) > 0
}

func (r *Reference) firmwareText() string {
	return (&Measurement{Events: r.Events}).FirmwareText()
}

// explain sets the verdict's changes: sentences that tell the owner what is wrong with the boot.
// They are the differences from the reference in the bad parts of the boot. For a bad part that
// does not differ from the reference, or whose verdict explains more than the differences do,
// explain adds the words of the part's verdict.
func (j *judge) explain(v *Verdict) {
	var bad []PartVerdict
	var pcrs []int
	for _, p := range v.Parts {
		if !AtLeast(p.State, StateKnown) {
			of, _ := PartNamed(p.Part)
			bad, pcrs = append(bad, p), append(pcrs, compared(of)...)
		}
	}
	if len(bad) == 0 {
		return
	}
	if j.Reference != nil {
		v.Changes = j.Reference.differencesIn(pcrs, j.Measurement)
	}
	for _, p := range bad {
		of, _ := PartNamed(p.Part)
		byReference := slices.ContainsFunc(v.Changes, func(c Change) bool { return c.PCR < 0 || slices.Contains(of.PCRs, c.PCR) })
		named := p.Part == PartKeys && j.namesKeys() || slices.Contains([]string{CauseRolledBack, CauseUnwanted, CauseNoManifest, CauseNoReference}, p.Cause)
		if !named && (byReference || j.onlySeparated(of)) {
			continue
		}
		if !slices.ContainsFunc(v.Changes, func(c Change) bool { return strings.HasPrefix(p.Words, c.Words) }) {
			v.Changes = append(v.Changes, Change{PCR: of.PCRs[0], What: of.Words, Words: p.Words})
		}
	}
}
