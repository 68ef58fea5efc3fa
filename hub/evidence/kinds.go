package evidence

import (
	"fmt"
	"slices"
	"strings"

	"gangway/tcg"
)

// EKKinds lists the kinds of EK that a policy allows. A kind is a template of the EK profile. A TPM
// has one EK for each template, and nothing in the TPM links these EKs, so one TPM could become
// several devices. If a policy allows only one kind for a maker, each TPM of this maker can be only
// one device. The EK certificate proves the key's algorithm, but nothing proves whether the
// template is in the low range (L) or the high range (H): only the device states this.
type EKKinds struct {
	Name string // name of the policy with this list, for a person: "the hub's policy"
	// Of has the allowed templates ("L-1", "H-3") of each maker or model. The key is the name of
	// the maker or model in the EK certificate, in lower case. The key NoMaker applies to EKs
	// without a certificate, and the key AnyMaker to all makers and models that are not listed.
	Of map[string][]string
}

// Keys of EKKinds.Of that are not the name of a maker or model.
const (
	NoMaker  = "none"
	AnyMaker = "*"
)

// kinds returns the allowed templates for the first of `names` that is a key of the map Of or, if
// none of them is, for the key AnyMaker. The result `ok` is false if the map has none of these
// keys.
func (k *EKKinds) kinds(names []string) (list []string, ok bool) {
	for _, name := range names {
		if list, ok = k.Of[strings.ToLower(name)]; ok && name != "" {
			return list, true
		}
	}
	list, ok = k.Of[AnyMaker]
	return list, ok
}

// pcClientKinds are the kinds that the PC Client Platform TPM Profile (4.5.2.1) requires makers to
// certify: RSA 2048 and 3072, P-256 and P-384, in either range.
var pcClientKinds = []string{"L-1", "L-2", "H-1", "H-2", "H-3", "H-6"}

// defaultKinds lists the kinds of EK that makers are known to certify. It applies if no policy
// lists kinds for the TPM. The hub does not refuse an EK of any other kind, but asks the owner.
var defaultKinds = map[string][]string{
	"amd": pcClientKinds, "ifx": pcClientKinds, "intc": pcClientKinds, "ntc": pcClientKinds, "ntz": pcClientKinds, "stm": pcClientKinds,
	"goog":  {"L-1", "L-2"},
	"swtpm": {"L-1", "H-3", "H-6"}, // swtpm_setup makes RSA 2048 and P-384; newer versions make RSA 3072
}

// checkKind checks that the policies allow the kind of the EK. It runs after checkEKKey, so the EK
// was made from a template. If the EK certificate does not chain to a trusted root, anyone can have
// made it, so each policy must then allow the EK's kind twice: for the names in the certificate,
// and for EKs without a certificate.
func checkKind(v *Verdict, r *Request, in *Input) (string, *Refusal) {
	t := tcg.Match(tcg.EKTemplates, r.EK)
	names := make([]string, 0, 5)
	if e := r.EKCertificate; e != nil {
		_, software := software(e)
		names = append(append(names, e.Model, e.Manufacturer), software...)
	}
	if r.Maker() == "" {
		names = append(names, NoMaker)
	}
	as := [][]string{names, {NoMaker}}
	if v.trusted(r) {
		as = as[:1]
	}
	listed := false
	for i := range in.Policy.EKKinds {
		layer := &in.Policy.EKKinds[i]
		for _, names := range as {
			list, ok := layer.kinds(names)
			if !ok {
				continue
			}
			listed = true
			if !slices.Contains(list, t.Name) {
				return "", refuse(CodeKind, fmt.Sprintf("The EK is of kind %s, but %s allows only kind %s for this TPM.", t.Name, layer.Name, strings.Join(list, " or ")),
					"Onboard with an EK of an allowed kind ('gangway-agent onboard --ek'), or change the policy's ek_kinds.")
			}
		}
	}
	if r.EKCertificate == nil || listed {
		return "The policy allows EKs of this kind (" + t.Name + ").", nil
	}
	usual := EKKinds{Of: defaultKinds}
	if list, ok := usual.kinds(names); ok && !slices.Contains(list, t.Name) {
		return "", Ask.on(refuse(CodeKind, fmt.Sprintf("The EK is of kind %s, but this maker is only known to certify %s. The same TPM may already be another device, with another EK.", t.Name, strings.Join(list, ", ")),
			"If the machine is yours, approve it, or allow this kind in the policy's ek_kinds."))
	}
	return "The EK is of a kind that its maker certifies (" + t.Name + ").", nil
}
