// Package evidence answers one question: is this a real TPM, and are these
// its keys? It is a pure function of the request, the trusted makers' roots,
// the policy and the time, all of them arguments, so that every attack is a
// test with a table.
//
// A request is parsed once, by Parse, into a Request that nothing changes
// afterwards; Verify judges that object, and what the hub does next it does
// with the values in that object alone. (Keylime's CVE-2022-1053 was a second
// fetch between the check and the use.)
//
// What Verify cannot show, because the request alone cannot: that the IAK is
// in the TPM of the EK certificate. The reply shows it, which only that TPM
// can open; see package wire.
package evidence

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"

	"gangway/tcg"
	"gangway/wire"
)

// Refusal says why something is not accepted. It is an error.
type Refusal struct {
	Code   string `json:"code"`   // stable, lower case, e.g. "certify-name"
	Reason string `json:"reason"` // one sentence for a person
	Hint   string `json:"hint"`   // what to do next
	// Ask: this alone does not refuse; a person may decide it.
	Ask bool `json:"ask,omitempty"`
}

func refuse(code, reason, hint string) *Refusal {
	return &Refusal{Code: code, Reason: reason, Hint: hint}
}

func (r *Refusal) Error() string { return r.Reason + " " + r.Hint }

// Request is a parsed TCG-CSR-IDEVID and everything in it, or what a machine
// showed in Pantacor's two steps: see ParseRegistration.
type Request struct {
	Raw  []byte   // the body as it was received; nil in two steps
	Hash [32]byte // SHA-256 of Raw

	CSR    *tcg.CSR                 // nil in two steps
	CAData *wire.CAData             // nil in two steps
	PKCS10 *x509.CertificateRequest // two steps only
	Chain  [][]byte                 // certificates that came along: links, never roots

	EKCertificate *tcg.EKCertificate // nil: none came
	EK            *tcg.Public
	EKHash        [32]byte // tcg.KeyHash of EK
	IAK           *tcg.Public
	IAKName       []byte
	IDevID        *tcg.Public
	IDevIDName    []byte

	Certify          *tcg.Attest
	certifySignature *tcg.Signature
	signature        *tcg.Signature

	// Of Pantacor's CSR extensions.
	Ownership      Ownership
	quote          *tcg.Attest // nil: none was shown
	quoteSignature *tcg.Signature

	keysOnly bool     // see KeysOnly
	ignored  []string // notes: what came along and is of no use
}

// Parse parses a request and all the structures in it, and computes the names.
// It checks the CSR's hash and no signature. The Request aliases raw, which
// must not change afterwards. Its errors are of type *Refusal.
func Parse(raw []byte) (*Request, error) {
	csr, err := tcg.ParseCSR(raw)
	if err == tcg.ErrCSRHash {
		return nil, refuse("csr-hash", "The hash in the TCG-CSR-IDEVID is not the hash of its contents.", hintDamaged)
	}
	if err != nil {
		return nil, malformed("csr-malformed", "The body is not a TCG-CSR-IDEVID", err)
	}
	r := &Request{Raw: raw, Hash: sha256.Sum256(raw), CSR: csr}
	if r.CAData, err = wire.ParseCAData(csr.CAData); err != nil {
		return nil, malformed("ca-data-malformed", "The prodCaData field is not what this hub understands", err)
	}
	r.Chain = r.CAData.Chain
	if err := r.checkChain(refuse("ca-data-malformed", "", hintChain)); err != nil {
		return nil, err
	}
	// A field that says nothing here, and would be read by nobody.
	for _, f := range []struct {
		name  string
		value []byte
	}{{"bootEvntLog", csr.EventLog}, {"atCreateTkt", csr.AtCreateTkt}, {"atCertifyInfo", csr.AtCertifyInfo}, {"atCertifyInfoSignature", csr.AtCertifySig}} {
		if len(f.value) > 0 {
			return nil, refuse("csr-malformed", fmt.Sprintf("The field %s of the TCG-CSR-IDEVID must be empty, and has %d bytes.", f.name, len(f.value)), "Leave it empty: docs/protocol.md#2-the-request-post-onboard says what the hub reads. What was booted is shown later, by /device/boot.")
		}
	}
	// A TPM without an EK certificate sends the EK's public area in its place.
	certificate := csr.EKCert
	if bytes.Equal(certificate, r.CAData.EKPublic) {
		certificate = nil
	}
	if err := r.parseEK(r.CAData.EKPublic, certificate); err != nil {
		return nil, err
	}
	if err := r.parseIAK(csr.AttestPub); err != nil {
		return nil, err
	}
	if err := r.parseIDevID(csr.SigningPub); err != nil {
		return nil, err
	}
	if err := r.parseCertify(csr.SgnCertifyInfo, csr.SgnCertifySig); err != nil {
		return nil, err
	}
	if r.signature, err = tcg.ParseSignature(csr.Signature); err != nil {
		return nil, malformed("csr-malformed", "The signature of the request cannot be read", err)
	}
	return r, nil
}

const hintChain = "Send each certificate by itself, without padding; leave out what is none."

// checkChain refuses a chain that holds something else than certificates. A
// certificate that cannot be parsed is ignored, and said to be: chips have odd
// ones beside those that are needed. The reason is added to the refusal.
func (r *Request) checkChain(refused *Refusal) error {
	for i, der := range r.Chain {
		if !tcg.IsCertificate(der) {
			at := *refused
			at.Reason = fmt.Sprintf("Entry %d of the EK certificate's chain is not one certificate in DER.", i+1)
			return &at
		}
		if _, err := x509.ParseCertificate(der); err != nil {
			r.ignored = append(r.ignored, tcg.Printable(fmt.Sprintf("certificate %d of the chain that came along cannot be parsed and was ignored: %v", i+1, err)))
		}
	}
	return nil
}

// parseEK takes the EK's TPMT_PUBLIC and its certificate, nil where it has none.
func (r *Request) parseEK(public, certificate []byte) (err error) {
	if r.EK, err = tcg.ParsePublic(public); err != nil {
		return malformed("ek-malformed", "The EK's public area cannot be read", err)
	}
	key, err := r.EK.Key()
	if err != nil {
		return malformed("ek-malformed", "The EK is unusable", err)
	}
	if r.EKHash, err = tcg.KeyHash(key); err != nil {
		return malformed("ek-malformed", "The EK is unusable", err)
	}
	if certificate == nil {
		return nil
	}
	if r.EKCertificate, err = tcg.ParseEKCertificate(certificate); err != nil {
		return malformed("ek-certificate-malformed", "The EK certificate cannot be read", err)
	}
	return nil
}

func (r *Request) parseIAK(public []byte) (err error) {
	if r.IAK, err = tcg.ParsePublic(public); err != nil {
		return malformed("iak-malformed", "The IAK's public area cannot be read", err)
	}
	if r.IAKName, err = r.IAK.Name(); err != nil {
		return malformed("iak-malformed", "The IAK's name cannot be computed", err)
	}
	return nil
}

func (r *Request) parseIDevID(public []byte) (err error) {
	if r.IDevID, err = tcg.ParsePublic(public); err != nil {
		return malformed("idevid-malformed", "The IDevID key's public area cannot be read", err)
	}
	if r.IDevIDName, err = r.IDevID.Name(); err != nil {
		return malformed("idevid-malformed", "The IDevID key's name cannot be computed", err)
	}
	return nil
}

func (r *Request) parseCertify(info, signature []byte) (err error) {
	switch r.Certify, err = tcg.ParseCertify(info); err {
	case nil:
	case tcg.ErrNotGenerated:
		return refuse("certify-magic", "The certification of the IDevID key was not made by a TPM: its magic is wrong.", hintTPM)
	case tcg.ErrNotCertify:
		return refuse("certify-type", "The attestation of the IDevID key is not one of TPM2_Certify.", hintTPM)
	default:
		return malformed("certify-malformed", "The certification of the IDevID key cannot be read", err)
	}
	if r.certifySignature, err = tcg.ParseSignature(signature); err != nil {
		return malformed("certify-malformed", "The signature of the certification cannot be read", err)
	}
	return nil
}

const (
	hintDamaged = "Send the request again; if it happens again, the device's agent is at fault."
	hintTPM     = "Onboard with the keys of the TPM itself; see docs/protocol.md for what is expected."
	hintApprove = "If it is yours, approve it: 'gangway device ls' lists what waits. Compare the hash with the machine's own."
	hintTrust   = "If this is a maker you trust, import its root with 'gangway trust import'; if just the machine is yours, approve it."
)

func malformed(code, what string, err error) *Refusal {
	return refuse(code, fmt.Sprintf("%s: %v.", what, err), hintDamaged)
}

// Firmware is the TPM's firmware version as it states it in what it attests,
// four decimal numbers.
func (r *Request) Firmware() string { return Firmware(r.Certify.FirmwareVersion).String() }

// Maker is the TPM's maker as its EK certificate has it; empty where it has
// no certificate, or that says nothing.
func (r *Request) Maker() string {
	if r.EKCertificate == nil {
		return ""
	}
	return r.EKCertificate.Manufacturer
}

// Model is the TPM's model as its EK certificate has it; may be empty.
func (r *Request) Model() string {
	if r.EKCertificate == nil {
		return ""
	}
	return r.EKCertificate.Model
}

// EKCertificateDER is the EK certificate, nil where there is none.
func (r *Request) EKCertificateDER() []byte {
	if r.EKCertificate == nil {
		return nil
	}
	return r.EKCertificate.Certificate.Raw
}

// maxMaker bounds the maker's name in certificates, in bytes. The TCG's vendor
// ids have 4 characters.
const maxMaker = 32

// HardwareSerial identifies the TPM in certificates (HardwareModuleName,
// RFC 4108; DevID 8.2): manufacturer, and the first 16 bytes of the EK hash in
// hexadecimal, because serial numbers are unique for one issuer only. The
// manufacturer is left out unless resident, as Resident has it: otherwise it is
// the sender's word.
func (r *Request) HardwareSerial(resident bool) string {
	maker := ""
	if resident {
		maker = r.Maker()
	}
	if len(maker) > maxMaker {
		maker = strings.ToValidUTF8(maker[:maxMaker], "")
	}
	return maker + ":" + hex.EncodeToString(r.EKHash[:16])
}

// Resident reports whether a verdict shows that the request's keys are in a TPM
// by its maker's word, once the TPM has opened its credential: the EK has a
// certificate, which leads to a trusted root. A person's approval shows nothing
// of the kind.
func (v *Verdict) Resident(r *Request) bool {
	return r.EKCertificate != nil && v.Passed("ek-chain") && v.Passed("ek-key")
}

// omission is the device's word on why there is no EK certificate, to be put
// behind another sentence; "" if it says nothing.
func (r *Request) omission() string {
	if r.CAData == nil || r.CAData.Omission.Why == 0 {
		return ""
	}
	return " The device says: " + r.CAData.Omission.String()
}
