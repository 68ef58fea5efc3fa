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

// Ownership is what a CSR's extensions say besides what the TPM says: whose the
// device is to be. None of it is proven by being there.
type Ownership struct {
	Owner   string // prn
	TokenID string
	Device  string // prn; may be empty
	Proof   []byte // ownership proof: join.OwnershipMAC, or Ed25519 over join.OwnershipMessage
	Name    string // what the MAC is over
}

// ParseKeys reads the first of Pantacor's two steps: the EK, its certificate
// and the AK, without anything that they signed. Its errors are of type
// *Refusal.
func ParseKeys(in *wire.EnrollRequest) (*Request, error) {
	name, err := hex.DecodeString(strings.TrimSpace(in.AKName))
	if err != nil || len(name) < 34 || len(name) > 66 {
		return nil, refuse("ak-name-malformed", "ak-name is not the hexadecimal text of a TPM name.", hintSteps)
	}
	r, err := parseShown(&in.TPMKeys, name)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(r.IAKName, name) {
		return nil, errAKName
	}
	r.keysOnly = true
	return r, nil
}

var errAKName = refuse("ak-name", "The AK's name is not the one that was shown: it was computed from another public area.", hintTPM)

const (
	hintSteps = "See docs/protocol.md#9-pantacors-two-steps for how each field is written."
	maxCSR    = 16 << 10
)

// identityChecks are those of Verify's that are about the IDevID key, which the
// first step does not show yet. Every other check is made in both steps.
var identityChecks = []string{"idevid", "certify", "signature"}

// KeysOnly reports whether the request is a first step: it shows an EK and an
// AK, and nothing that either has signed.
func (r *Request) KeysOnly() bool { return r.keysOnly }

// VerifyKeys is Verify for what ParseKeys read: the same table of checks,
// without those about the IDevID key. What only a TPM's attestation tells, its
// firmware, is a question where a rule depends on it. That EK and AK are in
// one TPM is not among the checks: see package wire.
func VerifyKeys(v *Verdict, r *Request, in *Input) { Verify(v, r, in) }

// parseShown reads the keys that both steps show. akName chooses among the
// templates that an AK shown as PEM may be of; nil: there is no choice.
func parseShown(in *wire.TPMKeys, akName []byte) (*Request, error) {
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
		return der, onlyPEM("CERTIFICATE", kind, rest)
	}
	return b, nil
}

// onlyPEM refuses PEM of another kind, and what would be ignored behind it.
func onlyPEM(want, kind string, rest []byte) error {
	if kind != want {
		return fmt.Errorf("it is PEM of a %q, %s was expected", tcg.Printable(kind), want)
	}
	if len(rest) > 0 {
		return errors.New("something follows the first PEM block")
	}
	return nil
}

// readPublic reads a public area that travels as TPM2B_PUBLIC, TPMT_PUBLIC, or
// as the key alone in PEM: then it is what a template makes of it, the first, or
// the one that gives the name.
func readPublic(text string, templates []tcg.Template, name []byte) ([]byte, error) {
	b, err := wire.DecodeBinary(text)
	if err != nil {
		return nil, err
	}
	der, kind, rest, isPEM := wire.DecodePEM(b)
	if !isPEM {
		// A TPMT_PUBLIC begins with its type, which no size is.
		if len(b) > 2 && int(b[0])<<8|int(b[1]) == len(b)-2 {
			b = b[2:]
		}
		return b, nil
	}
	if err := onlyPEM("PUBLIC KEY", kind, rest); err != nil {
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
		return may[0].Raw, nil // of another name: for who compares
	}
	return nil, fmt.Errorf("no template makes such a key; send its TPM2B_PUBLIC")
}

// ParseRegistration reads the second of Pantacor's two steps. It checks that
// the CSR's key is the IDevID key and that all names fit, and no signature. The
// Request aliases in. Its errors are of type *Refusal.
func ParseRegistration(in *wire.Registration) (*Request, error) {
	if len(in.CSR) == 0 || len(in.CSR) > maxCSR {
		return nil, refuse("csr-malformed", fmt.Sprintf("csr is not the base64 of a PKCS #10 in DER of at most %d bytes.", maxCSR), hintSteps)
	}
	csr, err := x509.ParseCertificateRequest(in.CSR)
	if err != nil {
		return nil, malformed("csr-malformed", "csr is no PKCS #10", err)
	}
	ext, refusal := extensions(csr)
	if refusal != nil {
		return nil, refusal
	}
	akName, err := hex.DecodeString(string(ext[wire.ExtAKName]))
	if err != nil {
		return nil, refuse("csr-extensions-malformed", "Extension .0 of the CSR is not the hexadecimal text of the AK's name.", hintSteps)
	}
	r, err := parseShown(&in.TPMKeys, akName)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(r.IAKName, akName) {
		return nil, errAKName
	}
	r.PKCS10 = csr
	public, err := idevidPublic(in.IDevIDPub, csr)
	if err != nil {
		return nil, malformed("idevid-malformed", "The CSR's key is no IDevID key", err)
	}
	if err := r.parseIDevID(public); err != nil {
		return nil, err
	}
	if !r.IDevID.Is(csr.PublicKey) {
		return nil, refuse("idevid-mismatch", "The CSR's key is not the key of idevid-pub.", hintTPM)
	}
	// The ownership proof is over this text alone, so it must be the key's.
	if in.Name != hex.EncodeToString(r.IDevIDName) {
		return nil, refuse("idevid-name", "name is not the TPM name of the CSR's key.", "Send the name in lower-case hexadecimal: nameAlg, digest of the public area.")
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
		return nil, fmt.Errorf("no template of the TCG's makes such a key")
	}
	return may[0].Raw, nil
}

// extensions are Pantacor's of a CSR, by their last arc. Texts may end with a
// line break.
func extensions(csr *x509.CertificateRequest) (map[int][]byte, *Refusal) {
	out := make(map[int][]byte)
	for _, e := range csr.Extensions {
		last, known, ok := wire.ExtensionOf(e.Id)
		if !ok {
			continue // nothing that a CSR asks for is in the certificate
		}
		if _, twice := out[last]; twice || !known {
			return nil, refuse("csr-extensions-malformed", fmt.Sprintf("The CSR has extension .%d twice, or it is not known here.", last), hintSteps)
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
