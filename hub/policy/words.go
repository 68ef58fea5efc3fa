package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"gangway/hub/boot"
	"gangway/hub/evidence"
)

// Statement describes one setting of the effective policy in words.
type Statement struct {
	Setting string // the setting's name in a document, or "rules"
	Words   string // a sentence
	From    string // the source of the setting: "default", "the hub's policy" or "your policy"
}

// The values of Statement.From.
const (
	FromDefault = "default"
	FromHub     = "the hub's policy"
	FromOwner   = "your policy"
)

// Explain describes, in words, the effective policy that results from the hub's and an owner's
// document, either of which may be nil.
func Explain(hub, owner *Document) (list []Statement) {
	e, base, none := Merge(hub, owner), Merge(hub, nil), Merge(nil, nil)
	add := func(setting, words string, byHub, byOwner bool) {
		from := FromDefault
		switch {
		case byOwner:
			from = FromOwner
		case byHub:
			from = FromHub
		}
		list = append(list, Statement{setting, words, from})
	}
	action := func(setting, who string, pick func(*evidence.Policy) evidence.Action, of func(*Document) *Action) {
		a := pick(&e.Evidence)
		byHub := hub != nil && (of(hub) != nil || pick(&base.Evidence) != pick(&none.Evidence))
		add(setting, who+" "+doneWith(a)+".", byHub, a != pick(&base.Evidence))
	}
	action("no_ek_certificate", "A TPM without an EK certificate", func(p *evidence.Policy) evidence.Action { return min(p.NoCertificate, evidence.Ask) }, (*Document).noCertificate)
	action("unknown_maker", "A TPM with an EK certificate that does not chain to a trusted maker", func(p *evidence.Policy) evidence.Action { return min(p.UnknownMaker, p.NoCertificate, evidence.Ask) }, func(d *Document) *Action { return d.UnknownMaker })
	action("expired_ek_certificate", "A TPM with an expired EK certificate", func(p *evidence.Policy) evidence.Action { return p.ExpiredEK }, func(d *Document) *Action { return d.ExpiredEK })
	action("unlisted_ek", "If there is an EK list, a TPM that is not on the list", func(p *evidence.Policy) evidence.Action { return p.Unlisted }, func(d *Document) *Action { return d.Unlisted })
	words := "Software TPMs are refused."
	if len(e.Evidence.Software) > 0 {
		words = "Software TPMs are refused, except " + strings.Join(e.Evidence.Software, ", ") + "."
	}
	add("software_tpms", words, hub != nil && hub.Software != nil, owner != nil && owner.Software != nil && len(e.Evidence.Software) < len(base.Evidence.Software))
	words = "The state of a device's measured boot is only reported; no state is required."
	if e.RequireBoot {
		words = "A device is admitted only while every part of its measured boot is expected or known."
	} else if len(e.BootParts) > 0 {
		words = "A device is admitted only while its measured boot has these states: " + BootPartWords(e.BootParts) + "."
	}
	if e.RequireBoot && len(e.BootParts) > 0 {
		words += " In addition, these states are required: " + BootPartWords(e.BootParts) + "."
	}
	add("measured_boot", words, hub != nil && hub.MeasuredBoot != nil, e.RequireBoot && !base.RequireBoot || !maps.Equal(e.BootParts, base.BootParts))
	words = "Devices without a TPM are refused."
	if e.WithoutTPM {
		words = "Devices without a TPM are accepted in three cases: the join token allows such devices, the owner adds the device, or the owner claims the device."
	}
	add("without_tpm", words, hub != nil && hub.WithoutTPM != nil, base.WithoutTPM && !e.WithoutTPM)
	for _, one := range []struct {
		d    *Document
		from string
	}{{hub, FromHub}, {owner, FromOwner}} {
		if one.d != nil {
			list = append(list, one.d.explainKinds(one.from)...)
			list = append(list, one.d.explainRules(one.from)...)
		}
	}
	return list
}

// BootPartWords lists the required states of the parts of a boot, in the order of boot.Parts, for
// example "firmware known, system expected".
func BootPartWords(parts map[string]string) string {
	var list []string
	for _, p := range boot.Parts {
		if state := parts[p.Name]; state != "" {
			list = append(list, p.Name+" "+state)
		}
	}
	return strings.Join(list, ", ")
}

func doneWith(a evidence.Action) string {
	return map[evidence.Action]string{evidence.Refuse: "is refused", evidence.Ask: "waits for its owner's decision", evidence.Accept: "is accepted"}[a]
}

// explainKinds says which kinds of EK a document allows.
func (d *Document) explainKinds(from string) (list []Statement) {
	for _, name := range slices.Sorted(maps.Keys(d.EKKinds)) {
		who := "TPMs of " + strings.ToUpper(name)
		switch name {
		case evidence.AnyMaker:
			who = "All TPMs"
			if len(d.EKKinds) > 1 {
				who = "All other TPMs"
			}
		case evidence.NoMaker:
			who = "TPMs without an EK certificate"
		}
		list = append(list, Statement{"ek_kinds", fmt.Sprintf("%s may use EKs of these templates: %s.", who, strings.Join(d.EKKinds[name], ", ")), from})
	}
	return list
}

// explainRules says what the rules of a document do.
func (d *Document) explainRules(from string) (list []Statement) {
	var e Effective
	e.add(from, d)
	for _, layer := range e.Evidence.Layers {
		for i := range layer.Rules {
			list = append(list, Statement{fmt.Sprintf("rule %d", i+1), layer.Rules[i].Words(), from})
		}
	}
	return list
}
