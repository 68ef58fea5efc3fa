package chain

import (
	"strings"

	"gangway/hub/clone"
	"gangway/hub/evidence"
	"gangway/hub/store"
	"gangway/tcg"
)

var titles = map[string]string{
	Maker: "Maker's root", EK: "EK", AIK: "AIK", IDevID: "IDevID", Connection: "This connection",
}

// exact says what each link proves, in the terms of the TCG. These texts are for experts (the field
// Link.Exact).
var exact = map[string]string{
	Maker:      "The EK certificate chains to a TPM maker's root in this hub's trust store.",
	EK:         "The request's EK is the key of the EK certificate and was made from a TCG template. Only the TPM that has this EK can open the credential that the hub encrypts to it.",
	AIK:        "The AIK is a restricted signing key, fixed to its TPM. The TPM opened the credential that the hub had encrypted to both the EK and the AIK, so both keys are in one TPM.",
	IDevID:     "The AIK certified (TPM2_Certify) that the IDevID key is a signing key, fixed to the same TPM, and a primary key of the endorsement hierarchy. The IDevID key signed the request.",
	Connection: "The device proved on a TLS connection that it has the IDevID key. A TPM quote on such a connection reports the boot.",
}

// describe sets the texts of a link.
func (r *reader) describe(l *Link) {
	l.Title, l.Exact = titles[l.Name], exact[l.Name]
	switch l.Name {
	case Maker:
		l.Sentence = r.makerWords(l.State)
	case EK:
		l.Sentence = r.ekWords(l.State)
	case AIK:
		l.Sentence = r.keyWords(l.State, "The key that signs this chip's statements about itself is in the same chip. The hub tested this before it trusted the key.")
	case IDevID:
		l.Sentence = r.keyWords(l.State, "The key that identifies this device to the hub was made inside the same chip and cannot leave the chip.")
	case Connection:
		l.Sentence = r.connectionWords(l.State)
	}
	switch {
	case r.software():
		l.Sentence = strings.ReplaceAll(l.Sentence, " chip", " software TPM")
	case len(r.f.Enrolment.EKCertificate) == 0: // nothing shows whether the TPM is a chip
		l.Sentence = strings.NewReplacer(" chip maker", " TPM maker", " chip", " TPM").Replace(l.Sentence)
	}
}

// software reports whether the EK certificate describes a software TPM.
func (r *reader) software() bool {
	e := r.f.Enrolment
	return evidence.IsSoftwareTPM(e.Manufacturer) || strings.Contains(strings.ToLower(e.Model), "swtpm")
}

func (r *reader) makerWords(s State) string {
	switch s {
	case Verified:
		name := "a TPM maker"
		if r.f.Root != nil {
			name = rootName(r)
		}
		if r.software() {
			return "A certificate authority that this hub trusts vouches for this TPM: " + name + ". This TPM is a program, not hardware. Your policy names it as allowed."
		}
		return "A chip maker that this hub trusts vouches for this chip: " + name + "."
	case Decided:
		return "No chip maker that this hub trusts vouches for this chip. " + r.decision()
	case Waiting:
		return "No chip maker that this hub trusts vouches for this chip. You must decide."
	case Refused:
		if r.f.Verdict.Passed("ek-chain") {
			return "A chip maker vouched for this chip when the device enrolled, but this hub no longer trusts that maker's root."
		}
		return "No chip maker that this hub trusts vouches for this chip."
	}
	return "The device sent no certificate from its chip maker, so the hub could not verify who made the chip."
}

// rootName returns the name of the maker's root CA, for display.
func rootName(r *reader) string {
	s := r.f.Root.Subject
	for _, name := range append([]string{s.CommonName}, s.Organization...) {
		if name = tcg.Printable(name); name != "" {
			return name
		}
	}
	return tcg.Printable(s.String())
}

func (r *reader) ekWords(s State) string {
	switch s {
	case Verified:
		return "This is the chip that the certificate describes: it opened a message that only that chip can open."
	case Decided:
		if r.f.Enrolment.EKCertificate == nil {
			return "The chip has no certificate from its maker. " + r.decision()
		}
		return "A check of the chip or of its certificate left a question open. " + r.decision()
	case Waiting:
		return "A check of the chip left a question open. You must decide."
	case Refused:
		return "The hub refused this chip."
	}
	if !r.activated() && !r.twoSteps() {
		return "No chip has proved yet that it has this endorsement key."
	}
	return "The hub did not examine whether a certificate describes this chip."
}

func (r *reader) keyWords(s State, verified string) string {
	switch s {
	case Verified:
		return verified
	case NotExamined:
		return "The hub did not examine whether this key is in the chip, or the device has not proved it yet."
	case Refused:
		return "The hub refused this key."
	}
	return "A check of this key left a question open. " + r.decision()
}

func (r *reader) connectionWords(s State) string {
	d := r.f.Device
	switch s {
	case Verified:
		return "The device proved on its own connection that it has this key. No other machine has the key." + lastSeen(d)
	case Decided:
		return "The device proved its key. The hub found a sign of a copied machine, but " + r.f.CloneBy + " decided that it is one machine." + lastSeen(d)
	case NotExamined:
		return "The hub has not recorded a connection on which the device proved this key." + lastSeen(d)
	}
	words := "The device proved its key, but "
	switch {
	case d.Clone == store.CloneRefused || r.f.CloneDecision == clone.TwoMachines:
		return "Several machines run with this chip's state, so the hub refuses all of them." + lastSeen(d)
	case r.f.Clone != "":
		words += "several machines may have the key: you must decide."
	case r.f.BootState == store.BootChanged:
		words += "its newest boot has changed."
	case r.f.BootState == store.BootRefused:
		words += "the hub refused its newest boot measurement."
	default:
		words += "your policy requires a boot measurement, and the hub has no measurement of this device."
	}
	if s == Refused {
		words += " The hub refuses its requests."
	}
	return words + lastSeen(d)
}
