package boot

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Reference is what a device should boot.
type Reference struct {
	Bank string `json:"bank"`
	// PCRs are the values to compare, hexadecimal, by number.
	PCRs map[int]string `json:"pcrs"`
	// Events explain them; none where values alone were given.
	Events []Event   `json:"events,omitempty"`
	From   string    `json:"from"` // "the first boot", "values", "device ...": for a person
	Since  time.Time `json:"since"`
	Locked bool      `json:"locked"` // only its owner changes it
}

// imaPCR holds what Linux measures of each program that it runs, in the order
// in which it happens to: it never is the same twice.
const imaPCR = 10

// ReferenceOf makes a reference of a measurement. It compares every PCR that
// the measurement's log explains.
func ReferenceOf(m *Measurement, from string, now time.Time) *Reference {
	r := &Reference{Bank: m.Bank, PCRs: make(map[int]string), From: from, Since: now}
	for i, v := range m.PCRs {
		if i != imaPCR && !slices.Contains(m.Unexplained, i) {
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

// ErrReference means that values cannot be a reference.
var ErrReference = errors.New("boot: a reference has a bank (SHA-256 or SHA-384) and hexadecimal values of PCR 0 to 15 of its size")

// Check checks a reference that was given as values.
func (r *Reference) Check() error {
	size := map[string]int{"SHA-256": 32, "SHA-384": 48, "SHA-512": 64}[r.Bank]
	if size == 0 || len(r.PCRs) == 0 || len(r.Events) > MaxEvents {
		return ErrReference
	}
	for i, v := range r.PCRs {
		b, err := hex.DecodeString(v)
		if err != nil || len(b) != size || i < 0 || i >= PCRs {
			return ErrReference
		}
		r.PCRs[i] = strings.ToLower(v)
	}
	return nil
}

// Change is one difference between a boot and its reference.
type Change struct {
	PCR    int    `json:"pcr"`
	What   string `json:"what"`
	Before string `json:"before,omitempty"` // digest or text
	After  string `json:"after,omitempty"`
	Words  string `json:"words"` // a sentence
}

// Compare says what differs from the reference; nothing where the boot matches
// it. Every compared PCR whose value differs makes at least one change, whether
// an event explains it or not.
func Compare(r *Reference, m *Measurement) []Change {
	day := r.Since.UTC().Format("2 January 2006")
	if r.Bank != m.Bank {
		return []Change{{PCR: -1, What: "the PCR bank", Before: r.Bank, After: m.Bank, Words: fmt.Sprintf("The TPM now measures in its %s bank; the reference of %s is of %s.", m.Bank, day, r.Bank)}}
	}
	var changes []Change
	for pcr := range PCRs {
		want, ok := r.PCRs[pcr]
		if !ok {
			continue
		}
		same := valueOf(m, pcr) == want
		events := of(r.Events, pcr)
		switch {
		case slices.Contains(m.Unexplained, pcr) && !same:
			changes = append(changes, Change{PCR: pcr, What: fmt.Sprintf("PCR %d", pcr), Before: want, After: valueOf(m, pcr),
				Words: fmt.Sprintf("PCR %d differs from the reference of %s, and the event log does not explain it any more.", pcr, day)})
			continue
		case slices.Contains(m.Unexplained, pcr) && m.Log && len(events) > 0:
			changes = append(changes, Change{PCR: pcr, What: "the event log", Words: fmt.Sprintf("The event log does not explain PCR %d any more, as it did in the reference of %s.", pcr, day)})
			continue
		case same, pcr == menuPCR && onlyShorter(events, of(m.Events, pcr)):
			continue
		}
		changes = append(changes, diff(pcr, events, of(m.Events, pcr), day, want, valueOf(m, pcr))...)
	}
	return changes
}

func valueOf(m *Measurement, pcr int) string {
	if pcr < len(m.PCRs) {
		return m.PCRs[pcr]
	}
	return ""
}

func of(events []Event, pcr int) (out []Event) {
	for _, e := range events {
		if e.PCR == pcr {
			out = append(out, e)
		}
	}
	return out
}

// diff explains a PCR by its events. What the events do not explain, the value
// does.
func diff(pcr int, before, after []Event, day, was, is string) (changes []Change) {
	gone, come := without(before, after), without(after, before)
	for _, old := range gone {
		i := slices.IndexFunc(come, func(e Event) bool { return e.What == old.What })
		if i < 0 {
			changes = append(changes, Change{PCR: pcr, What: old.What, Before: shown(old), Words: fmt.Sprintf("%s was measured in the reference of %s and is not any more.", upperFirst(old.What), day)})
			continue
		}
		c := Change{PCR: pcr, What: old.What, Before: shown(old), After: shown(come[i]),
			Words: fmt.Sprintf("%s hash differs from the reference of %s.", possessive(old.What), day)}
		if old.Text != "" || come[i].Text != "" {
			c.Words = fmt.Sprintf("%s differs from the reference of %s: %q, then %q.", upperFirst(old.What), day, c.Before, c.After)
		}
		changes = append(changes, c)
		come = slices.Delete(come, i, i+1)
	}
	for _, e := range come {
		changes = append(changes, Change{PCR: pcr, What: e.What, After: shown(e), Words: fmt.Sprintf("%s was measured and is not in the reference of %s.", upperFirst(e.What), day)})
	}
	if len(changes) == 0 {
		words := fmt.Sprintf("PCR %d differs from the reference of %s.", pcr, day)
		if len(before) > 0 && len(after) > 0 {
			words = fmt.Sprintf("PCR %d differs from the reference of %s: the same was measured in another order.", pcr, day)
		}
		changes = []Change{{PCR: pcr, What: fmt.Sprintf("PCR %d", pcr), Before: was, After: is, Words: words}}
	}
	return changes
}

// without returns the events of a that b does not have, counting doubles.
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

func shown(e Event) string {
	if e.Text != "" {
		return e.Text
	}
	return e.Digest
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func possessive(s string) string { return upperFirst(s) + "'s" }
