package evidence

import (
	"fmt"
	"slices"
	"strings"

	"gangway/tcg"
)

// EKKinds says of which templates of the EK profile a TPM's EK may be. A TPM has
// one EK of each, and nothing in it links two of them: with a single kind for
// each maker, a chip is one device. The algorithm is the certificate's word; that
// an EK is of the low or the high range is the device's, which nothing verifies.
type EKKinds struct {
	Name string // whose it is, in words: "the hub's policy"
	// Of lists templates ("L-1", "H-3") by a maker's or model's name in lower
	// case, as in the EK certificate; NoMaker is for EKs without a certificate,
	// AnyMaker for those that are not named.
	Of map[string][]string
}

// Names of Kinds.Of.
const (
	NoMaker  = "none"
	AnyMaker = "*"
)

// kinds finds the list for a TPM of one of the names, ok where there is one.
func (k *EKKinds) kinds(names []string) (list []string, ok bool) {
	for _, name := range append(names, AnyMaker) {
		if list, ok = k.Of[strings.ToLower(name)]; ok && name != "" {
			return list, true
		}
	}
	return nil, false
}

// chipKinds are the kinds that the PC Client Platform TPM Profile (4.5.2.1) has
// makers certify: RSA 2048 and 3072, P-256 and P-384, in either range.
var chipKinds = []string{"L-1", "L-2", "H-1", "H-2", "H-3", "H-6"}

// defaultKinds are the kinds of EK that makers are known to certify, where no
// policy says otherwise. An EK of another kind is not refused by itself.
var defaultKinds = map[string][]string{
	"amd": chipKinds, "ifx": chipKinds, "intc": chipKinds, "ntc": chipKinds, "ntz": chipKinds, "stm": chipKinds,
	"goog":  {"L-1", "L-2"},
	"swtpm": {"L-1", "H-3", "H-6"}, // swtpm_setup: RSA 2048, P-384; later RSA 3072
}

// checkKind is made after checkEKKey, so the EK is of a template. A certificate
// that leads to no trusted root must hold as what it says and as none.
func checkKind(v *Verdict, r *Request, in *Input) (string, *Refusal) {
	t := tcg.Match(tcg.EKTemplates, r.EK)
	names := []string{NoMaker}
	if e := r.EKCertificate; e != nil {
		_, software := software(e)
		names = append([]string{e.Model, e.Manufacturer}, software...)
		if e.Manufacturer == "" {
			names = append(names, NoMaker)
		}
	}
	as := [][]string{names}
	if !v.trusted(r) {
		as = append(as, []string{NoMaker})
	}
	said := false
	for i := range in.Policy.EKKinds {
		layer := &in.Policy.EKKinds[i]
		for _, names := range as {
			list, ok := layer.kinds(names)
			if !ok {
				continue
			}
			said = true
			if !slices.Contains(list, t.Name) {
				return "", refuse(CodeKind, fmt.Sprintf("By %s: an EK of this TPM must be of kind %s, and this one is of kind %s.", layer.Name, strings.Join(list, " or "), t.Name),
					"Onboard with an EK of such a kind ('gangway-agent onboard --ek'), or change the policy's ek_kinds.")
			}
		}
	}
	if r.EKCertificate == nil || said {
		return "The EK is of a kind that may bind (" + t.Name + ").", nil
	}
	usual := EKKinds{Of: defaultKinds}
	if list, ok := usual.kinds(names); ok && !slices.Contains(list, t.Name) {
		return "", Ask.on(refuse(CodeKind, fmt.Sprintf("The EK is of kind %s, of which no certificate by this maker is known (%s). The same TPM may be another device already, under another EK.", t.Name, strings.Join(list, ", ")),
			"If it is yours, approve it, or allow the kind in the policy's ek_kinds."))
	}
	return "The EK is of a kind that its maker certifies (" + t.Name + ").", nil
}
