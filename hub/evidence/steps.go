package evidence

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"gangway/tcg"
	"gangway/wire"
)

// Ownership has the extensions of a two-step CSR that name the device's owner. This package does
// not verify them: package onboard verifies the ownership proof.
type Ownership struct {
	Owner   string // prn
	TokenID string
	Device  string // prn; may be empty
	Proof   []byte // ownership proof: wire.OwnershipMAC, or Ed25519 over wire.OwnershipMessage
	Name    string // the text that the MAC covers: the IDevID key's TPM name
}

// ParseKeys parses the first step of a two-step enrolment: the EK, the EK certificate and the AK.
// Neither the EK nor the AK signs anything in the first step. Errors have the type *Refusal.
func ParseKeys(in *wire.EnrollRequest) (*Request, error) {
	name, err := hex.DecodeString(strings.TrimSpace(in.AKName))
	if err != nil || len(name) < 34 || len(name) > 66 {
		return nil, refuse("ak-name-malformed", "ak-name is not a TPM name in hexadecimal.", hintSteps)
	}
	r, err := parseTPMKeys(&in.TPMKeys, name)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(r.IAKName, name) {
		return nil, errAKName
	}
	r.keysOnly = true
	return r, nil
}

var errAKName = refuse("ak-name", "The request's AK name is not the TPM name of its AK.", hintTPM)

const (
	hintSteps = "See docs/protocol.md#9-pantacors-two-steps for the form of each field."
	maxCSR    = 16 << 10
)

// identityChecks are the names of the checks that need the IDevID key. They do not run in the first
// step, which has no IDevID key. All other checks run in both steps.
var identityChecks = []string{"idevid", "certify", "signature"}

// KeysOnly reports whether the request is the first step of a two-step enrolment. The first step
// contains an EK and an AK, but no signature by either key.
func (r *Request) KeysOnly() bool { return r.keysOnly }

// VerifyKeys judges a Request from ParseKeys. It runs the checks of Verify except those that need
// the IDevID key. A rule about the TPM's firmware version leads to a question for a person, because
// only an attestation shows the firmware version. No check proves that the EK and the AK are in the
// same TPM; see package wire.
func VerifyKeys(v *Verdict, r *Request, in *Input) { Verify(v, r, in) }

// parseTPMKeys parses the keys that both steps have. If the device sent the AK as PEM, parseTPMKeys
// uses the template that gives the AK the TPM name `akName`, or the first template if `akName` is
// nil.
func parseTPMKeys(in *wire.TPMKeys, akName []byte) (*Request, error) {
	r := new(Request)
	ek, err := readPublic(in.EKPub, tcg.EKTemplates, nil)
	if err != nil {
		return nil, malformed("ek-malformed", "ek-pub cannot be read", err)
	}
	var certificate []byte
	if strings.TrimSpace(in.EKCert) != "" {
		if certificate, err = readCertificate(in.EKCert); err != nil {
			return nil, malformed("ek-certificate-malformed", "ek-cert cannot be read", err)
		}
	}
	if len(in.EKChain) > wire.MaxIntermediates {
		return nil, refuse("ek-chain-malformed", fmt.Sprintf("ek-chain has more than %d certificates.", wire.MaxIntermediates), hintSteps)
	}
	for i, text := range in.EKChain {
		link, err := readCertificate(text)
		if err != nil {
			return nil, refuse("ek-chain-malformed", fmt.Sprintf("Certificate %d of ek-chain cannot be read: %v.", i+1, err), hintSteps)
		}
		r.Chain = append(r.Chain, link)
	}
	if err := r.checkChain(refuse("ek-chain-malformed", "", hintChain)); err != nil {
		return nil, err
	}
	if err := r.parseEK(ek, certificate); err != nil {
		return nil, err
	}
	ak, err := readPublic(in.AKPub, tcg.IAKTemplates, akName)
	if err != nil {
		return nil, malformed("iak-malformed", "ak-pub cannot be read", err)
	}
	return r, r.parseIAK(ak)
}

func readCertificate(text string) ([]byte, error) {
	b, err := wire.DecodeBinary(text)
	if err != nil {
		return nil, err
	}
	if der, kind, rest, ok := wire.DecodePEM(b); ok {
		return der, checkPEM("CERTIFICATE", kind, rest)
	}
	return b, nil
}

// checkPEM returns an error if the PEM block has a type other than `want`, or if data follows the
// block.
func checkPEM(want, kind string, rest []byte) error {
	if kind != want {
		return fmt.Errorf("the value is a PEM block of type %q; type %s is required", tcg.Printable(kind), want)
	}
	if len(rest) > 0 {
		return errors.New("there is data after the first PEM block")
	}
	return nil
}

// readPublic returns a public area as TPMT_PUBLIC. A device may send it as TPM2B_PUBLIC, as
// TPMT_PUBLIC, or as a key in PEM. A PEM block has only the key, so a template supplies the rest of
// the public area: the template that results in the TPM name `name` or, if `name` is nil, the first
// template for keys of this type and size.
func readPublic(text string, templates []tcg.Template, name []byte) ([]byte, error) {
	b, err := wire.DecodeBinary(text)
	if err != nil {
		return nil, err
	}
	der, kind, rest, isPEM := wire.DecodePEM(b)
	if !isPEM {
		// A TPM2B_PUBLIC begins with the size of the remaining bytes. A TPMT_PUBLIC begins with its
		// type, which never equals the size of the remaining bytes.
		if len(b) > 2 && int(b[0])<<8|int(b[1]) == len(b)-2 {
			b = b[2:]
		}
		return b, nil
	}
	if err := checkPEM("PUBLIC KEY", kind, rest); err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	may := tcg.FromKey(templates, key)
	for _, p := range may {
		if n, err := p.Name(); name == nil || err == nil && bytes.Equal(n, name) {
			return p.Raw, nil
		}
	}
	if len(may) > 0 {
		return may[0].Raw, nil // no candidate has this name: the caller compares the names and refuses the request
	}
	return nil, fmt.Errorf("no TCG template makes a key of this kind; send its TPM2B_PUBLIC")
}

// ParseRegistration parses the second step of a two-step enrolment. It checks that the CSR's key is
// the IDevID key, and that all names match. It checks no signature. The Request aliases `in`.
// Errors have the type *Refusal.
func ParseRegistration(in *wire.Registration) (*Request, error) {
	if len(in.CSR) == 0 || len(in.CSR) > maxCSR {
		return nil, refuse("csr-malformed", fmt.Sprintf("csr is not a PKCS #10 request: the field must be base64, and its content must be DER of at most %d bytes.", maxCSR), hintSteps)
	}
	csr, err := x509.ParseCertificateRequest(in.CSR)
	if err != nil {
		return nil, malformed("csr-malformed", "csr is not a PKCS #10 request", err)
	}
	ext, refusal := extensions(csr)
	if refusal != nil {
		return nil, refusal
	}
	akName, err := hex.DecodeString(string(ext[wire.ExtAKName]))
	if err != nil {
		return nil, refuse("csr-extensions-malformed", "Extension .0 of the CSR is not the hexadecimal text of the AK's name.", hintSteps)
	}
	r, err := parseTPMKeys(&in.TPMKeys, akName)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(r.IAKName, akName) {
		return nil, errAKName
	}
	r.PKCS10 = csr
	public, err := idevidPublic(in.IDevIDPub, csr)
	if err != nil {
		return nil, malformed("idevid-malformed", "The CSR's key is not an IDevID key", err)
	}
	if err := r.parseIDevID(public); err != nil {
		return nil, err
	}
	if !r.IDevID.Is(csr.PublicKey) {
		return nil, refuse("idevid-mismatch", "The CSR's key is not the key in idevid-pub.", hintTPM)
	}
	// The ownership proof covers only the field `name`, so this field must be the TPM name of the
	// IDevID key.
	if in.Name != hex.EncodeToString(r.IDevIDName) {
		return nil, refuse("idevid-name", "\"name\" is not the TPM name of the CSR's key.", "Send the name in lower-case hexadecimal: the nameAlg, then the digest of the public area.")
	}
	if err := r.parseCertify(ext[wire.ExtCertify], ext[wire.ExtCertifySig]); err != nil {
		return nil, err
	}
	if ext[wire.ExtQuote] != nil || ext[wire.ExtQuoteSig] != nil {
		if r.quote, err = tcg.ParseQuote(ext[wire.ExtQuote]); err != nil {
			return nil, malformed("quote-malformed", "The quote cannot be read", err)
		}
		if r.quoteSignature, err = tcg.ParseSignature(ext[wire.ExtQuoteSig]); err != nil {
			return nil, malformed("quote-malformed", "The quote's signature cannot be read", err)
		}
	}
	r.Ownership = Ownership{Owner: string(ext[wire.ExtOwner]), TokenID: string(ext[wire.ExtToken]), Device: string(ext[wire.ExtDevice]), Proof: ext[wire.ExtOwnership], Name: in.Name}
	return r, nil
}

func idevidPublic(text string, csr *x509.CertificateRequest) ([]byte, error) {
	if text != "" {
		return readPublic(text, tcg.IDevIDTemplates, nil)
	}
	may := tcg.FromKey(tcg.IDevIDTemplates, csr.PublicKey)
	if len(may) == 0 {
		return nil, fmt.Errorf("no TCG template makes a key of this kind")
	}
	return may[0].Raw, nil
}

// extensions returns Pantacor's extensions of a CSR, by the last number of their OIDs. It removes
// one line break at the end of an extension that is text.
func extensions(csr *x509.CertificateRequest) (map[int][]byte, *Refusal) {
	out := make(map[int][]byte)
	for _, e := range csr.Extensions {
		last, known, ok := wire.ExtensionOf(e.Id)
		if !ok {
			continue // other extensions are ignored: the hub copies none of them into the certificate
		}
		if _, twice := out[last]; twice || !known {
			return nil, refuse("csr-extensions-malformed", fmt.Sprintf("Extension .%d of the CSR is unknown, or occurs twice.", last), hintSteps)
		}
		out[last] = e.Value
	}
	for _, last := range []int{wire.ExtAKName, wire.ExtOwner, wire.ExtOwnership, wire.ExtToken, wire.ExtCertify, wire.ExtCertifySig} {
		if len(out[last]) == 0 {
			return nil, refuse("csr-extensions-malformed", fmt.Sprintf("The CSR lacks extension .%d.", last), hintSteps)
		}
	}
	for _, last := range []int{wire.ExtAKName, wire.ExtOwner, wire.ExtToken, wire.ExtDevice} {
		if v, ok := bytes.CutSuffix(out[last], []byte("\n")); ok {
			out[last] = v
		}
	}
	return out, nil
}
