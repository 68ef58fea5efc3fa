package evidence

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"gangway/tcg"
)

// Action is what a policy does with a device that a rule is about. The zero
// value refuses.
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

// Policy is what is to be done with devices whose evidence holds. It says
// nothing of what is never accepted: keys that do not fit their certificate,
// or that may exist outside a TPM, or whose private half anybody can compute.
// The zero value refuses all that a policy can refuse.
type Policy struct {
	ExpiredEK     Action // the EK certificate's notAfter has passed
	NoCertificate Action // the TPM has no EK certificate; Accept is as Ask
	UnknownMaker  Action // the chain ends at no trusted root; Accept is as Ask
	Unlisted      Action // there is an EK list of the owner's, and the EK is not on it
	UnlistedByHub Action // the same of the hub's list
	// Software names the TPMs that are no chip and let in all the same: by
	// model or maker, without regard to case ("swtpm", "GOOG").
	Software []string
	// EKKinds are the hub's and the owner's: an EK must be of a kind that each
	// of them allows.
	EKKinds []EKKinds
	// Layers are the hub's rules and the owner's. In each the first rule that
	// fits decides, and a layer without one that fits accepts; the strictest
	// layer wins.
	Layers []Layer
}

// DefaultPolicy is in force where nobody wrote another.
func DefaultPolicy() Policy {
	return Policy{ExpiredEK: Accept, NoCertificate: Ask, UnknownMaker: Ask, Unlisted: Refuse, UnlistedByHub: Refuse}
}

// Layer is a list of rules and whose they are, in words: "the hub's policy".
type Layer struct {
	Name  string
	Rules []Rule
}

// Rule fits a TPM when all its conditions do. Empty conditions always do.
type Rule struct {
	Maker         string // as in the EK certificate, "IFX"; "none" where it names none; without regard to case
	Model         string // pattern as of path.Match, without regard to case
	FirmwareBelow Firmware
	Then          Action
	Reason        string // a sentence for a person; may be empty
}

// Firmware is a TPM's firmware version, TPM_PT_FIRMWARE_VERSION_1 and _2: four
// numbers of 16 bits.
type Firmware uint64

func (v Firmware) String() string {
	return fmt.Sprintf("%d.%d.%d.%d", v>>48, v>>32&0xFFFF, v>>16&0xFFFF, v&0xFFFF)
}

// Listing is what the hub found on its EK lists for a request.
type Listing struct {
	Kept bool // there is a list at all
	// ByKey: the hash of the EK itself is on the owner's own list, which is the
	// owner's approval of an EK without a trusted certificate too. ByHub: it is
	// on the hub's. BySerial: its certificate's serial number is listed, which
	// is worth what the certificate is worth: a list has nothing else of it.
	ByKey, ByHub, BySerial bool
	// OffHub: the hub's list has neither. HubBySerial: it has the serial number
	// only.
	OffHub, HubBySerial bool
	Note                string // what the list says of it
	// CertificateRequired: a list demands an EK certificate that chains to a
	// trusted root.
	CertificateRequired bool
}

// Approval is a person's word that an EK is a TPM's of theirs.
type Approval struct {
	By    string // account nick
	At    time.Time
	Codes []string // of the questions that were open
}

// softwareMakers are the makers of TPMs that are programs: emulators, and the
// virtual TPMs of hypervisors.
var softwareMakers = map[string]string{
	"id:00001014": "IBM's or libtpms' emulator",
	"IBM":         "IBM's or libtpms' emulator",
	"MSFT":        "a virtual TPM of Microsoft's",
	"XCG":         "Microsoft's simulator",
	"VMW":         "a virtual TPM of VMware's",
	"GOOG":        "a virtual TPM of Google's",
	"AMZN":        "a virtual TPM of Amazon's",
	"QEMU":        "a virtual TPM of QEMU's",
	"FAKE":        "Gangway's emulation for load tests",
}

// SoftwareMakers are the makers of software TPMs that a policy may name, sorted.
func SoftwareMakers() []string { return slices.Sorted(maps.Keys(softwareMakers)) }

// IsSoftwareTPM reports whether a name is known to be of software TPMs: a maker's,
// or swtpm's model.
func IsSoftwareTPM(name string) bool {
	return strings.EqualFold(name, "swtpm") || slices.ContainsFunc(SoftwareMakers(), func(m string) bool { return strings.EqualFold(m, name) })
}

// software says what kind of program the TPM is by its certificate's word, and
// the names a policy may allow it by. Empty: a chip, as far as can be told.
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

const hintPolicy = "Who may decide it can change the policy; 'gangway policy show' prints what is in force."

// checkHardware is about what TPM it is: a chip or a program, and which of its
// endorsement keys.
func checkHardware(v *Verdict, r *Request, in *Input) (string, *Refusal) {
	made, refusal := checkSoftware(r, in)
	if refusal != nil {
		return "", refusal
	}
	kind, refusal := checkKind(v, r, in)
	if refusal == nil && r.EKCertificate == nil {
		refusal = notExamined // what is said of the kind does not make it a chip
	}
	return made + " " + kind, refusal
}

func checkSoftware(r *Request, in *Input) (string, *Refusal) {
	kind, names := software(r.EKCertificate)
	if kind == "" {
		if r.EKCertificate == nil {
			return "Without an EK certificate nothing says whether it is a chip or a program.", nil
		}
		return "The EK certificate names no emulator and no virtual TPM.", nil
	}
	for _, name := range names {
		for _, allowed := range in.Policy.Software {
			if name != "" && strings.EqualFold(name, allowed) {
				return fmt.Sprintf("The TPM is a program (%s), and the policy allows %q by name.", kind, allowed), nil
			}
		}
	}
	return "", refuse("tpm-software", fmt.Sprintf("The TPM is a program (%s), no chip.", kind),
		fmt.Sprintf("If it is to be let in, name %q in the policy's software_tpms.", names[0]))
}

func checkList(v *Verdict, r *Request, in *Input) (string, *Refusal) {
	note := ""
	if in.Listing.Note != "" {
		note = fmt.Sprintf(" (%s)", tcg.Printable(in.Listing.Note))
	}
	// A serial number says something only in a certificate that is known to be
	// its maker's.
	l, trusted := in.Listing, v.trusted(r)
	unlisted := !l.ByKey && !l.ByHub && !l.BySerial || l.BySerial && !trusted
	switch {
	case !l.Kept:
		return "There is no list of EKs to be on.", notExamined
	case l.CertificateRequired && !trusted:
		return "", refuse(CodeCertificateRequired, "The list of expected EKs demands an EK certificate for this TPM"+note+", and it came with none that leads to a trusted root.",
			"Find out why the certificate is missing. If this machine is to come without it, change its line with 'gangway policy ek-list'.")
	case !unlisted && (l.ByKey || l.ByHub):
		return "The EK is on the list of expected ones" + note + ".", nil
	case !unlisted:
		return "The EK certificate's serial number is on the list of expected ones" + note + ".", nil
	}
	action := in.Policy.Unlisted
	if l.OffHub || l.HubBySerial && !trusted {
		action = in.Policy.UnlistedByHub
	}
	return "The EK is not on the list of expected ones, and the policy accepts that.", action.on(refuse("ek-unlisted", "There is a list of expected EKs, and this one is not on it.",
		"If the device is yours, add its EK with 'gangway policy ek-list'. On the hub's own list only its operator can."))
}

// trusted reports whether the request has an EK certificate that leads to a
// trusted root.
func (v *Verdict) trusted(r *Request) bool { return r.EKCertificate != nil && v.Passed("ek-chain") }

func checkRules(v *Verdict, r *Request, in *Input) (string, *Refusal) {
	var words []string
	strictest := Accept
	var refusal *Refusal
	for _, rule := range in.Policy.rulesOf(v, r) {
		then, why := rule.Then, rule.words()
		if rule.FirmwareBelow != 0 && r.KeysOnly() {
			then, why = Ask, why+", which depends on the firmware; the second step attests it"
		}
		if then == Accept {
			words = append(words, fmt.Sprintf("By %s: %s.", rule.layer, why))
			continue
		}
		if then < strictest {
			strictest = then
			refusal = then.on(refuse("policy", fmt.Sprintf("By %s: %s.", rule.layer, why), hintPolicy))
		}
	}
	if refusal != nil {
		return "", refusal
	}
	if len(in.Policy.Layers) == 0 {
		return "No policy has a rule.", notExamined
	}
	if len(words) == 0 {
		if r.EKCertificate == nil && slices.ContainsFunc(in.Policy.Layers, Layer.namesTPMs) {
			return "No rule fits, but some are about makers or models, and without an EK certificate nothing says which this TPM's are.", notExamined
		}
		return "No rule of the policy is against it.", nil
	}
	return strings.Join(words, " "), nil
}

// namesTPMs reports whether a rule is about a maker or a model.
func (l Layer) namesTPMs() bool {
	return slices.ContainsFunc(l.Rules, func(r Rule) bool {
		return r.Model != "" || r.Maker != "" && !strings.EqualFold(r.Maker, NoMaker)
	})
}

// decisive is a rule that decides about a request, and its layer's name.
type decisive struct {
	*Rule
	layer string
}

// rulesOf returns the rules that decide: in each layer the first that fits the
// TPM as its certificate has it. Where that leads to no trusted root, the first
// that fits a TPM without a certificate decides, too.
func (p *Policy) rulesOf(v *Verdict, r *Request) (rules []decisive) {
	for _, layer := range p.Layers {
		rule := layer.first(r, r.Maker(), r.Model())
		if rule != nil {
			rules = append(rules, decisive{rule, layer.Name})
		}
		if v.trusted(r) {
			continue
		}
		if bare := layer.first(r, "", ""); bare != nil && bare != rule {
			rules = append(rules, decisive{bare, layer.Name})
		}
	}
	return rules
}

// first returns the rule that decides about a TPM of a maker and model, or nil.
func (l *Layer) first(r *Request, maker, model string) *Rule {
	for i := range l.Rules {
		if l.Rules[i].fits(r, maker, model) {
			return &l.Rules[i]
		}
	}
	return nil
}

func (rule *Rule) fits(r *Request, maker, model string) bool {
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
	// What the first of two steps does not tell may fit: see checkRules.
	return rule.FirmwareBelow == 0 || r.KeysOnly() || Firmware(r.Certify.FirmwareVersion) < rule.FirmwareBelow
}

// words says the rule in a clause: what it is about and what it does.
func (rule *Rule) words() string {
	about := "any TPM"
	if rule.Maker != "" || rule.Model != "" {
		about = "TPMs " + strings.TrimSpace(rule.Maker+" "+rule.Model)
	}
	if rule.FirmwareBelow != 0 {
		about += fmt.Sprintf(" with firmware below %v", rule.FirmwareBelow)
	}
	s := map[Action]string{Refuse: about + " refused", Ask: about + " to be approved by a person", Accept: about + " accepted"}[rule.Then]
	if rule.Reason != "" {
		s += ", because " + strings.TrimRight(rule.Reason, ". ")
	}
	return s
}

// on turns a refusal into what the action says: itself, a question, or
// nothing.
func (a Action) on(r *Refusal) *Refusal {
	switch a {
	case Accept:
		return nil
	case Ask:
		r.Ask = true
	}
	return r
}

// Approve clears the questions that approval answers, and records it. Those
// that it does not answer stay open: they arose since.
func (v *Verdict) Approve(a Approval) {
	v.Questions = slices.DeleteFunc(v.Questions, func(q *Refusal) bool { return slices.Contains(a.Codes, q.Code) })
	if len(v.Questions) == 0 {
		v.Pass("approval", fmt.Sprintf("%s approved this EK on %s.", a.By, a.At.UTC().Format(time.DateOnly)))
	}
}
