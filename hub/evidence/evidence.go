// Package evidence checks whether a request comes from a real TPM, and whether the request's keys
// are in that TPM. The checks depend only on the request, the trusted TPM makers' roots, the policy
// and the time. All four are arguments, so that each attack can be one row of a table-driven test.
//
// Parse turns a request into a Request, which does not change afterwards. Verify judges the
// Request, and from then on the hub uses only values from the Request. This prevents a
// vulnerability that Keylime once had (CVE-2022-1053): it fetched the data twice, once to check it
// and once to use it, so an attacker could send other data the second time.
//
// Verify cannot prove that the IAK is in the TPM that the EK certificate describes, because a
// request does not prove this. The reply proves it, because only that TPM can open the reply. See
// package wire.
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

// Refusal is the error of a failed check. If Ask is set, the Refusal is a question for a person.
type Refusal struct {
	Code   string `json:"code"`   // stable, lower case, e.g. "certify-name"
	Reason string `json:"reason"` // what is wrong, for a person
	Hint   string `json:"hint"`   // the remedy, for a person
	// Ask marks a question: a person may accept the failure, so the failure does not refuse the
	// request by itself.
	Ask bool `json:"ask,omitempty"`
}

func refuse(code, reason, hint string) *Refusal {
	return &Refusal{Code: code, Reason: reason, Hint: hint}
}

func (r *Refusal) Error() string { return r.Reason + " " + r.Hint }

// Request is a parsed TCG-CSR-IDEVID with all its structures, or one step of a two-step enrolment
// (see ParseKeys and ParseRegistration).
type Request struct {
	Raw  []byte   // the body as received; nil in a two-step enrolment
	Hash [32]byte // SHA-256 of Raw

	CSR    *tcg.CSR                 // nil in a two-step enrolment
	CAData *wire.CAData             // nil in a two-step enrolment
	PKCS10 *x509.CertificateRequest // only in a two-step enrolment
	Chain  [][]byte                 // the request's certificates: possible intermediates, never roots

	EKCertificate *tcg.EKCertificate // nil: the request has no EK certificate
	EK            *tcg.Public
	EKHash        [32]byte // tcg.KeyHash of EK
	IAK           *tcg.Public
	IAKName       []byte
	IDevID        *tcg.Public
	IDevIDName    []byte

	Certify          *tcg.Attest
	certifySignature *tcg.Signature
	signature        *tcg.Signature

	// Ownership comes from the extensions of the CSR in a two-step enrolment.
	Ownership      Ownership
	quote          *tcg.Attest // nil: the request has no quote
	quoteSignature *tcg.Signature

	keysOnly bool     // see KeysOnly
	ignored  []string // notes about ignored parts of the request
}

// Parse parses a request and all structures in it, and computes the TPM names of the keys. It
// checks the CSR's hash, but no signature. The Request aliases `raw`, so `raw` must not change
// afterwards. Errors have the type *Refusal.
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
		return nil, malformed("ca-data-malformed", "The prodCaData field cannot be read", err)
	}
	r.Chain = r.CAData.Chain
	if err := r.checkChain(refuse("ca-data-malformed", "", hintChain)); err != nil {
		return nil, err
	}
	// The hub does not read these fields, so they must be empty.
	for _, f := range []struct {
		name  string
		value []byte
	}{{"bootEvntLog", csr.EventLog}, {"atCreateTkt", csr.AtCreateTkt}, {"atCertifyInfo", csr.AtCertifyInfo}, {"atCertifyInfoSignature", csr.AtCertifySig}} {
		if len(f.value) > 0 {
			return nil, refuse("csr-malformed", fmt.Sprintf("The field %s of the TCG-CSR-IDEVID must be empty, but has %d bytes.", f.name, len(f.value)), "Leave it empty; docs/protocol.md#2-the-request-post-onboard lists the fields that the hub reads. The device reports its boot later, at /device/boot.")
		}
	}
	// If a TPM has no EK certificate, the device sends the EK's public area in the certificate's
	// field.
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

const hintChain = "Send one certificate in each entry, without padding, and nothing else."

// checkChain refuses a chain if an entry does not have the outer DER structure of a certificate. If
// an entry has this structure but cannot be parsed, checkChain ignores it and adds a note, because
// some TPMs store such malformed certificates, and the hub does not need them to build the chain.
// The argument `refused` has the code and the hint of the refusal; checkChain adds the reason.
func (r *Request) checkChain(refused *Refusal) error {
	for i, der := range r.Chain {
		if !tcg.IsCertificate(der) {
			at := *refused
			at.Reason = fmt.Sprintf("Entry %d of the EK certificate's chain is not one certificate in DER.", i+1)
			return &at
		}
		if _, err := x509.ParseCertificate(der); err != nil {
			r.ignored = append(r.ignored, tcg.Printable(fmt.Sprintf("certificate %d of the request's chain cannot be parsed and was ignored: %v", i+1, err)))
		}
	}
	return nil
}

// parseEK parses the EK's TPMT_PUBLIC and the EK certificate, which is nil if there is none.
func (r *Request) parseEK(public, certificate []byte) (err error) {
	if r.EK, err = tcg.ParsePublic(public); err != nil {
		return malformed("ek-malformed", "The EK's public area cannot be read", err)
	}
	var unreadable error
	if certificate != nil {
		if r.EKCertificate, unreadable = tcg.ParseEKCertificate(certificate); unreadable == nil {
			r.EK.IsCertified(r.EKCertificate) // if so, the EK's point need not be decoded again
		}
	}
	if r.EKHash, err = r.EK.KeyHash(); err != nil {
		return malformed("ek-malformed", "The EK is unusable", err)
	}
	if unreadable != nil {
		return malformed("ek-certificate-malformed", "The EK certificate cannot be read", unreadable)
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
		return refuse("certify-magic", "The certification of the IDevID key was not made by a TPM: its magic number is wrong.", hintTPM)
	case tcg.ErrNotCertify:
		return refuse("certify-type", "The attestation of the IDevID key was not made by TPM2_Certify.", hintTPM)
	default:
		return malformed("certify-malformed", "The certification of the IDevID key cannot be read", err)
	}
	if r.certifySignature, err = tcg.ParseSignature(signature); err != nil {
		return malformed("certify-malformed", "The signature of the certification cannot be read", err)
	}
	return nil
}

const (
	hintDamaged = "Send the request again. If this happens again, the device's agent is faulty."
	hintTPM     = "Onboard with the TPM's own keys and EK certificate; docs/protocol.md says what the hub requires of them."
	hintApprove = "If the machine is yours, compare the EK hash with the EK hash on the machine's screen, and approve the machine; 'gangway device ls' lists the waiting devices."
	hintTrust   = "If you trust this maker, import its root with 'gangway trust import'. If you trust only this machine, approve it."
)

func malformed(code, what string, err error) *Refusal {
	return refuse(code, fmt.Sprintf("%s: %v.", what, err), hintDamaged)
}

// Firmware returns the TPM's firmware version from its attestation, as four decimal numbers.
func (r *Request) Firmware() string { return Firmware(r.Certify.FirmwareVersion).String() }

// Maker returns the TPM's maker as the EK certificate names it. The result is empty if the request
// has no EK certificate, or if the EK certificate does not name the maker.
func (r *Request) Maker() string {
	if r.EKCertificate == nil {
		return ""
	}
	return r.EKCertificate.Manufacturer
}

// Model returns the TPM's model from the EK certificate. The result may be empty.
func (r *Request) Model() string {
	if r.EKCertificate == nil {
		return ""
	}
	return r.EKCertificate.Model
}

// EKCertificateDER returns the EK certificate in DER, or nil if the request has no EK certificate.
func (r *Request) EKCertificateDER() []byte {
	if r.EKCertificate == nil {
		return nil
	}
	return r.EKCertificate.Certificate.Raw
}

// maxMaker is the maximum size, in bytes, of a maker's name in the certificates that the hub
// issues. The TCG's vendor ids have 4 characters.
const maxMaker = 32

// HardwareSerial returns the text that identifies the TPM in certificates (HardwareModuleName, RFC
// 4108; DevID 8.2): the manufacturer, and then the first 16 bytes of the EK hash in hexadecimal. It
// does not use a serial number, because a serial number is unique only for one issuer. If
// `resident` is false (see Verdict.Resident), the text has no manufacturer, because nothing proves
// the one that the sender states.
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

// Resident reports whether a verdict shows TPM residency, which is the TCG's term for keys that
// exist only in a TPM. It does if the EK has a certificate that chains to a trusted root: once the
// TPM has opened the hub's reply, this certificate proves that the keys in the request are in the
// TPM. A person's approval does not prove residency.
func (v *Verdict) Resident(r *Request) bool {
	return r.EKCertificate != nil && v.Passed("ek-chain") && v.Passed("ek-key")
}

// omission returns a sentence, after a space, with the reason that the device states for sending no
// EK certificate. It returns "" if the device states no reason.
func (r *Request) omission() string {
	if r.CAData == nil || r.CAData.Omission.Why == 0 {
		return ""
	}
	return " The device reports: " + r.CAData.Omission.String()
}
