package policy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"gangway/hub/evidence"
	"gangway/tcg"
)

// Warnings are sentences about what is written in a document and has no effect:
// names of makers that nobody has, rules that another one hides, and, in an
// owner's document, what is looser than the hub's. A document with warnings is in
// force all the same. hub is the hub's document, nil where it has none; of the
// hub's own document, hub is nil and owners is false.
func Warnings(d, hub *Document, owners bool) []string {
	w := &warner{d: d, hub: hub, owners: owners}
	w.names()
	w.hidden()
	if owners {
		w.looser()
	}
	w.programs()
	if d.says() == 0 {
		w.add("The policy says nothing: it changes nothing.")
	}
	return w.out
}

type warner struct {
	d, hub *Document
	owners bool
	out    []string
}

func (w *warner) add(format string, args ...any) { w.out = append(w.out, fmt.Sprintf(format, args...)) }

// says counts what a document says.
func (d *Document) says() (n int) {
	for _, there := range []bool{d.NoCertificate != nil, d.UnknownMaker != nil, d.ExpiredEK != nil, d.Unlisted != nil, d.Software != nil, d.MeasuredBoot != nil, d.WithoutTPM != nil} {
		if there {
			n++
		}
	}
	return n + len(d.EKKinds) + len(d.Rules)
}

// rawMaker is a maker's id that is not ASCII, as EK certificates have it.
var rawMaker = regexp.MustCompile(`^id:[0-9a-f]{8}$`)

// makers are the names of makers that TPMs are known to have.
func makers() []string {
	names := slices.Collect(maps.Keys(tcg.Vendors))
	for _, m := range evidence.SoftwareMakers() {
		if !slices.Contains(names, m) && !rawMaker.MatchString(m) {
			names = append(names, m)
		}
	}
	slices.Sort(names)
	return names
}

func isMaker(name string) bool {
	return rawMaker.MatchString(strings.ToLower(name)) || slices.ContainsFunc(makers(), func(m string) bool { return strings.EqualFold(m, name) })
}

// meant says which makers a name that is none may be meant for, and which there
// are.
func meant(name string) string {
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
	known := "he known ones are " + strings.Join(makers(), ", ") + ", and none for a TPM whose certificate names no maker."
	if len(close) > 0 {
		return "did you mean " + strings.Join(close, " or ") + "? T" + known
	}
	return "t" + known
}

// within reports whether at most n characters (0 or 1) must be put in, taken out
// or replaced, or two neighbours exchanged, to make b of a.
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

// names warns of names that no TPM is known to have.
func (w *warner) names() {
	for i, r := range w.d.Rules {
		if r.Maker != "" && !strings.EqualFold(r.Maker, evidence.NoMaker) && !isMaker(r.Maker) {
			w.add("Rule %d is about the maker %q, which no TPM is known to have: %s", i+1, r.Maker, meant(r.Maker))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.d.EKKinds)) {
		if name != evidence.NoMaker && name != evidence.AnyMaker && name != "swtpm" && !isMaker(name) {
			w.add("ek_kinds names %q, which is not a known maker; as a model it must be written as in the EK certificate: %s", name, meant(name))
		}
	}
	if w.d.Software == nil {
		return
	}
	for _, name := range *w.d.Software {
		switch {
		case evidence.IsSoftwareTPM(name):
		case isMaker(name):
			w.add("software_tpms names %s, whose TPMs are chips: it has no effect on them.", name)
		default:
			w.add("software_tpms names %q, which is neither swtpm nor a known maker of software TPMs (%s); as a model it must be written as in the EK certificate.", name, strings.Join(evidence.SoftwareMakers(), ", "))
		}
	}
}

// covers reports whether a rule fits every TPM that another one fits.
func (r *Rule) covers(other *Rule) bool {
	return (r.Maker == "" || strings.EqualFold(r.Maker, other.Maker)) &&
		(r.Model == "" || r.Model == "*" || strings.EqualFold(r.Model, other.Model)) &&
		(r.FirmwareBelow == 0 || other.FirmwareBelow != 0 && other.FirmwareBelow <= r.FirmwareBelow)
}

// apart reports whether no TPM fits both rules, as far as their makers tell.
func (r *Rule) apart(other *Rule) bool {
	return r.Maker != "" && other.Maker != "" && !strings.EqualFold(r.Maker, other.Maker)
}

// hidden warns of rules that are never reached, and of those that accept what is
// accepted without them.
func (w *warner) hidden() {
	rules := w.d.Rules
	for i := range rules {
		if n := slices.IndexFunc(rules[:i], func(r Rule) bool { return r.covers(&rules[i]) }); n >= 0 {
			w.add("Rule %d has no effect: rule %d comes first and fits every TPM that it fits.", i+1, n+1)
			continue
		}
		if i > 0 && i == len(rules)-1 && rules[i].covers(new(Rule)) {
			continue // it closes the list and says what holds without it
		}
		if *rules[i].Then == Action(evidence.Accept) && !slices.ContainsFunc(rules[i+1:], func(r Rule) bool { return *r.Then != Action(evidence.Accept) && !r.apart(&rules[i]) }) {
			if w.owners {
				w.add("Rule %d has no effect: a rule that accepts makes an exception to later rules of the same policy that ask or refuse, and none follows. It does not loosen the hub's policy.", i+1)
			} else {
				w.add("Rule %d has no effect: a rule that accepts makes an exception to later rules of the same policy that ask or refuse, and none follows. What no rule fits is not refused by a rule.", i+1)
			}
		}
	}
}

// looser warns of what an owner's document says and the hub's does not let be.
func (w *warner) looser() {
	d, in := w.d, Merge(w.hub, nil)
	hubs := "the hub's policy"
	if w.hub == nil {
		hubs = "the hub, without a policy of its own,"
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
			w.add("%s: %v has no effect: %s says %v, and an owner's policy only tightens it.", f.word, evidence.Action(*f.say), hubs, f.hub)
		}
	}
	if d.Unlisted != nil && w.hub != nil && w.hub.Unlisted != nil && *d.Unlisted > *w.hub.Unlisted {
		w.add("unlisted_ek: %v has no effect: the hub's policy says %v, and an owner's policy only tightens it.", evidence.Action(*d.Unlisted), evidence.Action(*w.hub.Unlisted))
	}
	if d.WithoutTPM != nil && *d.WithoutTPM == Action(evidence.Accept) && !in.WithoutTPM {
		w.add("without_tpm: accept has no effect: %s refuses devices without a TPM, and an owner's policy only tightens it.", hubs)
	}
	if d.MeasuredBoot != nil && *d.MeasuredBoot == "report" && in.RequireBoot {
		w.add("measured_boot: report has no effect: the hub's policy requires a boot that matches.")
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
			if theirs.apart(mine) {
				continue
			}
			if theirs.covers(mine) && *theirs.Then < *mine.Then {
				w.add("Rule %d (%v) has no effect: rule %d of the hub's policy says %v for the same TPMs, and an owner's policy only tightens it.", i+1, evidence.Action(*mine.Then), n+1, evidence.Action(*theirs.Then))
			}
			break // the rule decides, or whether it matches depends on the TPM
		}
	}
}

// looserKinds warns of kinds of EKs that the hub's document does not allow.
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
				w.add("ek_kinds: %s for %s has no effect: the hub's policy allows %s.", kind, name, strings.Join(allowed, ", "))
			}
		}
	}
}

// programs warns of rules that accept software TPMs, which software_tpms refuses.
func (w *warner) programs() {
	in := Merge(w.d, nil)
	if w.owners {
		in = Merge(w.hub, w.d)
	}
	for i, r := range w.d.Rules {
		if r.Maker == "" || *r.Then == Action(evidence.Refuse) || !evidence.IsSoftwareTPM(r.Maker) {
			continue
		}
		if !slices.ContainsFunc(in.Evidence.Software, func(s string) bool { return strings.EqualFold(s, r.Maker) || !isMaker(s) }) {
			w.add("Rule %d (%v) has no effect: TPMs of %s are programs, which are refused unless software_tpms names them.", i+1, evidence.Action(*r.Then), r.Maker)
		}
	}
}
