package policy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"gangway/hub/boot"
	"gangway/hub/evidence"
	"gangway/tcg"
)

// Warnings returns sentences about the parts of a document that have no effect: names of makers
// that no TPM has, rules that another rule hides and, in an owner's document, settings that are
// looser than the hub's. A document with warnings is still valid.
//
// `hub` is the hub's document, or nil if the hub has none. `owners` says that `d` is an owner's
// document. To check the hub's own document, pass nil as `hub` and false as `owners`.
func Warnings(d, hub *Document, owners bool) []string {
	w := &warner{d: d, hub: hub, owners: owners}
	w.names()
	w.hidden()
	if owners {
		w.looser()
	}
	w.softwareRules()
	if d.settings() == 0 {
		w.add("The policy has no settings and no rules, so it changes nothing.")
	}
	return w.out
}

type warner struct {
	d, hub *Document
	owners bool
	out    []string
}

func (w *warner) add(format string, args ...any) { w.out = append(w.out, fmt.Sprintf(format, args...)) }

// The method `settings` counts the settings and rules of a document.
func (d *Document) settings() (n int) {
	for _, there := range []bool{d.NoCertificate != nil, d.UnknownMaker != nil, d.ExpiredEK != nil, d.Unlisted != nil, d.Software != nil, d.MeasuredBoot != nil, d.WithoutTPM != nil} {
		if there {
			n++
		}
	}
	return n + len(d.EKKinds) + len(d.Rules)
}

// rawMaker matches a maker's id in the form that EK certificates use for ids that are not ASCII:
// "id:" and 8 hexadecimal digits.
var rawMaker = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^id:[0-9a-f]{8}$`) })

// makers returns the known ids of TPM makers.
func makers() []string {
	names := slices.Collect(maps.Keys(tcg.Vendors))
	for _, m := range evidence.SoftwareMakers() {
		if !slices.Contains(names, m) && !rawMaker().MatchString(m) {
			names = append(names, m)
		}
	}
	slices.Sort(names)
	return names
}

func isMaker(name string) bool {
	return rawMaker().MatchString(strings.ToLower(name)) || slices.ContainsFunc(makers(), func(m string) bool { return strings.EqualFold(m, name) })
}

// suggest asks whether an unknown name means one of the makers with a similar name or id, and lists
// the known makers.
func suggest(name string) string {
	var close []string
	lower := strings.ToLower(strings.TrimSpace(name))
	for _, m := range makers() {
		company := strings.ToLower(tcg.Vendors[m])
		if len(lower) >= 3 && company != "" && (strings.HasPrefix(company, lower) || strings.HasPrefix(lower, company)) {
			close = append(close, m+" ("+tcg.Vendors[m]+")")
		} else if within(lower, strings.ToLower(m), 1) {
			close = append(close, m)
		}
	}
	known := "he known makers are " + strings.Join(makers(), ", ") + ", and 'none' for a TPM if its certificate names no maker."
	if len(close) > 0 {
		return "did you mean " + strings.Join(close, " or ") + "? T" + known
	}
	return "t" + known
}

// The function `within` reports whether at most `n` changes (0 or 1) turn the text `a` into the
// text `b`. A change inserts, deletes or replaces one character, or swaps two adjacent ones.
func within(a, b string, n int) bool {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	switch {
	case a == b:
		return true
	case n == 0:
		return false
	case len(a) > 1 && len(b) > 1 && a[0] == b[1] && a[1] == b[0] && a[2:] == b[2:]:
		return true
	}
	return len(a) > 0 && within(a[1:], b, n-1) || len(b) > 0 && within(a, b[1:], n-1) || len(a) > 0 && len(b) > 0 && within(a[1:], b[1:], n-1)
}

// The method `names` warns of names that match no known TPM.
func (w *warner) names() {
	for i, r := range w.d.Rules {
		if r.Maker != "" && !strings.EqualFold(r.Maker, evidence.NoMaker) && !isMaker(r.Maker) {
			w.add("Rule %d is about the maker %q, which is not a known TPM maker: %s", i+1, r.Maker, suggest(r.Maker))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.d.EKKinds)) {
		if name != evidence.NoMaker && name != evidence.AnyMaker && name != "swtpm" && !isMaker(name) {
			w.add("ek_kinds names %q, which is not a known maker; if it is a model, write it as in the EK certificate: %s", name, suggest(name))
		}
	}
	if w.d.Software == nil {
		return
	}
	for _, name := range *w.d.Software {
		switch {
		case evidence.IsSoftwareTPM(name):
		case isMaker(name):
			w.add("software_tpms names %s, which has no effect: this maker's TPMs are hardware.", name)
		default:
			w.add("software_tpms names %q, which is neither swtpm nor a known maker of software TPMs (%s); if it is a model, write it as in the EK certificate.", name, strings.Join(evidence.SoftwareMakers(), ", "))
		}
	}
}

// The method `covers` reports whether the rule `r` matches every TPM that the rule `other` matches.
func (r *Rule) covers(other *Rule) bool {
	return (r.Maker == "" || strings.EqualFold(r.Maker, other.Maker)) &&
		(r.Model == "" || r.Model == "*" || strings.EqualFold(r.Model, other.Model)) &&
		(r.FirmwareBelow == 0 || other.FirmwareBelow != 0 && other.FirmwareBelow <= r.FirmwareBelow)
}

// disjoint reports whether no TPM can match both rules, because the rules name different makers.
func (r *Rule) disjoint(other *Rule) bool {
	return r.Maker != "" && other.Maker != "" && !strings.EqualFold(r.Maker, other.Maker)
}

// The method `hidden` warns of rules without effect: rules that never decide because an earlier
// rule matches the same TPMs, and rules that accept only TPMs that the policy accepts anyway.
func (w *warner) hidden() {
	rules := w.d.Rules
	for i := range rules {
		if n := slices.IndexFunc(rules[:i], func(r Rule) bool { return r.covers(&rules[i]) }); n >= 0 {
			w.add("Rule %[1]d has no effect: rule %[2]d comes first and matches every TPM that rule %[1]d matches.", i+1, n+1)
			continue
		}
		if i > 0 && i == len(rules)-1 && rules[i].covers(new(Rule)) {
			continue // allowed: a last rule for all TPMs may repeat the default
		}
		if *rules[i].Then == Action(evidence.Accept) && !slices.ContainsFunc(rules[i+1:], func(r Rule) bool { return *r.Then != Action(evidence.Accept) && !r.disjoint(&rules[i]) }) {
			if w.owners {
				w.add("Rule %d has no effect: a rule that accepts makes an exception to a later rule that asks or refuses, and this policy has no such later rule. Your policy cannot loosen the hub's policy.", i+1)
			} else {
				w.add("Rule %d has no effect: a rule that accepts makes an exception to a later rule that asks or refuses, and this policy has no such later rule. A TPM that matches no rule is not refused by the rules.", i+1)
			}
		}
	}
}

// The method `looser` warns of settings in an owner's document that are looser than the hub's.
func (w *warner) looser() {
	d, in := w.d, Merge(w.hub, nil)
	hubs := "the hub's policy"
	if w.hub == nil {
		hubs = "the hub's default"
	}
	for _, f := range []struct {
		word string
		say  *Action
		hub  evidence.Action
	}{
		{"no_ek_certificate", d.NoCertificate, in.Evidence.NoCertificate},
		{"unknown_maker", d.UnknownMaker, in.Evidence.UnknownMaker},
		{"expired_ek_certificate", d.ExpiredEK, in.Evidence.ExpiredEK},
	} {
		if f.say != nil && evidence.Action(*f.say) > f.hub {
			w.add("%s: %v has no effect: %s says %v, and an owner's policy can only tighten it.", f.word, evidence.Action(*f.say), hubs, f.hub)
		}
	}
	if d.Unlisted != nil && w.hub != nil && w.hub.Unlisted != nil && *d.Unlisted > *w.hub.Unlisted {
		w.add("unlisted_ek: %v has no effect: the hub's policy says %v, and an owner's policy can only tighten it.", evidence.Action(*d.Unlisted), evidence.Action(*w.hub.Unlisted))
	}
	if d.WithoutTPM != nil && *d.WithoutTPM == Action(evidence.Accept) && !in.WithoutTPM {
		w.add("without_tpm: accept has no effect: %s refuses devices without a TPM, and an owner's policy can only tighten it.", hubs)
	}
	if b := d.MeasuredBoot; b != nil && !b.Require && len(b.Parts) == 0 && (in.RequireBoot || len(in.BootParts) > 0) {
		w.add("measured_boot: report has no effect: the hub's policy has requirements for boots.")
	}
	if b := d.MeasuredBoot; b != nil {
		for _, name := range slices.Sorted(maps.Keys(b.Parts)) {
			if in.BootParts[name] == boot.StateExpected && b.Parts[name] == boot.StateKnown {
				w.add("measured_boot: the value \"known\" for %s has no effect, because the hub's policy requires the state \"expected\".", name)
			}
		}
	}
	if d.Software != nil {
		for _, name := range *d.Software {
			if !slices.ContainsFunc(in.Evidence.Software, func(s string) bool { return strings.EqualFold(s, name) }) {
				w.add("software_tpms: %q has no effect: the hub's policy must name it too.", name)
			}
		}
	}
	w.looserKinds()
	if w.hub == nil {
		return
	}
	for i := range d.Rules {
		mine := &d.Rules[i]
		for n := range w.hub.Rules {
			theirs := &w.hub.Rules[n]
			if theirs.disjoint(mine) {
				continue
			}
			if theirs.covers(mine) && *theirs.Then < *mine.Then {
				w.add("Rule %d (%v) has no effect: rule %d of the hub's policy says %v for the same TPMs, and an owner's policy can only tighten it.", i+1, evidence.Action(*mine.Then), n+1, evidence.Action(*theirs.Then))
			}
			break // `theirs` decides about some TPMs that `mine` matches, so no later rule of the hub decides about all these TPMs
		}
	}
}

// looserKinds warns of EK kinds that the hub's document does not allow.
func (w *warner) looserKinds() {
	if w.hub == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(w.d.EKKinds)) {
		allowed, ok := w.hub.EKKinds[name]
		if !ok {
			allowed, ok = w.hub.EKKinds[evidence.AnyMaker]
		}
		if !ok || name == evidence.AnyMaker && len(w.hub.EKKinds) > 1 {
			continue
		}
		for _, kind := range w.d.EKKinds[name] {
			if !slices.Contains(allowed, kind) {
				w.add("ek_kinds: %s for %s has no effect: the hub's policy allows only %s.", kind, name, strings.Join(allowed, ", "))
			}
		}
	}
}

// softwareRules warns of rules that accept software TPMs which the list software_tpms does not
// name.
func (w *warner) softwareRules() {
	in := Merge(w.d, nil)
	if w.owners {
		in = Merge(w.hub, w.d)
	}
	for i, r := range w.d.Rules {
		if r.Maker == "" || *r.Then == Action(evidence.Refuse) || !evidence.IsSoftwareTPM(r.Maker) {
			continue
		}
		if !slices.ContainsFunc(in.Evidence.Software, func(s string) bool { return strings.EqualFold(s, r.Maker) || !isMaker(s) }) {
			w.add("Rule %d (%v) has no effect: TPMs of %s are software TPMs, and the hub refuses software TPMs that software_tpms does not name.", i+1, evidence.Action(*r.Then), r.Maker)
		}
	}
}
