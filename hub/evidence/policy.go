package evidence

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"gangway/tcg"
)

// Action is what a policy does with a device that matches a rule. The zero value refuses.
type Action uint8

const (
	Refuse Action = iota
	Ask           // the device waits for a person
	Accept
)

var actionNames = [...]string{"refuse", "ask", "accept"}

func (a Action) String() string { return actionNames[a] }

// ParseAction reads "refuse", "ask" or "accept".
func ParseAction(s string) (Action, bool) {
	i := slices.Index(actionNames[:], s)
	return Action(max(i, 0)), i >= 0
}

// Policy decides about devices with consistent evidence. Every policy refuses keys that do not
// match their certificate, keys that may exist outside a TPM, and keys with a private half that
// anyone can compute. In the zero value, every Action is Refuse, no software TPM is accepted, and
// there are no rules.
type Policy struct {
	ExpiredEK     Action // the EK certificate's notAfter has passed
	NoCertificate Action // the TPM has no EK certificate; Accept has the effect of Ask
	UnknownMaker  Action // there is no chain to a trusted root; Accept has the effect of Ask
	Unlisted      Action // the owner has an EK list, and the EK is not on that list
	UnlistedByHub Action // the hub has an EK list, and the EK is not on that list
	// Software lists the models or makers of the software TPMs to accept ("swtpm", "GOOG"). Upper
	// and lower case are equal.
	Software []string
	// EKKinds has the lists of the hub's policy and of the owner's policy. Each list must allow the
	// EK's kind.
	EKKinds []EKKinds
	// Layers has the hub's rules and the owner's rules. In each layer, the first matching rule
	// decides, and a layer without a matching rule accepts the device. If the layers decide
	// differently, the strictest decision applies.
	Layers []Layer
}

// DefaultPolicy returns the default settings, each of which applies if neither the hub's policy nor
// the owner's policy has the setting.
func DefaultPolicy() Policy {
	return Policy{ExpiredEK: Accept, NoCertificate: Ask, UnknownMaker: Ask, Unlisted: Refuse, UnlistedByHub: Refuse}
}

// Layer has the rules of one policy, and the policy's name for a person: "the hub's policy".
type Layer struct {
	Name  string
	Rules []Rule
}

// Rule matches a TPM if all its conditions match. An empty condition matches every TPM.
type Rule struct {
	Maker         string // the maker in the EK certificate, such as "IFX"; "none" matches a certificate without a maker; case is ignored
	Model         string // a pattern for path.Match; case is ignored
	FirmwareBelow Firmware
	Then          Action
	Reason        string // a sentence for a person; may be empty
}

// Firmware is a TPM's firmware version, as four 16-bit numbers: TPM_PT_FIRMWARE_VERSION_1 and then
// TPM_PT_FIRMWARE_VERSION_2.
type Firmware uint64

func (v Firmware) String() string {
	b := make([]byte, 0, len("65535.65535.65535.65535"))
	for shift := 48; shift >= 0; shift -= 16 {
		b = strconv.AppendUint(b, uint64(v)>>shift&0xFFFF, 10)
		if shift > 0 {
			b = append(b, '.')
		}
	}
	return string(b)
}

// Listing is the result of looking up a request's EK in the hub's EK list and in the owner's EK
// list.
type Listing struct {
	Kept bool // at least one EK list exists
	// ByKey is true if the owner's EK list has the hash of the EK. Such an entry also approves an
	// EK without a trusted certificate. ByHub is true if the hub's EK list has the hash. BySerial
	// is true if one of the two lists has the serial number of the EK certificate, but not the
	// hash. A serial number counts only if the EK certificate chains to a trusted root.
	ByKey, ByHub, BySerial bool
	// OffHub is true if the hub has an EK list, and this list has neither the hash nor the serial
	// number. HubBySerial is true if the hub's EK list has the serial number, but not the hash.
	OffHub, HubBySerial bool
	Note                string // the list's note about the EK
	// CertificateRequired is true if a list requires that the TPM's EK certificate chains to a
	// trusted root.
	CertificateRequired bool
}

// Approval records that a person accepted an EK as the key of one of their TPMs.
type Approval struct {
	By    string // account nick
	At    time.Time
	Codes []string // codes of the questions that the person answered
}

// softwareMakers are the makers of software TPMs: emulators, and the virtual TPMs of hypervisors.
var softwareMakers = map[string]string{
	"id:00001014": "IBM's or libtpms' emulator",
	"IBM":         "IBM's or libtpms' emulator",
	"MSFT":        "Microsoft's virtual TPM",
	"XCG":         "Microsoft's simulator",
	"VMW":         "VMware's virtual TPM",
	"GOOG":        "Google's virtual TPM",
	"AMZN":        "Amazon's virtual TPM",
	"QEMU":        "QEMU's virtual TPM",
	"FAKE":        "Gangway's emulation for load tests",
}

// SoftwareMakers returns the ids of the known makers of software TPMs, sorted.
func SoftwareMakers() []string { return slices.Sorted(maps.Keys(softwareMakers)) }

// IsSoftwareTPM reports whether `name` is a known maker of software TPMs, or swtpm's model.
func IsSoftwareTPM(name string) bool {
	return strings.EqualFold(name, "swtpm") || slices.ContainsFunc(SoftwareMakers(), func(m string) bool { return strings.EqualFold(m, name) })
}

// software returns the kind of software TPM that the certificate names, in words for a person, and
// the names by which a policy may allow this TPM. The result `kind` is empty if the certificate
// does not name a software TPM.
func software(e *tcg.EKCertificate) (kind string, names []string) {
	if e == nil {
		return "", nil
	}
	if strings.Contains(strings.ToLower(e.Model), "swtpm") {
		return "the emulator swtpm", []string{"swtpm", e.Manufacturer}
	}
	if kind := softwareMakers[e.Manufacturer]; kind != "" {
		return kind, []string{e.Model, e.Manufacturer}
	}
	return "", nil
}

const hintPolicy = "To accept the TPM, change your policy ('gangway policy show' prints it), or ask the hub's operator to change the hub's policy."

// checkHardware checks the kind of TPM, hardware or software, and the kind of its EK.
func checkHardware(v *Verdict, r *Request, in *Input) (string, *Refusal) {
	made, refusal := checkSoftware(r, in)
	if refusal != nil {
		return "", refusal
	}
	kind, refusal := checkKind(v, r, in)
	if refusal == nil && r.EKCertificate == nil {
		refusal = notExamined // an allowed kind of EK does not prove a hardware TPM
	}
	return made + " " + kind, refusal
}

func checkSoftware(r *Request, in *Input) (string, *Refusal) {
	kind, names := software(r.EKCertificate)
	if kind == "" {
		if r.EKCertificate == nil {
			return "Without an EK certificate, nothing shows whether this is a hardware or a software TPM.", nil
		}
		return "The EK certificate does not name a software TPM.", nil
	}
	for _, name := range names {
		for _, allowed := range in.Policy.Software {
			if name != "" && strings.EqualFold(name, allowed) {
				return "This is a software TPM (" + kind + "), and the policy allows " + strconv.Quote(allowed) + " by name.", nil
			}
		}
	}
	return "", refuse("tpm-software", fmt.Sprintf("This is a software TPM (%s), not a hardware TPM.", kind),
		fmt.Sprintf("To accept the TPM, add %q to the policy's software_tpms.", names[0]))
}

func checkList(v *Verdict, r *Request, in *Input) (string, *Refusal) {
	note := ""
	if in.Listing.Note != "" {
		note = fmt.Sprintf(" (%s)", tcg.Printable(in.Listing.Note))
	}
	// A listed serial number counts only if the EK certificate chains to a trusted root, because
	// anyone can make an untrusted certificate with that number.
	l, trusted := in.Listing, v.trusted(r)
	unlisted := !l.ByKey && !l.ByHub && !l.BySerial || l.BySerial && !trusted
	switch {
	case !l.Kept:
		return "Neither the hub nor the owner has an EK list.", notExamined
	case l.CertificateRequired && !trusted:
		return "", refuse(CodeCertificateRequired, "The EK list requires an EK certificate for this TPM"+note+", but the request has no EK certificate that chains to a trusted root.",
			"Find out why the certificate is missing. To accept the machine without a certificate, change the machine's line in the EK list with 'gangway policy ek-list'.")
	case !unlisted && (l.ByKey || l.ByHub):
		return "The EK is on the EK list" + note + ".", nil
	case !unlisted:
		return "The EK certificate's serial number is on the EK list" + note + ".", nil
	}
	action := in.Policy.Unlisted
	if l.OffHub || l.HubBySerial && !trusted {
		action = in.Policy.UnlistedByHub
	}
	return "The EK is not on the EK list, and the policy accepts that.", action.on(refuse("ek-unlisted", "The EK is not on the EK list, the list of expected TPMs.",
		"If the device is yours, add its EK with 'gangway policy ek-list'. Only the hub's operator can change the hub's list."))
}

// trusted reports whether the request has an EK certificate that chains to a trusted root.
func (v *Verdict) trusted(r *Request) bool { return r.EKCertificate != nil && v.Passed("ek-chain") }

func checkRules(v *Verdict, r *Request, in *Input) (string, *Refusal) {
	var words []string
	strictest := Accept
	var refusal *Refusal
	for _, rule := range in.Policy.rulesOf(v, r) {
		then, why := rule.Then, rule.words()
		if rule.FirmwareBelow != 0 && r.KeysOnly() {
			then, why = Ask, why+", but the firmware version is known only after the second step"
		}
		if then == Accept {
			words = append(words, "By "+rule.layer+", "+why+".")
			continue
		}
		if then < strictest {
			strictest = then
			refusal = then.on(refuse("policy", fmt.Sprintf("By %s, %s.", rule.layer, why), hintPolicy))
		}
	}
	if refusal != nil {
		return "", refusal
	}
	if len(in.Policy.Layers) == 0 {
		return "No policy has rules.", notExamined
	}
	if len(words) == 0 {
		if r.EKCertificate == nil && slices.ContainsFunc(in.Policy.Layers, Layer.namesTPMs) {
			return "No rule matches, but rules about makers or models could not be checked: without an EK certificate, the TPM's maker and model are not known.", notExamined
		}
		return "No rule of the policy matches.", nil
	}
	return strings.Join(words, " "), nil
}

// namesTPMs reports whether a rule has a condition on the maker or the model.
func (l Layer) namesTPMs() bool {
	return slices.ContainsFunc(l.Rules, func(r Rule) bool {
		return r.Model != "" || r.Maker != "" && !strings.EqualFold(r.Maker, NoMaker)
	})
}

// decidingRule is a rule that decides about a request, with the name of the rule's layer.
type decidingRule struct {
	*Rule
	layer string
}

// rulesOf returns the rules that decide about a request. In each layer (the rules of the hub's
// policy, or of the owner's), the first rule that matches the maker and model in the EK certificate
// decides. If the certificate does not chain to a trusted root, the first rule that matches a TPM
// without a certificate decides too, so that a device cannot bypass this rule by sending a forged
// certificate.
func (p *Policy) rulesOf(v *Verdict, r *Request) (rules []decidingRule) {
	for _, layer := range p.Layers {
		rule := layer.first(r, r.Maker(), r.Model())
		if rule != nil {
			rules = append(rules, decidingRule{rule, layer.Name})
		}
		if v.trusted(r) {
			continue
		}
		if bare := layer.first(r, "", ""); bare != nil && bare != rule {
			rules = append(rules, decidingRule{bare, layer.Name})
		}
	}
	return rules
}

// first returns the first rule that matches a TPM of this maker and model, or nil if no rule
// matches.
func (l *Layer) first(r *Request, maker, model string) *Rule {
	for i := range l.Rules {
		if l.Rules[i].matches(r, maker, model) {
			return &l.Rules[i]
		}
	}
	return nil
}

func (rule *Rule) matches(r *Request, maker, model string) bool {
	if maker == "" {
		maker = NoMaker
	}
	if rule.Maker != "" && !strings.EqualFold(rule.Maker, maker) {
		return false
	}
	if rule.Model != "" {
		if ok, err := path.Match(strings.ToLower(rule.Model), strings.ToLower(model)); err != nil || !ok {
			return false
		}
	}
	// In the first step of a two-step enrolment, the firmware version is not known. A rule with a
	// FirmwareBelow condition then counts as a match, and checkRules turns its refusal into a
	// question for a person.
	return rule.FirmwareBelow == 0 || r.KeysOnly() || Firmware(r.Certify.FirmwareVersion) < rule.FirmwareBelow
}

// words describes a rule in words for the middle of a sentence: the TPMs that it matches, and its
// action.
func (rule *Rule) words() string {
	about := "all TPMs"
	switch named := !strings.EqualFold(rule.Maker, NoMaker); {
	case rule.Maker != "" && rule.Model != "" && named:
		about = fmt.Sprintf("TPMs of maker %s, model %s", rule.Maker, rule.Model)
	case rule.Model != "" && !named:
		about = fmt.Sprintf("TPMs of model %s without a named maker", rule.Model)
	case rule.Model != "":
		about = "TPMs of model " + rule.Model
	case !named:
		about = "TPMs without a named maker"
	case rule.Maker != "":
		about = "TPMs of maker " + rule.Maker
	}
	if rule.FirmwareBelow != 0 {
		about += fmt.Sprintf(" with firmware below %v", rule.FirmwareBelow)
	}
	s := about + " are refused"
	switch rule.Then {
	case Ask:
		s = about + " must be approved by a person"
	case Accept:
		s = about + " are accepted"
	}
	if rule.Reason != "" {
		s += " (reason: " + strings.TrimRight(rule.Reason, ". ") + ")"
	}
	return s
}

// Words describes the rule in a sentence.
func (rule *Rule) Words() string { return upperFirst(rule.words()) + "." }

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// on applies the action to the refusal `r`. It returns the refusal for Refuse, the refusal as a
// question for Ask, and nil for Accept.
func (a Action) on(r *Refusal) *Refusal {
	switch a {
	case Accept:
		return nil
	case Ask:
		r.Ask = true
	}
	return r
}

// Approve removes the questions that an approval answers, and records the approval if no question
// is left. Questions that the approval does not answer stay open.
func (v *Verdict) Approve(a Approval) {
	v.Questions = slices.DeleteFunc(v.Questions, func(q *Refusal) bool { return slices.Contains(a.Codes, q.Code) })
	if len(v.Questions) == 0 {
		v.Pass("approval", fmt.Sprintf("%s approved this EK on %s.", a.By, a.At.UTC().Format(time.DateOnly)))
	}
}
