package boot

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Reference describes the accepted boot of a device.
type Reference struct {
	Bank string `json:"bank"`
	// PCRs are the values to compare, hexadecimal, by number.
	PCRs map[int]string `json:"pcrs"`
	// Events explain the values. They are empty if the reference was entered as values.
	Events []Event `json:"events,omitempty"`
	// Keys are the Secure Boot variables, so that Judge can name a certificate that was added.
	Keys   []KeyVariable `json:"keys,omitempty"`
	From   string        `json:"from"` // the source of the reference, for a person: "the first boot", "values", "device ..."
	Since  time.Time     `json:"since"`
	Locked bool          `json:"locked"` // only the owner can change the reference
	// Unproven is true if the reference is a first boot, and no installer's report proves the
	// partition table of this boot, although the installer in the owner's image makes reports.
	Unproven bool `json:"unproven,omitempty"`
}

// imaPCR is the PCR into which Linux (IMA) measures each program that starts. The order of the
// programs varies, so the value of this PCR differs at each boot.
const imaPCR = 10

// NewReference makes a reference from a measurement. The reference has the value of every PCR
// except imaPCR. If the measurement's log explains a value, the reference also has the events, so
// that Compare can name the changed event.
func NewReference(m *Measurement, from string, now time.Time) *Reference {
	r := &Reference{Bank: m.Bank, PCRs: make(map[int]string), Keys: m.Keys, From: from, Since: now}
	for i, v := range m.PCRs {
		if i != imaPCR {
			r.PCRs[i] = v
		}
	}
	for _, e := range m.Events {
		if _, ok := r.PCRs[e.PCR]; ok {
			r.Events = append(r.Events, e)
		}
	}
	return r
}

// ErrReference means that the entered values are not a valid reference.
var ErrReference = errors.New("boot: a reference needs a bank (SHA-256 or SHA-384) and, for PCRs from 0 to 15, hexadecimal values of that bank's size")

// ErrEmptyReference means that the reference would match a machine that measures nothing into its
// TPM.
var ErrEmptyReference = errors.New("boot: a reference needs at least one PCR into which something was measured")

// Check checks a reference that was entered as values, and converts the values to lower case.
func (r *Reference) Check() error {
	bank, ok := hashOf(r.Bank)
	if !ok || len(r.PCRs) == 0 || len(r.Events) > MaxEvents {
		return ErrReference
	}
	empty, measured := emptyPCRs(bank), false
	for i, v := range r.PCRs {
		b, err := hex.DecodeString(v)
		if err != nil || len(b) != bank.Size() || i < 0 || i >= PCRs {
			return ErrReference
		}
		r.PCRs[i] = strings.ToLower(v)
		measured = measured || !empty[r.PCRs[i]]
	}
	if !measured {
		return ErrEmptyReference
	}
	return nil
}

// Change is one difference between a boot and its reference.
type Change struct {
	PCR    int    `json:"pcr"`
	What   string `json:"what"`
	Before string `json:"before,omitempty"` // digest or text
	After  string `json:"after,omitempty"`
	Words  string `json:"words"` // the difference, a sentence for a person
}

// Compare returns how the boot `m` differs from the reference `r`. If the boot matches, it returns
// no differences. If the value of a compared PCR differs, at least one change names the PCR, even
// if no event explains the difference. Compare ignores two kinds of differences:
//   - in PCR 1, a difference that results only from entries removed from the boot menu,
//   - in PCR 11, a difference that results only from boot phases that have ended meanwhile.
func Compare(r *Reference, m *Measurement) []Change {
	day := r.Since.UTC().Format("2 January 2006")
	if r.Bank != m.Bank {
		return []Change{{PCR: -1, What: "the PCR bank", Before: r.Bank, After: m.Bank, Words: fmt.Sprintf("The boot was measured in the TPM's %s bank, but the reference of %s uses the %s bank.", m.Bank, day, r.Bank)}}
	}
	if len(r.PCRs) == 0 {
		return []Change{{PCR: -1, What: "the reference", Words: fmt.Sprintf("The reference of %s has no PCR to compare.", day)}}
	}
	var changes []Change
	var more, less []int // more: PCRs to which systemd's separator was added; less: PCRs from which systemd's separator was removed
	for pcr := range PCRs {
		want, ok := r.PCRs[pcr]
		if !ok {
			continue
		}
		is := valueOf(m, pcr)
		before, after := eventsOf(r.Events, pcr), eventsOf(m.Events, pcr)
		unexplained := slices.Contains(m.Unexplained, pcr)
		switch {
		case is == want && unexplained && m.Log && len(before) > 0:
			changes = append(changes, Change{PCR: pcr, What: "the event log", Words: fmt.Sprintf("The event log does not explain PCR %d any more. It explained this PCR in the reference of %s.", pcr, day)})
		case is == want, pcr == menuPCR && onlyShorter(before, after), pcr == phasePCR && phaseOf(m.Bank, want, is):
		case extendedBy(m.Bank, want, is, pcr):
			more = append(more, pcr)
		case extendedBy(m.Bank, is, want, pcr):
			less = append(less, pcr)
		case unexplained:
			changes = append(changes, Change{PCR: pcr, What: fmt.Sprintf("PCR %d", pcr), Before: want, After: is, Words: unexplainedWords(pcr, day, m.Log, len(before) > 0)})
		default:
			was, wasSeparated := withoutUserspace(before)
			now, nowSeparated := withoutUserspace(after)
			if nowSeparated && !wasSeparated && len(was) > 0 {
				more = append(more, pcr)
			} else if wasSeparated && !nowSeparated {
				less = append(less, pcr)
			}
			changes = append(changes, diff(pcr, was, now, day, want, is)...)
		}
	}
	if len(more) > 0 {
		changes = append(changes, Change{PCR: more[0], What: whatSeparator, After: osSeparator, Words: fmt.Sprintf("%s: extended by systemd's os-separator after the end of the firmware's log; the reference of %s has no such extension. systemd has done this since version 261.", pcrList(more), day)})
	}
	if len(less) > 0 {
		changes = append(changes, Change{PCR: less[0], What: whatSeparator, Before: osSeparator, Words: fmt.Sprintf("%s: not extended by systemd's os-separator; the reference of %s has such an extension.", pcrList(less), day)})
	}
	return changes
}

// withoutUserspace removes the events that come after the firmware's log. The result `separated` is
// true if systemd's separator is among the removed events.
func withoutUserspace(events []Event) (log []Event, separated bool) {
	for _, e := range events {
		if e.What != whatSeparator && e.What != whatPhase {
			log = append(log, e)
		}
		separated = separated || e.What == whatSeparator
	}
	return log, separated
}

func unexplainedWords(pcr int, day string, log, explained bool) string {
	words := fmt.Sprintf("PCR %d differs from the reference of %s", pcr, day)
	switch {
	case log && explained:
		words += ", and the event log no longer explains it"
	case log:
		words += ", and the event log does not explain it"
	}
	return words + "."
}

// extendedBy reports whether the value `from` of a PCR becomes the value `to` if systemd's
// separator is measured into the PCR. Both values are in hexadecimal.
func extendedBy(bank, from, to string, pcr int) bool {
	return reaches(bank, from, to, separatorWords(pcr))
}

// phaseOf reports whether two values of PCR 11, `a` and `b`, differ only by the phases of the boot
// that have ended. systemd extends PCR 11 when a phase ends.
func phaseOf(bank, a, b string) bool {
	words := afterLog(phasePCR)
	return reaches(bank, a, b, words) || reaches(bank, b, a, words)
}

func reaches(bank, from, to string, words [][]string) bool {
	h, ok := hashOf(bank)
	value, err := hex.DecodeString(from)
	if !ok || err != nil {
		return false
	}
	for _, w := range words {
		if hex.EncodeToString(extendedByWords(h, value, w)) == to {
			return true
		}
	}
	return false
}

// pcrList formats PCR numbers for a person: "PCR 0 to 7, 9 and 12 to 14".
func pcrList(pcrs []int) string {
	var ranges []string
	for i := 0; i < len(pcrs); {
		last := i
		for last+1 < len(pcrs) && pcrs[last+1] == pcrs[last]+1 {
			last++
		}
		text := fmt.Sprint(pcrs[i])
		switch {
		case last == i+1: // two numbers are not written as a range
			last = i
		case last > i:
			text += fmt.Sprintf(" to %d", pcrs[last])
		}
		ranges = append(ranges, text)
		i = last + 1
	}
	if n := len(ranges); n > 1 {
		ranges = append(ranges[:n-2], ranges[n-2]+" and "+ranges[n-1])
	}
	return "PCR " + strings.Join(ranges, ", ")
}

func valueOf(m *Measurement, pcr int) string {
	if pcr < len(m.PCRs) {
		return m.PCRs[pcr]
	}
	return ""
}

func eventsOf(events []Event, pcr int) (out []Event) {
	for _, e := range events {
		if e.PCR == pcr {
			out = append(out, e)
		}
	}
	return out
}

// diff explains the difference in a PCR by the PCR's events. If the events do not explain the
// difference, diff compares only the values.
func diff(pcr int, before, after []Event, day, was, is string) (changes []Change) {
	gone, come := without(before, after), without(after, before)
	for _, old := range gone {
		i := slices.IndexFunc(come, func(e Event) bool { return e.What == old.What && e.Label == old.Label })
		if i < 0 {
			changes = append(changes, Change{PCR: pcr, What: old.What, Before: textOrDigest(old), Words: fmt.Sprintf("%s was measured in the reference of %s, but is no longer measured.", eventName(old), day)})
			continue
		}
		c := Change{PCR: pcr, What: old.What, Before: textOrDigest(old), After: textOrDigest(come[i]),
			Words: fmt.Sprintf("%s hash differs from the reference of %s.", possessive(old.What), day)}
		if old.Text != "" || come[i].Text != "" {
			c.Words = fmt.Sprintf("%s differs from the reference of %s: %q, then %q.", eventName(old), day, c.Before, c.After)
		} else if old.Label != "" {
			c.Words = fmt.Sprintf("%s differs from the reference of %s.", eventName(old), day)
		}
		changes = append(changes, c)
		come = slices.Delete(come, i, i+1)
	}
	for _, e := range come {
		changes = append(changes, Change{PCR: pcr, What: e.What, After: textOrDigest(e), Words: fmt.Sprintf("%s was measured, but is not in the reference of %s.", eventName(e), day)})
	}
	if len(changes) == 0 {
		words := fmt.Sprintf("PCR %d differs from the reference of %s.", pcr, day)
		if len(before) > 0 && len(after) > 0 {
			words = fmt.Sprintf("PCR %d differs from the reference of %s: the same events were measured in another order.", pcr, day)
		}
		changes = []Change{{PCR: pcr, What: fmt.Sprintf("PCR %d", pcr), Before: was, After: is, Words: words}}
	}
	return changes
}

// The function `without` returns the events in `a` that are not in `b`. If an event occurs twice in
// `a` and once in `b`, the result has the event once.
func without(a, b []Event) (out []Event) {
	have := map[string]int{}
	for _, e := range b {
		have[e.Digest]++
	}
	for _, e := range a {
		if have[e.Digest] > 0 {
			have[e.Digest]--
			continue
		}
		out = append(out, e)
	}
	return out
}

func textOrDigest(e Event) string {
	if e.Text != "" {
		return e.Text
	}
	return e.Digest
}

// eventName names an event, as the start of a sentence. If the name is a label, no digest covers
// the name. eventName then says that the name comes from the log.
func eventName(e Event) string {
	if e.Label != "" {
		return fmt.Sprintf("%s, which the log calls %q,", upperFirst(e.What), e.Label)
	}
	return upperFirst(e.What)
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func possessive(s string) string { return upperFirst(s) + "'s" }
