package evidence

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gangway/tcg"
)

// Check is one check and its result, in words for a person.
type Check struct {
	Check string `json:"check"` // stable, e.g. "ek-chain"
	OK    bool   `json:"ok"`
	Ask   bool   `json:"ask,omitempty"` // not OK, but a person may decide
	// Skipped is true if the check had nothing to examine. It then has neither passed nor failed,
	// and OK is false.
	Skipped bool   `json:"skipped,omitempty"`
	Detail  string `json:"detail"` // a sentence
}

// Verdict is the result of Verify. Checks has the checks in the order in which they ran. If there
// is a refusal, the last of them is the check that failed.
type Verdict struct {
	Checks  []Check  `json:"steps"`
	Notes   []string `json:"notes,omitempty"` // tolerated deviations, for a person
	Refusal *Refusal `json:"refusal,omitempty"`
	// Questions has the failed checks that a person may accept. The hub accepts the device only
	// after a person has accepted each of them.
	Questions []*Refusal `json:"questions,omitempty"`
}

// Accepted reports whether every check passed and no question is open.
func (v *Verdict) Accepted() bool { return v.Refusal == nil && len(v.Questions) == 0 }

// Pass records a check that passed. Callers use it to add their own checks to those of Verify.
func (v *Verdict) Pass(check, detail string) {
	v.Checks = append(v.Checks, Check{Check: check, OK: true, Detail: detail})
}

// Skip records a check that had nothing to examine, and why.
func (v *Verdict) Skip(check, detail string) {
	v.Checks = append(v.Checks, Check{Check: check, Skipped: true, Detail: detail})
}

// notExamined is the result of a check function that had nothing to examine. It is not a refusal:
// Verify records such a check with Skip.
var notExamined = new(Refusal)

// Fail records a check that failed, and adds r to v as the refusal or as a question.
func (v *Verdict) Fail(check string, r *Refusal) {
	v.Checks = append(v.Checks, Check{Check: check, Ask: r.Ask, Detail: r.Reason})
	if r.Ask {
		v.Questions = append(v.Questions, r)
		return
	}
	v.Refusal = r
}

// Input has the arguments of Verify besides the request. An Input caches the chain of one request,
// so do not use the same Input for two requests at the same time.
type Input struct {
	Trust   *Trust
	Policy  Policy
	Listing Listing
	Now     time.Time

	chained struct {
		request *Request
		trust   *Trust
		ca      *verifiedCA
		err     error
	}
}

// check is one check of Verify. Its function returns a sentence for a person if the check passes, a
// refusal if it fails, and a sentence and notExamined if there is nothing to examine.
type check struct {
	name  string
	check func(*Verdict, *Request, *Input) (string, *Refusal)
}

// checks lists the checks in the order in which they run. VerifyCertificate uses the first two,
// which need only the EK certificate.
var checks = [...]check{
	{"ek-certificate", checkEKCertificate},
	{"ek-chain", checkEKChain},
	{"ek-key", checkEKKey},
	{"iak", checkIAK},
	{"idevid", checkIDevID},
	{"certify", checkCertify},
	{"signature", checkSignature},
	{"hardware", checkHardware},
	{"ek-list", checkList},
	{"policy", checkRules},
}

// Verify judges a request and adds the checks to the verdict `v`. If a check fails and the policy
// leaves the decision to a person, the failed check becomes a question, and the remaining checks
// still run. Any other failed check is a refusal, after which no further check runs.
func Verify(v *Verdict, r *Request, in *Input) {
	v.Notes = append(v.Notes, r.ignored...)
	v.Checks = slices.Grow(v.Checks, len(checks)+2)
	verify(v, r, checks[:], in)
	// If the owner's EK list has the hash of an EK, the owner approves this EK even without a
	// trusted certificate. However, if the hub knows a certificate of the EK, it judges that
	// certificate.
	if v.Refusal == nil && in.Listing.ByKey {
		v.Questions = slices.DeleteFunc(v.Questions, func(q *Refusal) bool { return q.Code == CodeNoCertificate || q.Code == CodeUntrusted })
	}
}

func verify(v *Verdict, r *Request, checks []check, in *Input) {
	for _, c := range checks {
		if r.keysOnly && slices.Contains(identityChecks, c.name) {
			continue
		}
		detail, refusal := c.check(v, r, in)
		switch refusal {
		case nil:
			v.Pass(c.name, detail)
			continue
		case notExamined:
			v.Skip(c.name, detail)
			continue
		}
		if v.Fail(c.name, refusal); v.Refusal != nil {
			return
		}
	}
}

// Codes of questions for a person, and of refusals that may be temporary: these end when someone
// imports more CA certificates, or when a maker's revocation list is available again.
const (
	CodeNoCertificate       = "ek-certificate-none"
	CodeUntrusted           = "ek-chain-untrusted"
	CodeChainExpired        = "ek-chain-expired"
	CodeDistrusted          = "ek-chain-distrusted"
	CodeRevocationUnknown   = "ek-revocation-unknown"
	CodeCertificateRequired = "ek-certificate-required"
	CodeKind                = "ek-kind"
)

// Passed reports whether a check ran and passed.
func (v *Verdict) Passed(name string) bool {
	return slices.ContainsFunc(v.Checks, func(s Check) bool { return s.Check == name && s.OK })
}

// Failed reports whether a check ran and failed, even if a person has accepted the failure.
func (v *Verdict) Failed(name string) bool {
	return slices.ContainsFunc(v.Checks, func(s Check) bool { return s.Check == name && !s.OK && !s.Skipped })
}

// HasCode reports whether the verdict has a refusal or a question with the code.
func (v *Verdict) HasCode(code string) bool {
	return v.Refusal != nil && v.Refusal.Code == code || slices.ContainsFunc(v.Questions, func(q *Refusal) bool { return q.Code == code })
}

func checkEKCertificate(v *Verdict, r *Request, in *Input) (string, *Refusal) {
	e := r.EKCertificate
	if e == nil {
		return "", min(in.Policy.NoCertificate, Ask).on(refuse(CodeNoCertificate,
			"The request has no EK certificate, so the TPM's maker is not known."+r.omission()+" "+mayHide, hintApprove))
	}
	if refusal := checkIsEKCertificate(e); refusal != nil {
		return "", refusal
	}
	c, now := e.Certificate, in.Now
	switch {
	case now.Before(c.NotBefore):
		return "", refuse("ek-certificate-not-yet-valid", fmt.Sprintf("The EK certificate is valid only from %s.", c.NotBefore.Format(time.DateOnly)), "Check the hub's clock.")
	case now.After(c.NotAfter):
		if r := in.Policy.ExpiredEK.on(refuse("ek-certificate-expired", fmt.Sprintf("The EK certificate expired on %s, and the policy does not accept expired EK certificates.", c.NotAfter.Format(time.DateOnly)), "Many TPMs outlive their certificates. If the machine is yours, approve it, or change the policy's expired_ek_certificate.")); r != nil {
			return "", r
		}
		v.Notes = append(v.Notes, fmt.Sprintf("the EK certificate expired on %s", c.NotAfter.Format(time.DateOnly)))
	}
	v.Notes = append(v.Notes, e.Quirks...)
	return "EK certificate of " + tpmName(e) + ", serial " + c.SerialNumber.Text(16) + ".", nil
}

// mayHide warns the person who decides about an EK without a trusted certificate.
const mayHide = "The device may have left out the TPM's own certificate to hide one of these facts: the TPM is an emulator, this hub distrusts the TPM's maker, a rule refuses the TPM's firmware, the maker revoked the TPM, or the TPM is another owner's device."

// checkIsEKCertificate refuses a certificate that is not an EK certificate.
func checkIsEKCertificate(e *tcg.EKCertificate) *Refusal {
	c := e.Certificate
	switch {
	case c.IsCA || c.KeyUsage&x509.KeyUsageCertSign != 0:
		return refuse("ek-certificate-is-ca", "The certificate sent as the EK certificate is a CA certificate.", hintTPM)
	case len(c.UnhandledCriticalExtensions) > 0:
		return refuse("ek-certificate-extension", fmt.Sprintf("The EK certificate has a critical extension that the hub does not support: %v.", c.UnhandledCriticalExtensions[0]), hintTPM)
	case !e.HasEKUsage() && (len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 || e.Manufacturer == ""):
		// Some makers omit the extended key usage. If the SAN of a certificate without this usage
		// names a TPM's maker, the certificate can only be an EK certificate.
		return refuse("ek-certificate-usage", "The certificate sent as the EK certificate is not for an endorsement key.", hintTPM)
	}
	return nil
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

func checkEKChain(_ *Verdict, r *Request, in *Input) (string, *Refusal) {
	if r.EKCertificate == nil {
		return "There is no EK certificate to verify.", notExamined
	}
	issuer, err := in.chain(r)
	// Anyone can make an untrusted certificate, so the policy for a missing certificate also
	// applies.
	unknown := min(in.Policy.UnknownMaker, in.Policy.NoCertificate, Ask)
	var broken *constraintError
	switch {
	case errors.Is(err, errDistrusted):
		return "", refuse(CodeDistrusted, "The EK certificate chains to a CA that this hub's operator distrusts.", "Ask the hub's operator for the reason; 'gangway trust ls' lists the distrusted CAs.")
	case errors.Is(err, errExpired):
		return "", refuse(CodeChainExpired, "A CA certificate between the EK certificate and its root is expired or not yet valid.", "Import the maker's newer intermediate with 'gangway trust import'.")
	case errors.As(err, &broken):
		return "", unknown.on(refuse(CodeUntrusted, fmt.Sprintf("The EK certificate was issued by %q. A CA above this issuer does not allow that. %s %s", r.EKCertificate.Certificate.Issuer, broken.reason, mayHide), hintApprove))
	case err != nil:
		return "", unknown.on(refuse(CodeUntrusted, fmt.Sprintf("The EK certificate was issued by %q, which does not chain to a TPM maker that this hub trusts. Anyone can make such a certificate. %s", r.EKCertificate.Certificate.Issuer, mayHide), hintTrust))
	}
	return issuer.words, nil
}

func checkEKKey(_ *Verdict, r *Request, _ *Input) (string, *Refusal) {
	if r.EK == nil { // VerifyCertificate found no template that makes the key
		return "", refuse("ek-template", fmt.Sprintf("No template of the TCG EK Credential Profile makes a key like the EK certificate's (%s).", keyKind(r.EKCertificate.PublicKey)), hintTPM)
	}
	if r.EKCertificate != nil && !r.EK.IsCertified(r.EKCertificate) {
		return "", refuse("ek-key-mismatch", "The request's EK is not the key of the EK certificate: the certificate belongs to another TPM, or this TPM's endorsement seed has been changed since the certificate was issued.",
			"Send the EK of the certificate. If the seed was changed (TPM2_ChangeEPS), onboard with 'gangway-agent onboard --without-ek-certificate', and approve the machine.")
	}
	t := tcg.Match(tcg.EKTemplates, r.EK)
	if t == nil {
		return "", refuse("ek-template", "The EK was not made from a template of the TCG EK Credential Profile.", hintTPM)
	}
	if weak := checkStrength("EK", "ek", r.EK); weak != nil {
		return "", weak
	}
	whose := "the certificate's key"
	if r.EKCertificate == nil {
		whose = "a storage key"
	}
	return "The EK is " + whose + ", of template " + t.Name + " (" + strings.TrimPrefix(r.EK.Algorithm(), "ECDSA ") + ").", nil
}

// keyKind names the kind of a public key for a person.
func keyKind(key crypto.PublicKey) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA of %d bits, exponent %d", k.N.BitLen(), k.E)
	case *ecdsa.PublicKey:
		return "ECC " + k.Curve.Params().Name
	}
	return "of an unknown kind"
}

// required lists the attributes that a key must have. A key that lacks one of the first three may
// exist outside the TPM, or in another TPM.
var required = []struct {
	bit        tcg.Attributes
	code, lack string
}{
	{tcg.FixedTPM, "not-fixed-tpm", "is not fixedTPM: it could be moved to another TPM"},
	{tcg.FixedParent, "not-fixed-parent", "is not fixedParent: it could be moved to another parent"},
	{tcg.SensitiveDataOrigin, "not-tpm-made", "is not sensitiveDataOrigin: it was made outside the TPM"},
	{tcg.SignEncrypt, "not-signing", "is not a signing key"},
}

// checkStrength refuses a public area that does not contain a usable key, and an RSA key whose
// private half anyone can compute.
func checkStrength(what, code string, p *tcg.Public) *Refusal {
	key, err := p.Key()
	if err != nil {
		return refuse(code+"-malformed", fmt.Sprintf("The %s is unusable: %v.", what, err), hintTPM)
	}
	if k, ok := key.(*rsa.PublicKey); ok && isROCA(k.N) {
		return errROCA(what, code)
	}
	return nil
}

func errROCA(what, code string) *Refusal {
	return refuse(code+"-roca", fmt.Sprintf("The %s is an RSA key made by Infineon's faulty library: anyone can compute its private half from its public half (ROCA, CVE-2017-15361).", what),
		"Update the TPM's firmware and clear the TPM, or onboard with an ECC key of the TPM.")
}

func checkKey(what, code string, p *tcg.Public, templates []tcg.Template, restricted bool) (string, *Refusal) {
	for _, a := range required {
		if !p.Attributes.Has(a.bit) {
			return "", refuse(code+"-"+a.code, fmt.Sprintf("The %s %s.", what, a.lack), hintTPM)
		}
	}
	switch {
	case p.Attributes.Has(tcg.Decrypt):
		return "", refuse(code+"-decrypts", fmt.Sprintf("The %s has the attribute decrypt, which no TCG template for such a key has.", what), hintTPM)
	case restricted && !p.Attributes.Has(tcg.Restricted):
		return "", refuse(code+"-not-restricted", fmt.Sprintf("The %s is not restricted, so it could sign forged attestations.", what), hintTPM)
	case !restricted && p.Attributes.Has(tcg.Restricted):
		return "", refuse(code+"-restricted", fmt.Sprintf("The %s is restricted and cannot be used for TLS.", what), hintTPM)
	}
	if weak := checkStrength(what, code, p); weak != nil {
		return "", weak
	}
	t := tcg.Match(templates, p)
	if t == nil {
		return "", refuse(code+"-template", fmt.Sprintf("The %s was not made from a TCG template (H-1 to H-4).", what), hintTPM)
	}
	return t.Name, nil
}

func checkIAK(_ *Verdict, r *Request, _ *Input) (string, *Refusal) {
	t, refusal := checkKey("IAK", "iak", r.IAK, tcg.IAKTemplates, true)
	if refusal != nil {
		return "", refusal
	}
	return "The IAK is a restricted signing key fixed to its TPM, of template " + t + " (" + r.IAK.Algorithm() + ").", nil
}

func checkIDevID(_ *Verdict, r *Request, _ *Input) (string, *Refusal) {
	t, refusal := checkKey("IDevID key", "idevid", r.IDevID, tcg.IDevIDTemplates, false)
	if refusal != nil {
		return "", refusal
	}
	return "The IDevID key is a signing key fixed to its TPM, of template " + t + " (" + r.IDevID.Algorithm() + ").", nil
}

func checkCertify(_ *Verdict, r *Request, _ *Input) (string, *Refusal) {
	a := r.Certify
	if subtle.ConstantTimeCompare(a.Name, r.IDevIDName) != 1 {
		return "", refuse("certify-name", "The certification is for another key: it does not have the name that the hub computed from the IDevID key.", hintTPM)
	}
	if err := r.IAK.Verify(a.Raw, r.certifySignature); err != nil {
		return "", refuse("certify-signature", "The certification of the IDevID key is not signed by the IAK.", hintTPM)
	}
	// The TPM attests that both keys are primary keys of the endorsement hierarchy. They are
	// therefore derived from the TPM's endorsement seed, and not from the seed of the storage
	// hierarchy, which the TPM's owner controls.
	signer, err := tcg.EndorsementQualifiedName(r.IAKName)
	if err != nil || !bytes.Equal(a.QualifiedSigner, signer) {
		return "", refuse("certify-hierarchy", "The IAK is not a primary key of the endorsement hierarchy.", hintTPM)
	}
	certified, err := tcg.EndorsementQualifiedName(r.IDevIDName)
	if err != nil || !bytes.Equal(a.QualifiedName, certified) {
		return "", refuse("certify-hierarchy", "The IDevID key is not a primary key of the endorsement hierarchy.", hintTPM)
	}
	return "The IAK certifies that the IDevID key is in the same TPM.", nil
}

func checkSignature(_ *Verdict, r *Request, _ *Input) (string, *Refusal) {
	if r.PKCS10 != nil {
		// ParseRegistration has checked that the CSR's key is the IDevID key.
		if err := r.PKCS10.CheckSignature(); err != nil {
			return "", refuse("csr-signature", "The certificate signing request is not signed by the IDevID key.", hintDamaged)
		}
		if refusal := checkQuote(r); refusal != nil {
			return "", refusal
		}
		return "The request is signed by the IDevID key.", nil
	}
	if err := r.IDevID.Verify(r.CSR.Contents, r.signature); err != nil {
		return "", refuse("csr-signature", "The request is not signed by the IDevID key.", hintDamaged)
	}
	return "The request is signed by the IDevID key.", nil
}

// checkQuote checks that the IAK signed the quote, if the request has a quote. It does not judge
// the PCR values.
func checkQuote(r *Request) *Refusal {
	if r.quote == nil {
		return nil
	}
	signer, err := tcg.EndorsementQualifiedName(r.IAKName)
	if err != nil || !bytes.Equal(r.quote.QualifiedSigner, signer) {
		return refuse("quote-signature", "The quote names a signer that is not the IAK.", hintTPM)
	}
	if err := r.IAK.Verify(r.quote.Raw, r.quoteSignature); err != nil {
		return refuse("quote-signature", "The quote is not signed by the IAK.", hintTPM)
	}
	return nil
}
