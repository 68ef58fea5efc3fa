package onboard

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/tracing/step"
	"gangway/internal/strictjson"
	"gangway/tcg"
	"gangway/wire"
)

// Codes of refusals in Pantacor's two steps.
const (
	CodeCredential = "credential-proof"
	CodeDeviceName = "device-name"
	CodeDevicePRN  = "device-prn"
	CodeUnbound    = "proof-unbound"
	CodeSteps      = "body-malformed"
)

var (
	errStepsOwnership = &evidence.Refusal{Code: CodeOwnership, Reason: "The ownership proof was not made with this join token for this key.", Hint: "Use a join token made with 'gangway token create --for-pantacor', and sign the name of the CSR's key."}
	errUnbound        = &evidence.Refusal{Code: CodeUnbound, Reason: "The credential's proof has the old form, which does not name the hub: another hub could have relayed it.", Hint: "Update the program on the device, so that its proofs name the hub (docs/protocol.md#9-pantacors-two-steps). If the program cannot do this, use a join token made with 'gangway token create --for-pantacor'."}
	errCredential     = &evidence.Refusal{Code: CodeCredential, Reason: "Another TPM made the proof, the proof is for another CSR or another hub, or the proof has expired.", Hint: "Begin with the first step again, and send the second step within one hour."}
)

// FirstStep is the first step of two-step enrolment (Pantacor's /enroll/request). It answers with
// an AK certificate, encrypted to the TPM that has both the EK and the AK. It does not bind a
// device to an owner. The hub records the AK certificate, which expires together with the encrypted
// credential. The second step issues an AK certificate that does not expire.
//
// The first step does not name the owner, so the hub's policy judges the request. One-step
// enrolment makes the same checks, and also checks the keys that the first step does not have. If
// the verdict has questions for a person, FirstStep returns no certificate, because the person must
// decide first. A refusal is an error of type *evidence.Refusal.
func (s *Service) FirstStep(ctx context.Context, body []byte, addr string) (*wire.EnrollAnswer, error) {
	a, err := s.enroll(ctx, body, addr)
	var refusal *evidence.Refusal
	if errors.As(err, &refusal) {
		s.unproven(ctx, store.Event{Kind: "enrolment.refused", Code: refusal.Code, Addr: addr, Message: refusal.Reason})
	}
	return a, err
}

func (s *Service) enroll(ctx context.Context, body []byte, addr string) (*wire.EnrollAnswer, error) {
	var in wire.EnrollRequest
	if err := parseSteps(body, &in); err != nil {
		return nil, err
	}
	r, err := evidence.ParseKeys(&in)
	if err != nil {
		return nil, err
	}
	now := s.Now()
	verdict := new(evidence.Verdict)
	version, err := s.Store.ConfigVersion(ctx)
	if err != nil {
		return nil, err
	}
	x, err := s.examine(ctx, verdict, r, store.HubWide, version, now, evidence.VerifyKeys)
	if err != nil {
		return nil, err
	}
	// The first step does not refuse a device because of a missing CA certificate, because the
	// second step may fetch it.
	open := s.Online != nil && (verdict.HasCode(evidence.CodeUntrusted) || verdict.HasCode(evidence.CodeChainExpired))
	if r = x.Request; verdict.Refusal != nil && !open {
		return nil, verdict.Refusal
	}
	secret := s.stepSecret(r, hourOf(now))
	keys, err := wire.DeriveStepKeys(secret, r.IAKName)
	if err != nil {
		return nil, err
	}
	_, span := step.Begin(ctx, "tpm.make-credential")
	blob, encrypted, err := tcg.MakeCredential(r.EK, r.IAKName, secret)
	span.End()
	if err != nil && verdict.Refusal != nil {
		return nil, verdict.Refusal // the hub refused the request before it checked the EK, so an unusable EK must not become an internal error
	}
	if err != nil {
		return nil, fmt.Errorf("onboard: %w", err)
	}
	a := &wire.EnrollAnswer{Certificate: []byte{}, Credential: wire.CredentialFile(blob, encrypted), IV: []byte{}, MAC: []byte{}}
	if !verdict.Accepted() {
		return a, nil
	}
	der, err := s.akCertificate(ctx, r, verdict.Resident(r), now, addr)
	if errors.Is(err, store.ErrFull) {
		return a, nil // the store cannot record more certificates; the second step does not need this certificate
	}
	if err != nil {
		return nil, err
	}
	return a, a.SealCertificate(keys, append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), s.CA.ACAPEM()...))
}

// akCertificate returns the AK certificate for the first step's answer. It issues and records a new
// one if none is recorded. The certificate expires together with the encrypted credential. It
// contains a download URL, at which the hub offers, after the second step, the certificate that the
// AIK registry has for this AK.
func (s *Service) akCertificate(ctx context.Context, r *evidence.Request, resident bool, now time.Time, addr string) ([]byte, error) {
	id, _, err := s.deviceOf(ctx, store.Hash(r.EKHash))
	if err != nil {
		return nil, err
	}
	expires := time.Unix((hourOf(now)+2)*3600, 0)
	was, err := s.Store.IssuedAIK(ctx, r.EKHash, r.IAKName, now)
	if err == nil && was.DeviceID == id && was.Expires.Equal(expires) {
		return was.Certificate, nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	key, err := r.IAK.Key()
	if err != nil {
		return nil, err
	}
	_, span := step.Begin(ctx, "ca.sign-certificates")
	der, err := s.CA.IssueIAK(pki.IAKRequest{
		PublicKey: key, DeviceID: id, AKName: r.IAKName, HWSerial: []byte(r.HardwareSerial(resident)), NotBefore: now, NotAfter: expires, Resident: resident, URI: s.aikAddress(r.IAKName),
	})
	span.End()
	if err != nil {
		return nil, fmt.Errorf("onboard: issuing the IAK certificate: %w", err)
	}
	first, err := s.Store.RecordIssuedAIK(ctx, store.IssuedAIK{EK: r.EKHash, Name: r.IAKName, DeviceID: id, Certificate: der, Issued: now, Expires: expires}, store.MaxIssued)
	if err != nil {
		return nil, err
	}
	if first {
		s.unproven(ctx, store.Event{Kind: "aik.issued", Addr: addr, Message: fmt.Sprintf("The hub answered a first step with an AIK certificate that expires at %s, encrypted to the TPM with the EK of SHA-256 %x. No device has proven yet that it has this TPM.", expires.UTC().Format(time.RFC3339), r.EKHash)})
	}
	return der, nil
}

// aikAddress returns the download URL of an AIK's certificate, which works as soon as the AIK is
// proven. It contains the key's TPM name, which nobody can guess.
func (s *Service) aikAddress(name []byte) string {
	return s.PublicURL + "/aca/certs/" + hex.EncodeToString(name) + ".crt"
}

// hourOf returns the number of hours from 1970 to the time of a first step. The second step may
// prove the secret of the first step until the end of the next hour.
func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

// stepSecret returns the secret that the first step encrypts to a TPM. It depends on the EK, the AK
// and the hour, and nobody can compute it without the seal key.
func (s *Service) stepSecret(r *evidence.Request, hour int64) []byte {
	secret := s.derive("gangway enroll credential v1\x00", append(binary.BigEndian.AppendUint64(r.EKHash[:], uint64(hour)), r.IAKName...))
	return secret[:wire.CredentialSize]
}

// SecondStepAnswer is the answer of the second step.
type SecondStepAnswer struct {
	Certificate []byte // IDevID, DER
	Device      store.Device
}

// SecondStep is the second step of two-step enrolment (Pantacor's /register), in which the AK
// certifies that the CSR's key is in the TPM that opened the first step's credential. SecondStep
// verifies this, judges the request, issues the certificates and binds the device. Its errors have
// the same types as those of Enrol and Activate, which do the same for one-step enrolment.
func (s *Service) SecondStep(ctx context.Context, body []byte, addr string) (SecondStepAnswer, error) {
	e, err := s.register(ctx, body, addr)
	if err != nil {
		var refusal *evidence.Refusal
		if errors.As(err, &refusal) {
			s.unproven(ctx, store.Event{Kind: "enrolment.refused", Code: refusal.Code, Owner: e.Owner, Token: e.TokenID, Device: e.DeviceID, Addr: addr, Message: refusal.Reason})
		}
		return SecondStepAnswer{}, err
	}
	p, err := s.toActivate(ctx, e.IDevIDHash)
	if err != nil {
		return SecondStepAnswer{}, err
	}
	d, err := s.bind(ctx, p, addr)
	return SecondStepAnswer{e.IDevIDCert, d}, err
}

// register returns the stored enrolment, as the method `enrol` does.
func (s *Service) register(ctx context.Context, body []byte, addr string) (e store.Enrolment, err error) {
	var in wire.Registration
	if err := parseSteps(body, &in); err != nil {
		return e, err
	}
	r, err := evidence.ParseRegistration(&in)
	if err != nil {
		return e, err
	}
	if in.HubName != "" && !wire.HubNamesEqual(in.HubName, s.CA.HubName()) {
		return e, errOtherHub
	}
	now := s.Now()
	verdict := new(evidence.Verdict)
	owner, token, err := s.stepsToken(ctx, verdict, r, now)
	if err != nil {
		return e, err
	}
	e.Owner, e.TokenID = owner, token
	if in.HubName == "" && !pantacorsForm(r.Ownership.Proof) {
		return e, errUnbound
	}
	hour, err := s.provenIn(r, in.HubName, in.Proof, now)
	if err != nil {
		return e, err
	}
	verdict.Pass("credential", "The TPM with this EK and this IAK opened the credential, and the device proved this with the request.")
	if in.HubName == "" {
		verdict.Notes = append(verdict.Notes, "the proofs have Pantacor's form, which does not name the hub: another hub could have relayed them")
	}
	id, generation, err := s.deviceOf(ctx, store.Hash(r.EKHash))
	if err != nil {
		return e, err
	}
	// The hub chooses the ids of devices. A request that names another device tries to become that
	// device.
	if in.DeviceName != "" && in.DeviceName != id {
		return e, &evidence.Refusal{Code: CodeDeviceName, Reason: "device-name is not the id of this TPM's device.", Hint: "Leave device-name out, or take the id from the serialNumber of the AK certificate."}
	}
	if r.Ownership.Device != "" && r.Ownership.Device != wire.DevicePRN+id {
		return e, &evidence.Refusal{Code: CodeDevicePRN, Reason: "Extension .9 of the CSR is not the prn (Pantacor resource name) of this TPM's device.", Hint: "Leave the extension out, or take the id from the serialNumber of the AK certificate."}
	}
	kept, err := wire.RegistrationRecord{
		CSR: in.CSR, AKPub: r.IAK.Raw, EKPub: r.EK.Raw, IDevIDPub: r.IDevID.Raw, EKCert: r.EKCertificateDER(), EKChain: r.Chain, Hour: hour, HubName: in.HubName,
	}.Encode()
	if err != nil {
		return e, err
	}
	e.RequestHash, e.Request = sha256.Sum256(kept), kept
	e.DeviceID, e.Generation = id, generation
	version, err := s.Store.ConfigVersion(ctx)
	if err != nil {
		return e, err
	}
	return s.accept(ctx, verdict, r, e, standing{version: version, waits: true}, now, addr)
}

// provenIn returns the hour (see hourOf) of the first step whose credential the device opened to
// make `proof`. `hubName` is empty for a proof in the old form, which does not name the hub.
func (s *Service) provenIn(r *evidence.Request, hubName string, proof []byte, now time.Time) (int64, error) {
	for hour := hourOf(now); hour >= hourOf(now)-1; hour-- {
		keys, err := wire.DeriveStepKeys(s.stepSecret(r, hour), r.IAKName)
		if err != nil {
			return 0, err
		}
		if keys.VerifyProof(hubName, r.PKCS10.Raw, proof) {
			return hour, nil
		}
	}
	return 0, errCredential
}

// pantacorsForm reports whether an ownership proof is an HMAC, which does not name the hub. It
// looks only at the size of the proof.
func pantacorsForm(proof []byte) bool { return len(proof) != ed25519.SignatureSize }

// stepsToken verifies the ownership proof of the second step, in Pantacor's form or as an Ed25519
// signature, and returns the owner and the id of the token.
func (s *Service) stepsToken(ctx context.Context, v *evidence.Verdict, r *evidence.Request, now time.Time) (owner, id string, err error) {
	c := &r.Ownership
	if pantacorsForm(c.Proof) {
		token, err := s.pantacorToken(ctx, c.TokenID, c.Owner, c.Name, c.Proof, now)
		if err == nil {
			v.Pass("ownership", fmt.Sprintf("This owner's join token %s signed the name of this IDevID key.", token.ID))
		}
		return token.Owner, token.ID, err
	}
	token, err := s.ownershipOf(ctx, c.Owner, c.TokenID, r, c.Proof, now)
	if err == nil {
		v.Pass("ownership", passedOwnership(token.ID))
	}
	return token.Owner, token.ID, err
}

// VerifyOwnership verifies an ownership proof in Pantacor's form, for services that register
// devices elsewhere. The proof signs the name of a key, but VerifyOwnership does not check this
// key. A refusal is an error of type *evidence.Refusal. Until the proof is verified, every refusal
// is the same, so that a stranger cannot find out which join tokens exist.
func (s *Service) VerifyOwnership(ctx context.Context, tokenID, owner, name string, mac []byte) error {
	_, err := s.pantacorToken(ctx, tokenID, owner, name, mac, s.Now())
	return err
}

func (s *Service) pantacorToken(ctx context.Context, id, owner, name string, mac []byte, now time.Time) (store.JoinToken, error) {
	if !wire.IsID(id) {
		return store.JoinToken{}, errStepsOwnership
	}
	token, err := s.Store.JoinToken(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return store.JoinToken{}, errStepsOwnership
	}
	if err != nil {
		return store.JoinToken{}, err
	}
	good, err := owns(s.CA.SealKey(), token.PantacorKey, token.ID, name, mac)
	if err != nil {
		return store.JoinToken{}, err
	}
	if !good || owner != wire.AccountPRN+token.Owner {
		return store.JoinToken{}, errStepsOwnership
	}
	if token.Disabled || !token.Expires.After(now) {
		return store.JoinToken{}, errTokenUnusable
	}
	return token, nil
}

// parseSteps reads the JSON body of the first or the second step.
func parseSteps(body []byte, v any) error {
	if err := strictjson.Decode(body, v); err != nil {
		return &evidence.Refusal{Code: CodeSteps, Reason: fmt.Sprintf("The body cannot be read: %v.", err), Hint: "See /openapi.json for the format."}
	}
	return nil
}
