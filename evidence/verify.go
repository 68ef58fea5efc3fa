package evidence

import (
	"bytes"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gangway/tcg"
)

// Policy is what an operator may choose.
type Policy struct {
	// RefuseExpiredEK refuses EK certificates whose notAfter has passed.
	// Chips outlive their certificates, so the default is to note it.
	RefuseExpiredEK bool
}

// Step is one check and its result, in words for a person.
type Step struct {
	Check  string `json:"check"` // stable, e.g. "ek-chain"
	OK     bool   `json:"ok"`
	Detail string `json:"detail"` // a sentence
}

// Verdict is the outcome of Verify. Steps holds the checks in the order they
// were made, up to the first that failed.
type Verdict struct {
	Steps   []Step   `json:"steps"`
	Notes   []string `json:"notes,omitempty"` // what was tolerated
	Refusal *Refusal `json:"refusal,omitempty"`
}

// Accepted reports whether every check passed.
func (v *Verdict) Accepted() bool { return v.Refusal == nil }

// Pass records a check that held. Callers add theirs in front of Verify's.
func (v *Verdict) Pass(check, detail string) {
	v.Steps = append(v.Steps, Step{check, true, detail})
}

// Fail records the check that did not hold, and refuses.
func (v *Verdict) Fail(check string, r *Refusal) {
	v.Steps = append(v.Steps, Step{check, false, r.Reason})
	v.Refusal = r
}

// Verify judges a request at a time and adds its steps to v. Every check must
// hold; the first that does not is the refusal.
func Verify(v *Verdict, r *Request, trust *Trust, policy Policy, now time.Time) {
	v.Steps = slices.Grow(v.Steps, 8)
	for _, c := range [...]struct {
		name  string
		check func(*Verdict, *Request, *Trust, Policy, time.Time) (string, *Refusal)
	}{
		{"ek-certificate", checkEKCertificate},
		{"ek-chain", checkEKChain},
		{"ek-key", checkEKKey},
		{"iak", checkIAK},
		{"idevid", checkIDevID},
		{"certify", checkCertify},
		{"signature", checkSignature},
	} {
		detail, refusal := c.check(v, r, trust, policy, now)
		if refusal != nil {
			v.Fail(c.name, refusal)
			return
		}
		v.Pass(c.name, detail)
	}
}

func checkEKCertificate(v *Verdict, r *Request, _ *Trust, policy Policy, now time.Time) (string, *Refusal) {
	e := r.EKCertificate
	c := e.Certificate
	switch {
	case c.IsCA || c.KeyUsage&x509.KeyUsageCertSign != 0:
		return "", &Refusal{"ek-certificate-is-ca", "The certificate presented as the EK certificate is a CA's.", hintTPM}
	case len(c.UnhandledCriticalExtensions) > 0:
		return "", &Refusal{"ek-certificate-extension", fmt.Sprintf("The EK certificate has a critical extension that is not understood: %v.", c.UnhandledCriticalExtensions[0]), hintTPM}
	case !e.HasEKUsage() && (len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 || e.Manufacturer == ""):
		// Some makers leave the usage out; a certificate that then names a
		// TPM's maker in its SAN is still nothing but an EK certificate.
		return "", &Refusal{"ek-certificate-usage", "The certificate presented as the EK certificate is for another purpose.", hintTPM}
	case now.Before(c.NotBefore):
		return "", &Refusal{"ek-certificate-not-yet-valid", fmt.Sprintf("The EK certificate is valid only from %s.", c.NotBefore.Format(time.DateOnly)), "Check the hub's clock."}
	case now.After(c.NotAfter):
		if policy.RefuseExpiredEK {
			return "", &Refusal{"ek-certificate-expired", fmt.Sprintf("The EK certificate expired on %s and the policy refuses expired ones.", c.NotAfter.Format(time.DateOnly)), "Allow expired EK certificates in the policy if the chip is good."}
		}
		v.Notes = append(v.Notes, fmt.Sprintf("the EK certificate expired on %s", c.NotAfter.Format(time.DateOnly)))
	}
	v.Notes = append(v.Notes, e.Quirks...)
	return "EK certificate of " + tpmName(e) + ", serial " + c.SerialNumber.Text(16) + ".", nil
}

func tpmName(e *tcg.EKCertificate) string {
	var parts []string
	for _, s := range []string{e.Manufacturer, e.Model, e.Version} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if len(parts) == 0 {
		return "an unnamed maker"
	}
	return strings.Join(parts, " ")
}

func checkEKChain(_ *Verdict, r *Request, trust *Trust, _ Policy, now time.Time) (string, *Refusal) {
	issuer, err := trust.chain(r.EKCertificate, r.CAData.Chain, now)
	switch {
	case errors.Is(err, errExpired):
		return "", &Refusal{"ek-chain-expired", "A CA certificate between the EK certificate and its root is expired or not yet valid.", "Import the maker's newer intermediate with 'gangway trust import'."}
	case err != nil:
		return "", &Refusal{"ek-chain-untrusted", fmt.Sprintf("The EK certificate was issued by %q, which does not chain to a TPM maker that this hub trusts.", r.EKCertificate.Certificate.Issuer), hintTrust}
	}
	return issuer.words, nil
}

func checkEKKey(_ *Verdict, r *Request, _ *Trust, _ Policy, _ time.Time) (string, *Refusal) {
	if !r.EK.Is(r.EKCertificate.PublicKey) {
		return "", &Refusal{"ek-key-mismatch", "The EK presented is not the key of the EK certificate.", "Send the EK that the certificate is for: each TPM has its own."}
	}
	t := tcg.Match(tcg.EKTemplates, r.EK)
	if t == nil {
		return "", &Refusal{"ek-template", "The EK was not made from a template of the TCG EK Credential Profile.", hintTPM}
	}
	return "The EK is the certificate's key, of template " + t.Name + " (" + strings.TrimPrefix(r.EK.Algorithm(), "ECDSA ") + ").", nil
}

// required are the attributes without which a key may exist outside the TPM,
// or in another one.
var required = []struct {
	bit        tcg.Attributes
	code, lack string
}{
	{tcg.FixedTPM, "not-fixed-tpm", "is not fixedTPM: it could be moved to another TPM"},
	{tcg.FixedParent, "not-fixed-parent", "is not fixedParent: it could be moved to another parent"},
	{tcg.SensitiveDataOrigin, "not-tpm-made", "is not sensitiveDataOrigin: it was made outside the TPM"},
	{tcg.SignEncrypt, "not-signing", "is not a signing key"},
}

func checkKey(what, code string, p *tcg.Public, templates []tcg.Template, restricted bool) (string, *Refusal) {
	for _, a := range required {
		if !p.Attributes.Has(a.bit) {
			return "", &Refusal{code + "-" + a.code, fmt.Sprintf("The %s %s.", what, a.lack), hintTPM}
		}
	}
	switch {
	case p.Attributes.Has(tcg.Decrypt):
		return "", &Refusal{code + "-decrypts", fmt.Sprintf("The %s may also decrypt, which its template forbids.", what), hintTPM}
	case restricted && !p.Attributes.Has(tcg.Restricted):
		return "", &Refusal{code + "-not-restricted", fmt.Sprintf("The %s is not restricted: it would sign forged attestations.", what), hintTPM}
	case !restricted && p.Attributes.Has(tcg.Restricted):
		return "", &Refusal{code + "-restricted", fmt.Sprintf("The %s is restricted and cannot serve for TLS.", what), hintTPM}
	}
	if _, err := p.Key(); err != nil {
		return "", &Refusal{code + "-malformed", fmt.Sprintf("The %s is unusable: %v.", what, err), hintTPM}
	}
	t := tcg.Match(templates, p)
	if t == nil {
		return "", &Refusal{code + "-template", fmt.Sprintf("The %s was not made from a template of the TCG's (H-1 to H-4).", what), hintTPM}
	}
	return t.Name, nil
}

func checkIAK(_ *Verdict, r *Request, _ *Trust, _ Policy, _ time.Time) (string, *Refusal) {
	t, refusal := checkKey("IAK", "iak", r.IAK, tcg.IAKTemplates, true)
	if refusal != nil {
		return "", refusal
	}
	return "The IAK is a restricted signing key fixed to its TPM, of template " + t + " (" + r.IAK.Algorithm() + ").", nil
}

func checkIDevID(_ *Verdict, r *Request, _ *Trust, _ Policy, _ time.Time) (string, *Refusal) {
	t, refusal := checkKey("IDevID key", "idevid", r.IDevID, tcg.IDevIDTemplates, false)
	if refusal != nil {
		return "", refusal
	}
	return "The IDevID key is a signing key fixed to its TPM, of template " + t + " (" + r.IDevID.Algorithm() + ").", nil
}

func checkCertify(_ *Verdict, r *Request, _ *Trust, _ Policy, _ time.Time) (string, *Refusal) {
	a := r.Certify
	if subtle.ConstantTimeCompare(a.Name, r.IDevIDName) != 1 {
		return "", &Refusal{"certify-name", "The certification is of another key: the name in it is not the one computed from the IDevID key.", hintTPM}
	}
	if err := r.IAK.Verify(a.Raw, r.certifySignature); err != nil {
		return "", &Refusal{"certify-signature", "The certification of the IDevID key is not signed by the IAK.", hintTPM}
	}
	// Both are primary keys of the endorsement hierarchy, by the TPM's word:
	// they follow the chip, not its owner's storage.
	signer, err := tcg.EndorsementQualifiedName(r.IAKName)
	if err != nil || !bytes.Equal(a.QualifiedSigner, signer) {
		return "", &Refusal{"certify-hierarchy", "The IAK is not a primary key of the endorsement hierarchy.", hintTPM}
	}
	certified, err := tcg.EndorsementQualifiedName(r.IDevIDName)
	if err != nil || !bytes.Equal(a.QualifiedName, certified) {
		return "", &Refusal{"certify-hierarchy", "The IDevID key is not a primary key of the endorsement hierarchy.", hintTPM}
	}
	return "The IAK certifies that the IDevID key is in the same TPM.", nil
}

func checkSignature(_ *Verdict, r *Request, _ *Trust, _ Policy, _ time.Time) (string, *Refusal) {
	if err := r.IDevID.Verify(r.CSR.Contents, r.signature); err != nil {
		return "", &Refusal{"csr-signature", "The request is not signed by the IDevID key.", hintDamaged}
	}
	return "The request is signed by the IDevID key.", nil
}
