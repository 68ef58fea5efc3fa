package fleet

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"

	"gangway/wire"
)

// TPMKeys returns the device's keys in the form that the two-step enrolment sends.
func (d *Device) TPMKeys() wire.TPMKeys {
	sized := func(b []byte) string { // TPM2B_PUBLIC
		return base64.StdEncoding.EncodeToString(append([]byte{byte(len(b) >> 8), byte(len(b))}, b...))
	}
	s := wire.TPMKeys{AKPub: sized(d.IAK.Public.Raw), EKPub: sized(d.EK.Public.Raw)}
	if !bytes.Equal(d.EKCert, d.EK.Public.Raw) {
		s.EKCert = base64.StdEncoding.EncodeToString(d.EKCert)
	}
	for _, link := range d.Chain {
		s.EKChain = append(s.EKChain, base64.StdEncoding.EncodeToString(link))
	}
	return s
}

// Enrolled is the decrypted result of the first step of a two-step enrolment.
type Enrolled struct {
	Keys wire.StepKeys
	AK   *x509.Certificate // nil if a person must first approve the device
}

// EnrollRequest returns the body of the first request of the two-step enrolment.
func (d *Device) EnrollRequest() *wire.EnrollRequest {
	return &wire.EnrollRequest{TPMKeys: d.TPMKeys(), AKName: hex.EncodeToString(d.IAK.Name())}
}

// OpenEnrolled decrypts the hub's answer to the first request of the two-step enrolment. It uses
// the device's emulated TPM.
func (d *Device) OpenEnrolled(answer []byte) (*Enrolled, error) {
	var a wire.EnrollAnswer
	if err := json.Unmarshal(answer, &a); err != nil {
		return nil, err
	}
	blob, encrypted, err := wire.ParseCredentialFile(a.Credential)
	if err != nil {
		return nil, err
	}
	secret, err := d.ActivateCredential(blob, encrypted)
	if err != nil {
		return nil, err
	}
	e := new(Enrolled)
	if e.Keys, err = wire.DeriveStepKeys(secret, d.IAK.Name()); err != nil || len(a.Certificate) == 0 {
		return e, err
	}
	content, err := a.OpenCertificate(e.Keys)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, fmt.Errorf("fleet: the AK's certificate is not PEM")
	}
	e.AK, err = x509.ParseCertificate(block.Bytes)
	return e, err
}

// Enroll sends the first step of the two-step enrolment and decrypts the response.
func (d *Device) Enroll(ctx context.Context, h *Hub) (*Enrolled, error) {
	body, err := json.Marshal(d.EnrollRequest())
	if err != nil {
		return nil, err
	}
	a, err := h.Post(ctx, "/enroll/request", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if a.Status != http.StatusOK {
		return nil, fmt.Errorf("fleet: status %d: %.200s", a.Status, a.Body)
	}
	return d.OpenEnrolled(a.Body)
}

// RegistrationChange alters the second request of the two-step enrolment, for tests of attacks. A
// field that is nil alters nothing.
type RegistrationChange struct {
	Signer     crypto.Signer            // key of the CSR, which also signs it
	Attest     func([]byte) []byte      // alters the TPMS_ATTEST before it is signed
	Extensions func(map[int][]byte)     // of the CSR
	Sent       func(*wire.Registration) // alters the whole body, after all other changes
}

// Registration returns the body of the second request of the two-step enrolment. The body has an
// ownership proof that is made with the join token `t`.
func (d *Device) Registration(t *wire.TokenFile, keys wire.StepKeys, change RegistrationChange) ([]byte, error) {
	secret, err := t.Secret()
	if err != nil {
		return nil, err
	}
	name := hex.EncodeToString(d.IDevID.Name())
	attest := Attest(d.IAK.Name(), d.IDevID.Name())
	if change.Attest != nil {
		attest = change.Attest(attest)
	}
	sig, err := d.IAK.Sign(attest)
	if err != nil {
		return nil, err
	}
	ext := map[int][]byte{
		wire.ExtAKName: []byte(hex.EncodeToString(d.IAK.Name())), wire.ExtOwner: []byte(t.Owner), wire.ExtToken: []byte(t.ID + "\n"),
		wire.ExtOwnership: wire.OwnershipMAC(sha256.Sum256(secret), name), wire.ExtCertify: attest, wire.ExtCertifySig: sig,
	}
	if change.Extensions != nil {
		change.Extensions(ext)
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "IDevID"}}
	for last, value := range ext {
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: wire.ExtensionOID(last), Value: value})
	}
	slices.SortFunc(template.ExtraExtensions, func(a, b pkix.Extension) int { return a.Id[len(a.Id)-1] - b.Id[len(b.Id)-1] })
	signer := change.Signer
	if signer == nil {
		signer = d.IDevID.Private
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, template, signer)
	if err != nil {
		return nil, err
	}
	hub := t.HubName
	if t.HubCA != "" {
		if hub, err = t.RootName(); err != nil {
			return nil, err
		}
	}
	r := &wire.Registration{CSR: csr, Name: name, TPMKeys: d.TPMKeys(), HubName: hub, Proof: keys.Prove(hub, csr)}
	if change.Sent != nil {
		change.Sent(r)
	}
	return json.Marshal(r)
}

// OnboardTwoStep onboards the device with both steps of the two-step enrolment, and returns its
// certificate.
func (d *Device) OnboardTwoStep(ctx context.Context, h *Hub, t *wire.TokenFile) (*x509.Certificate, error) {
	e, err := d.Enroll(ctx, h)
	if err != nil {
		return nil, err
	}
	body, err := d.Registration(t, e.Keys, RegistrationChange{})
	if err != nil {
		return nil, err
	}
	a, err := h.Post(ctx, "/register", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return ParseRegistered(a)
}

// ParseRegistered returns the certificate in the hub's answer to the second request of the two-step
// enrolment.
func ParseRegistered(a *Answer) (*x509.Certificate, error) {
	var r struct {
		Certificate []byte `json:"crt"`
	}
	if a.Status != http.StatusOK {
		return nil, fmt.Errorf("fleet: status %d: %.200s", a.Status, a.Body)
	}
	if err := json.Unmarshal(a.Body, &r); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(r.Certificate)
}
