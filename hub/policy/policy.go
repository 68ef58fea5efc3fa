// Package policy parses policy documents, in which a hub's operator or an owner says which TPMs to
// accept, and merges them into the effective policy.
//
// An owner's document can only tighten the hub's document: the stricter of two settings applies. A
// software TPM must be on the list software_tpms in the hub's document and, if the owner's document
// has such a list, on that list too. If only one document has a setting, that setting applies. If
// neither has it, evidence.DefaultPolicy applies.
package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"gangway/hub/boot"
	"gangway/hub/evidence"
	"gangway/tcg"

	"go.yaml.in/yaml/v3"
)

// Bounds of a document.
const (
	MaxSize     = 64 << 10 // bytes
	MaxRules    = 500
	MaxSoftware = 50
	maxText     = 200 // characters of a name or a reason
)

// Document is a policy document, in YAML or JSON.
type Document struct {
	Version       int           `yaml:"version"`                          // 1
	NoCertificate *Action       `yaml:"no_ek_certificate,omitempty"`      // ask or refuse
	UnknownMaker  *Action       `yaml:"unknown_maker,omitempty"`          // ask or refuse
	ExpiredEK     *Action       `yaml:"expired_ek_certificate,omitempty"` // accept, ask or refuse
	Unlisted      *Action       `yaml:"unlisted_ek,omitempty"`            // accept, ask or refuse
	Software      *[]string     `yaml:"software_tpms,omitempty"`          // names
	EKKinds       EKKinds       `yaml:"ek_kinds,omitempty"`               // EK templates by maker
	MeasuredBoot  *MeasuredBoot `yaml:"measured_boot,omitempty"`          // report, require, or the states that parts of the boot must have
	WithoutTPM    *Action       `yaml:"without_tpm,omitempty"`            // accept or refuse
	Rules         []Rule        `yaml:"rules,omitempty"`
}

// Rule is an evidence.Rule in the form that it has in a document.
type Rule struct {
	Maker         string   `yaml:"maker,omitempty"`
	Model         string   `yaml:"model,omitempty"`
	FirmwareBelow Firmware `yaml:"firmware_below,omitempty"`
	Then          *Action  `yaml:"then"`
	Reason        string   `yaml:"reason,omitempty"`
}

// Action is "accept", "ask" or "refuse".
type Action evidence.Action

// UnmarshalYAML implements yaml.Unmarshaler.
func (a *Action) UnmarshalYAML(n *yaml.Node) error {
	v, ok := evidence.ParseAction(n.Value)
	if n.Kind != yaml.ScalarNode || !ok {
		return fmt.Errorf("line %d: %q is not 'accept', 'ask' or 'refuse'", n.Line, n.Value)
	}
	*a = Action(v)
	return nil
}

// EKKinds lists, for a maker or model of TPMs, the allowed EK templates of the TCG's EK profile,
// such as "L-1". The key "none" applies to EKs without a certificate. The key "*" applies to all
// EKs to which no other key applies.
type EKKinds map[string][]string

// UnmarshalYAML implements yaml.Unmarshaler. A list instead of a mapping applies to all TPMs.
func (k *EKKinds) UnmarshalYAML(n *yaml.Node) error {
	var of map[string][]string
	if n.Kind == yaml.SequenceNode {
		of = map[string][]string{evidence.AnyMaker: nil}
		var list []string
		if err := n.Decode(&list); err != nil {
			return err
		}
		of[evidence.AnyMaker] = list
	} else if err := n.Decode(&of); err != nil {
		return err
	}
	*k = make(EKKinds)
	for name, list := range of {
		key := strings.ToLower(name)
		if _, twice := (*k)[key]; twice || name == "" {
			return fmt.Errorf("line %d: ek_kinds has the name %q twice, or an empty name", n.Line, name)
		}
		if len(list) == 0 {
			return fmt.Errorf("line %d: ek_kinds of %s lists no kind; to refuse these TPMs, write a rule", n.Line, name)
		}
		for _, kind := range list {
			if !slices.ContainsFunc(tcg.EKTemplates, func(t tcg.Template) bool { return t.Name == kind }) {
				return fmt.Errorf("line %d: ek_kinds: %q is not one of %s", n.Line, kind, kinds())
			}
		}
		(*k)[key] = list
	}
	return nil
}

func kinds() string {
	var names []string
	for _, t := range tcg.EKTemplates {
		names = append(names, t.Name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// MeasuredBoot says what a policy requires of a device's measured boot. With "report", it requires
// nothing: the hub only shows changes. With "require", the hub refuses a device's API requests if
// any part of its boot is neither "expected" nor "known". Instead, a policy can name parts of the
// boot and the state that each of them must have, such as {firmware: known, system: expected}.
type MeasuredBoot struct {
	Require bool
	Parts   map[string]string // boot.StateExpected or boot.StateKnown, by the name of a part of the boot
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (b *MeasuredBoot) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		if n.Kind != yaml.ScalarNode || n.Value != "report" && n.Value != "require" {
			return fmt.Errorf("line %d: measured_boot must be 'report' or 'require', or name parts such as {firmware: known, system: expected}, not %q", n.Line, n.Value)
		}
		*b = MeasuredBoot{Require: n.Value == "require"}
		return nil
	}
	var parts map[string]string
	if err := n.Decode(&parts); err != nil {
		return err
	}
	if len(parts) == 0 {
		return fmt.Errorf("line %d: measured_boot names no part of the boot; write 'report' if you require nothing of a boot", n.Line)
	}
	for name, state := range parts {
		if _, ok := boot.PartNamed(name); !ok {
			return fmt.Errorf("line %d: measured_boot: %q is not a part of a boot; the parts are firmware, keys, boot-path, system and rest", n.Line, name)
		}
		if state != boot.StateExpected && state != boot.StateKnown {
			return fmt.Errorf("line %d: measured_boot: %s must be 'expected' or 'known', not %q", n.Line, name, state)
		}
	}
	*b = MeasuredBoot{Parts: parts}
	return nil
}

// Firmware is a version of up to four numbers with dots between them, such as "7.85". Missing
// numbers are 0. The version is not a decimal fraction: 7.80 is newer than 7.9.
type Firmware evidence.Firmware

// UnmarshalYAML implements yaml.Unmarshaler.
func (f *Firmware) UnmarshalYAML(n *yaml.Node) error {
	parts := strings.Split(n.Value, ".")
	var v uint64
	for i := range 4 {
		var part uint64
		if i < len(parts) {
			var err error
			if part, err = strconv.ParseUint(parts[i], 10, 16); err != nil {
				return fmt.Errorf("line %d: the firmware version %q must be up to four numbers below 65536 with dots between them", n.Line, n.Value)
			}
		}
		v = v<<16 | part
	}
	if n.Kind != yaml.ScalarNode || len(parts) > 4 || v == 0 {
		return fmt.Errorf("line %d: the firmware version %q must be up to four numbers below 65536 with dots between them", n.Line, n.Value)
	}
	*f = Firmware(v)
	return nil
}

// Parse parses a document. Unknown names are errors, because a policy with a misspelt name would
// otherwise accept devices that it should refuse.
func Parse(text []byte) (*Document, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("the policy has %d bytes; at most %d are allowed", len(text), MaxSize)
	}
	if !isMapping(text) {
		return nil, errors.New("this is not a policy: a policy is a YAML document of names and values; the smallest is 'version: 1'")
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	d := new(Document)
	if err := dec.Decode(d); errors.Is(err, io.EOF) {
		return nil, errors.New("the policy is empty; the smallest policy is 'version: 1'")
	} else if err != nil {
		return nil, plain(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("the policy has more than one YAML document; only one is allowed")
	}
	return d, d.check()
}

// isMapping reports whether the text is empty, or begins with a YAML document of names and values.
// It also returns true for such a document with a syntax error, because the decoder then reports
// the line of the error.
func isMapping(text []byte) bool {
	var n yaml.Node
	err := yaml.Unmarshal(text, &n)
	if err != nil {
		return named().Match(text)
	}
	return n.Kind == 0 || n.Content[0].Kind == yaml.MappingNode || n.Content[0].Tag == "!!null"
}

var (
	named = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?m)^(version|rules|software_tpms|ek_kinds|[a-z]+_[a-z_]+) *:`)
	})
	// wrongKind matches the YAML library's error about a value of the wrong type, for example a
	// list where a string is required.
	wrongKind = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`cannot unmarshal !!(\w+)(?: (` + "`[^`]*`" + `))? into [^\s;]+`)
	})
)

// kindNames maps the tag of a YAML value to words for the value's type, for messages.
var kindNames = map[string]string{"str": "a string", "int": "a number", "float": "a number", "bool": "true or false", "seq": "a list", "map": "names and values", "null": "nothing"}

// The function `plain` removes Go's type names from the messages of the YAML library.
func plain(err error) error {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "unmarshal errors:\n")
	document := strings.Contains(text, " not found in type policy.Document")
	rule := strings.Contains(text, " not found in type policy.Rule")
	text = wrongKind().ReplaceAllStringFunc(text, func(s string) string {
		m := wrongKind().FindStringSubmatch(s)
		return strings.TrimSpace(m[2]+" is "+kindNames[m[1]]) + ", which this setting cannot have"
	})
	text = strings.ReplaceAll(text, " in type policy.Document", "")
	text = strings.ReplaceAll(text, " in type policy.Rule", " in a rule")
	if document {
		text += "; the names in a policy are " + strings.Join(names[Document](), ", ")
	}
	if rule {
		text += "; the names in a rule are " + strings.Join(names[Rule](), ", ")
	}
	return errors.New("policy: " + strings.TrimSpace(text))
}

// The function `names` returns the YAML names of a structure's fields.
func names[T any]() (out []string) {
	for f := range reflect.TypeFor[T]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		out = append(out, name)
	}
	return out
}

func (d *Document) check() error {
	switch {
	case d.Version != 1:
		return fmt.Errorf("policy: version is %d; the only version is 1: write 'version: 1' in the first line", d.Version)
	case d.NoCertificate != nil && *d.NoCertificate == Action(evidence.Accept):
		return errors.New("policy: no_ek_certificate must be 'ask' or 'refuse': only a person can vouch for a TPM without a certificate")
	case d.UnknownMaker != nil && *d.UnknownMaker == Action(evidence.Accept):
		return errors.New("policy: unknown_maker must be 'ask' or 'refuse': anyone can claim to be an unknown maker")
	case d.WithoutTPM != nil && *d.WithoutTPM == Action(evidence.Ask):
		return errors.New("policy: without_tpm must be 'accept' or 'refuse'")
	case len(d.Rules) > MaxRules:
		return fmt.Errorf("policy: the policy has %d rules; at most %d are allowed", len(d.Rules), MaxRules)
	}
	if len(d.EKKinds) > MaxSoftware {
		return fmt.Errorf("policy: ek_kinds has %d names; at most %d are allowed", len(d.EKKinds), MaxSoftware)
	}
	if d.Software != nil {
		if len(*d.Software) > MaxSoftware {
			return fmt.Errorf("policy: software_tpms has %d names; at most %d are allowed", len(*d.Software), MaxSoftware)
		}
		for _, name := range *d.Software {
			if name == "" || len(name) > maxText {
				return fmt.Errorf("policy: software_tpms: %q is not a maker or model; a name has 1 to %d characters", name, maxText)
			}
		}
	}
	for i, r := range d.Rules {
		if r.Then == nil {
			return fmt.Errorf("policy: rule %d has no 'then': write 'accept', 'ask' or 'refuse'", i+1)
		}
		if _, err := path.Match(r.Model, ""); err != nil {
			return fmt.Errorf("policy: rule %d: %q is not a valid pattern", i+1, r.Model)
		}
		if max(len(r.Maker), len(r.Model), len(r.Reason)) > maxText {
			return fmt.Errorf("policy: rule %d: maker, model or reason is longer than %d characters", i+1, maxText)
		}
	}
	return nil
}

// Effective is the effective policy for an owner's devices.
type Effective struct {
	Evidence evidence.Policy
	// RequireBoot is true if the API serves a device only while every part of the device's boot is
	// in the state "expected" or "known".
	RequireBoot bool
	// BootParts maps the name of a part of a device's boot to the state that this part must have,
	// in addition to RequireBoot.
	BootParts map[string]string
	// WithoutTPM is true if devices without a TPM may join, in one of three ways: with a join token
	// that allows it, or because an owner adds or claims the device.
	WithoutTPM bool
}

// Merge returns the effective policy that results from the hub's document and an owner's document,
// either of which may be nil.
func Merge(hub, owner *Document) Effective {
	e := Effective{Evidence: evidence.DefaultPolicy()}
	if hub != nil {
		// A setting in the hub's document may be looser or stricter than the default.
		set(&e.Evidence.NoCertificate, hub.noCertificate())
		set(&e.Evidence.UnknownMaker, hub.UnknownMaker)
		set(&e.Evidence.ExpiredEK, hub.ExpiredEK)
		set(&e.Evidence.Unlisted, hub.Unlisted)
		set(&e.Evidence.UnlistedByHub, hub.Unlisted)
		if hub.Software != nil {
			e.Evidence.Software = *hub.Software
		}
		e.WithoutTPM = hub.WithoutTPM != nil && *hub.WithoutTPM == Action(evidence.Accept)
		e.add("the hub's policy", hub)
	}
	if owner != nil {
		tighten(&e.Evidence.NoCertificate, owner.noCertificate())
		tighten(&e.Evidence.UnknownMaker, owner.UnknownMaker)
		tighten(&e.Evidence.ExpiredEK, owner.ExpiredEK)
		// The owner's setting for unlisted TPMs also applies to the hub's list if it is stricter,
		// even if the hub's document has no such setting.
		tighten(&e.Evidence.UnlistedByHub, owner.Unlisted)
		if hub == nil || hub.Unlisted == nil {
			set(&e.Evidence.Unlisted, owner.Unlisted)
		} else {
			tighten(&e.Evidence.Unlisted, owner.Unlisted)
		}
		if owner.Software != nil {
			e.Evidence.Software = intersect(e.Evidence.Software, *owner.Software)
		}
		e.WithoutTPM = e.WithoutTPM && (owner.WithoutTPM == nil || *owner.WithoutTPM == Action(evidence.Accept))
		e.add("the owner's policy", owner)
	}
	return e
}

// noCertificate returns the setting for EKs without a certificate. If the document has none, the
// setting for unknown makers applies, because otherwise a device could get a better verdict by
// leaving out its certificate.
func (d *Document) noCertificate() *Action {
	if d.NoCertificate == nil {
		return d.UnknownMaker
	}
	return d.NoCertificate
}

func set(to *evidence.Action, a *Action) {
	if a != nil {
		*to = evidence.Action(*a)
	}
}

func tighten(to *evidence.Action, a *Action) {
	if a != nil {
		*to = min(*to, evidence.Action(*a))
	}
}

func intersect(a, b []string) (out []string) {
	for _, name := range a {
		for _, other := range b {
			if strings.EqualFold(name, other) {
				out = append(out, name)
			}
		}
	}
	return out
}

func (e *Effective) add(name string, d *Document) {
	if d.MeasuredBoot != nil {
		e.RequireBoot = e.RequireBoot || d.MeasuredBoot.Require
		for name, state := range d.MeasuredBoot.Parts {
			if e.BootParts == nil {
				e.BootParts = make(map[string]string)
			}
			if e.BootParts[name] != boot.StateExpected { // the stricter of two states
				e.BootParts[name] = state
			}
		}
	}
	if len(d.EKKinds) > 0 {
		e.Evidence.EKKinds = append(e.Evidence.EKKinds, evidence.EKKinds{Name: name, Of: d.EKKinds})
	}
	if len(d.Rules) == 0 {
		return
	}
	layer := evidence.Layer{Name: name}
	for _, r := range d.Rules {
		layer.Rules = append(layer.Rules, evidence.Rule{
			Maker: r.Maker, Model: r.Model, FirmwareBelow: evidence.Firmware(r.FirmwareBelow),
			Then: evidence.Action(*r.Then), Reason: r.Reason,
		})
	}
	e.Evidence.Layers = append(e.Evidence.Layers, layer)
}
