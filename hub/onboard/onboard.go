// Package onboard is the hub's half of the one-round-trip protocol: verify,
// decide ownership, issue, seal; and later, activate.
//
// Enrol judges a request and answers with certificates that only the TPM of
// the EK certificate can open, if it also holds the IAK. Until then nothing is
// proven, so nothing is bound: the enrolment is pending, and touches no other
// row. Activate, called with the first TLS connection under the IDevID, binds
// everything in one transaction.
//
// The service keeps no state of its own between the two: the secret inside a
// reply is derived from the hub's seal key and the request's hash, so any
// replica can serve either half, the same request gets the same secret, and
// the database holds none of it.
package onboard

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/tcg"
	"gangway/wire"
)

// PendingFor is how long a pending enrolment may be activated: long enough
// for a device that lost its network right after the request.
const PendingFor = time.Hour

// Service onboards devices. All fields are set once.
type Service struct {
	Store Store
	CA    *pki.Hub
	Log   *slog.Logger
	Now   func() time.Time
	// PublicURL is where the AIK certificates are said to be found, no
	// trailing slash.
	PublicURL string
	// Online looks up what is missing; nil: nothing is looked up.
	Online Online
	// Observe, if set, is called for each request that was accepted, with the
	// enrolment as stored, before the reply is sent. It must not block.
	Observe func(store.Enrolment, *evidence.Verdict)
	// Unproven, if set, takes the events that peers cause who have proven
	// nothing, to bound what they make the trail grow by; nil: each is appended.
	Unproven func(context.Context, store.Event)

	makers   makers
	settings atomic.Pointer[settings]
}

// Stable codes of refusals made here; those of package evidence come besides.
const (
	CodeHubName       = "hub-name"
	CodeOwnership     = "ownership-proof"
	CodeTokenUnknown  = "token-unknown"
	CodeTokenOwner    = "token-owner"
	CodeTokenUnusable = "token-unusable"
	CodeTokenUsedUp   = "token-used-up"
	CodeSuperseded    = "enrolment-superseded"
	CodeExpired       = "enrolment-expired"
	CodeRevoked       = "device-revoked"
	CodeUnknownCert   = "certificate-unknown"
	CodeActivation    = "activation-proof"
	CodeOtherOwner    = "tpm-other-owner"
	CodeOtherEK       = "tpm-other-ek"
	CodeDenied        = "device-denied"
	CodeFull          = "waiting-full"
)

var (
	errOwnership  = &evidence.Refusal{Code: CodeOwnership, Reason: "The ownership proof is not by this join token for this key.", Hint: "Use the join token file as the hub made it; each proof is good for one device's key."}
	errOtherHub   = &evidence.Refusal{Code: CodeHubName, Reason: "The request is for another hub.", Hint: "Use a join token file of this hub."}
	errSuperseded = &evidence.Refusal{Code: CodeSuperseded, Reason: "The device has onboarded again since, with a later request.", Hint: "Use the later certificate, or onboard with a new request."}
	errExpired    = &evidence.Refusal{Code: CodeExpired, Reason: "The certificates were not used in time.", Hint: "Onboard again; the agent does so by itself."}
	errRevoked    = &evidence.Refusal{Code: CodeRevoked, Reason: "The device was removed from the hub.", Hint: "Onboard again with a join token if it is to come back."}
)

// Enrol answers a request body with a reply (JSON of join.Reply). The same
// body gets certificates for the same device, however often it comes. A
// refusal is an error of type *evidence.Refusal, and is in the audit trail.
func (s *Service) Enrol(ctx context.Context, body []byte, addr string) ([]byte, error) {
	e, request, err := s.enrol(ctx, body, addr)
	if err != nil {
		var refusal *evidence.Refusal
		if errors.As(err, &refusal) {
			s.unproven(ctx, store.Event{Kind: "enrolment.refused", Code: refusal.Code, Owner: e.Owner, Token: e.TokenID, Device: e.DeviceID, Addr: addr, Message: refusal.Reason})
		}
		return nil, err
	}
	return s.seal(e, request)
}

// enrol returns the stored enrolment. On refusal the enrolment has what is
// proven to belong to an owner, for the trail: nothing before the ownership
// proof was checked.
func (s *Service) enrol(ctx context.Context, body []byte, addr string) (e store.Enrolment, r *evidence.Request, err error) {
	if r, err = evidence.Parse(body); err != nil {
		return e, nil, err
	}
	now := s.Now()
	verdict := new(evidence.Verdict)
	token, generation, err := s.ownership(ctx, r, now)
	if err != nil {
		return e, nil, err
	}
	e.Owner, e.TokenID = token.Owner, token.ID
	verdict.Pass("ownership", passedOwnership(token.ID))

	e.DeviceID, e.Generation = s.deviceID(store.Hash(r.EKHash), generation), generation
	e.RequestHash, e.Request = store.Hash(r.Hash), r.Raw
	e.ProdModel, e.ProdSerial = tcg.Printable(string(r.CSR.ProdModel)), tcg.Printable(string(r.CSR.ProdSerial))
	e, err = s.accept(ctx, verdict, r, e, now, addr)
	return e, r, err
}

// accept judges a request whose ownership is proven, issues and stores. e says
// what it is known by, whose it is and which device; on refusal it is returned
// without what is not proven.
func (s *Service) accept(ctx context.Context, verdict *evidence.Verdict, r *evidence.Request, e store.Enrolment, now time.Time, addr string) (store.Enrolment, error) {
	known := store.Enrolment{Owner: e.Owner, TokenID: e.TokenID}
	x, err := s.examine(ctx, verdict, r, e.Owner, now, evidence.Verify)
	if err != nil {
		return known, err
	}
	if verdict.Refusal != nil {
		return known, verdict.Refusal
	}

	// Whether the TPM is another owner's, or the token used up, is not said
	// here: nobody has proven to be that TPM. Activation decides.
	e.State = store.Pending
	e.EK, e.EKCertificate = store.Hash(r.EKHash), r.EKCertificateDER()
	e.EKKnown, e.EKLinks = x.known, x.links
	e.IAKName, e.IAKPublic, e.IDevIDName = r.IAKName, r.IAK.Raw, r.IDevIDName
	e.Manufacturer, e.Model, e.Firmware = r.Maker(), r.Model(), r.Firmware()
	e.KeyAlgorithm = r.IDevID.Algorithm()
	e.Created, e.Expires = now, now.Add(PendingFor)
	if verdict.Accepted() {
		err = s.checkDenial(ctx, e)
	} else {
		err = s.askOwner(ctx, verdict, e, addr)
	}
	if err != nil {
		known.DeviceID = s.waitingID(e.EK)
		return known, err
	}
	if e.Verdict, err = verdict.JSON(); err != nil {
		return e, err
	}
	if err := s.issue(&e, r, verdict.Resident(r), now); err != nil {
		return e, err
	}
	stored, err := s.Store.BeginEnrolment(ctx, e, now)
	if err != nil {
		return e, err
	}
	switch stored.State {
	case store.Pending, store.Active:
		if s.Observe != nil {
			s.Observe(stored, verdict)
		}
		return stored, nil
	case store.Superseded:
		return stored, errSuperseded // it was active: its peer has proven to be the TPM
	default:
		known.DeviceID = s.waitingID(e.EK)
		return known, errRevoked
	}
}

// deviceOf is the device that the TPM with this EK is, or would be.
func (s *Service) deviceOf(ctx context.Context, ek store.Hash) (id string, generation int, err error) {
	tpm, err := s.Store.TPM(ctx, ek)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return "", 0, err
	}
	return s.deviceID(ek, tpm.Generation), tpm.Generation, nil
}

// ownership checks the proof against the token's public key. It returns the
// token, and how often the TPM was let go, read at the same moment.
func (s *Service) ownership(ctx context.Context, r *evidence.Request, now time.Time) (store.JoinToken, int, error) {
	d := r.CAData
	if !wire.HubNamesEqual(d.HubName, s.CA.HubName()) {
		return store.JoinToken{}, 0, errOtherHub
	}
	return s.ownershipOf(ctx, d.Owner, d.TokenID, r, d.Proof, now)
}

func passedOwnership(token string) string {
	return "Join token " + token + " of this owner signed for this IDevID key and this hub."
}

// ownershipOf checks an Ed25519 proof, which names this hub.
func (s *Service) ownershipOf(ctx context.Context, owner, tokenID string, r *evidence.Request, proof []byte, now time.Time) (store.JoinToken, int, error) {
	if len(owner) > wire.MaxOwner || !wire.IsID(tokenID) {
		return store.JoinToken{}, 0, errOwnership
	}
	token, generation, err := s.Store.JoinTokenAndGeneration(ctx, tokenID, r.EKHash)
	if errors.Is(err, store.ErrNotFound) {
		return store.JoinToken{}, 0, &evidence.Refusal{Code: CodeTokenUnknown, Reason: "There is no such join token.", Hint: "Make one with 'gangway token create' and put its file on the device."}
	}
	if err != nil {
		return store.JoinToken{}, 0, err
	}
	message := wire.OwnershipMessage(s.CA.HubName(), owner, tokenID, r.IDevIDName)
	if len(token.PublicKey) != ed25519.PublicKeySize || !ed25519.Verify(token.PublicKey, message, proof) {
		return store.JoinToken{}, 0, errOwnership
	}
	// Only now is it known that the sender has the token: what follows may
	// tell about it.
	if owner != wire.AccountPRN+token.Owner {
		return store.JoinToken{}, 0, &evidence.Refusal{Code: CodeTokenOwner, Reason: "The join token belongs to another owner than the request names.", Hint: "Use the join token file as the hub made it."}
	}
	if token.Disabled || !token.Expires.After(now) {
		return store.JoinToken{}, 0, errTokenUnusable
	}
	return token, generation, nil
}

var errTokenUnusable = &evidence.Refusal{Code: CodeTokenUnusable, Reason: "The join token is disabled or has expired.", Hint: "Make a new one with 'gangway token create'."}

func (s *Service) issue(e *store.Enrolment, r *evidence.Request, resident bool, now time.Time) error {
	iakKey, err := r.IAK.Key()
	if err != nil {
		return err
	}
	idevidKey, err := r.IDevID.Key()
	if err != nil {
		return err
	}
	hw := []byte(r.HardwareSerial(resident))
	if e.IAKCert, err = s.CA.IssueIAK(pki.IAKRequest{
		PublicKey: iakKey, DeviceID: e.DeviceID, AKName: r.IAKName, HWSerial: hw, NotBefore: now, Resident: resident,
		URI: s.aikAddress(r.IAKName),
	}); err != nil {
		return fmt.Errorf("onboard: issuing the IAK certificate: %w", err)
	}
	if e.IDevIDCert, err = s.CA.IssueIDevID(pki.IDevIDRequest{
		PublicKey: idevidKey, DeviceID: e.DeviceID, AKName: r.IAKName, HWSerial: hw, NotBefore: now, Resident: resident,
		OwnerPRN: wire.AccountPRN + e.Owner, TokenID: e.TokenID, DevicePRN: wire.DevicePRN + e.DeviceID,
	}); err != nil {
		return fmt.Errorf("onboard: issuing the IDevID certificate: %w", err)
	}
	e.IAKHash = sha256.Sum256(e.IAKCert)
	e.IDevIDHash = sha256.Sum256(e.IDevIDCert)
	return nil
}

// seal encrypts the certificates of a stored enrolment to the TPM.
func (s *Service) seal(e store.Enrolment, r *evidence.Request) ([]byte, error) {
	secret := s.secret(e.RequestHash)
	keys, err := wire.DeriveKeys(secret, e.RequestHash)
	if err != nil {
		return nil, err
	}
	var reply wire.Reply
	if reply.CredentialBlob, reply.Secret, err = tcg.MakeCredential(r.EK, e.IAKName, secret); err != nil {
		return nil, fmt.Errorf("onboard: %w", err)
	}
	chain, sealed := buffers.Get().(*[]byte), buffers.Get().(*[]byte)
	defer buffers.Put(chain)
	defer buffers.Put(sealed)
	*chain = (*chain)[:0]
	*chain = append(appendPEM(*chain, e.IDevIDCert), s.CA.DeviceCAPEM()...)
	*chain = append(appendPEM(*chain, e.IAKCert), s.CA.ACAPEM()...)
	if *sealed, err = wire.AppendSealed((*sealed)[:0], keys, *chain); err != nil {
		return nil, err
	}
	reply.Sealed = *sealed
	return reply.Encode(), nil
}

// buffers are for the certificates of a reply and for what they are sealed
// in. Neither is a secret: what is secret about a reply never gets into them.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 6<<10); return &b }}

// secret is what the reply to a request encrypts to the TPM: the same for the
// same request, and known to nobody without the seal key.
func (s *Service) secret(request store.Hash) []byte {
	secret := s.derive("gangway credential v1\x00", request[:])
	return secret[:wire.CredentialSize]
}

// deviceID is the id of a TPM's device: the same whenever it comes back,
// another one after its owner let it go. Nobody without the seal key can
// compute it from the (public) EK.
func (s *Service) deviceID(ek store.Hash, generation int) string {
	id := s.derive("gangway device id v1\x00", binary.BigEndian.AppendUint64(ek[:], uint64(generation)))
	return hex.EncodeToString(id[:12])
}

func (s *Service) derive(label string, data []byte) [sha256.Size]byte {
	return tcg.HMACSHA256(s.CA.SealKey(), []byte(label), data)
}

// Activate binds the device of a TLS connection: certHash is the SHA-256 of
// the leaf that the peer proved, exporter the connection's exported keying
// material (join.ExporterLabel), proof what the peer sent. A refusal is an
// error of type *evidence.Refusal.
func (s *Service) Activate(ctx context.Context, certHash [32]byte, exporter, proof []byte, addr string) (store.Device, error) {
	e, err := s.Store.EnrolmentByCertificate(ctx, certHash)
	if errors.Is(err, store.ErrNotFound) {
		return store.Device{}, &evidence.Refusal{Code: CodeUnknownCert, Reason: "The certificate is not in the hub's records.", Hint: "Onboard again."}
	}
	if err != nil {
		return store.Device{}, err
	}
	keys, err := wire.DeriveKeys(s.secret(e.RequestHash), e.RequestHash)
	if err != nil {
		return store.Device{}, err
	}
	if !wire.VerifyActivationProof(keys, exporter, certHash, proof) {
		return s.refuseActivation(ctx, e, addr, &evidence.Refusal{Code: CodeActivation, Reason: "The activation proof is not by the TPM that the certificate was sealed to, or not for this connection.", Hint: "Only the TPM of the EK certificate can activate; onboard again on the device itself."})
	}
	return s.bind(ctx, e, addr)
}

// refuseActivation tells the owner of the token. Where the TPM is another
// owner's device, its id is not theirs to know.
func (s *Service) refuseActivation(ctx context.Context, e store.Enrolment, addr string, r *evidence.Refusal) (store.Device, error) {
	if r.Code == CodeOtherOwner {
		e.DeviceID = s.waitingID(e.EK)
	}
	s.unproven(ctx, store.Event{Kind: "activation.refused", Code: r.Code, Owner: e.Owner, Token: e.TokenID, Device: e.DeviceID, Addr: addr, Message: r.Reason})
	return store.Device{}, r
}

// bind activates an enrolment whose peer has proven to be the TPM.
func (s *Service) bind(ctx context.Context, e store.Enrolment, addr string) (store.Device, error) {
	refuse := func(r *evidence.Refusal) (store.Device, error) { return s.refuseActivation(ctx, e, addr, r) }
	before, known, err := s.enrolmentOf(ctx, e.DeviceID)
	if err != nil {
		return store.Device{}, err
	}
	d, err := s.Store.Activate(ctx, store.Activation{IDevIDHash: e.IDevIDHash, Nick: Nick(e.DeviceID), Now: s.Now(), Addr: addr, Marks: chipMarks(e)})
	switch {
	case err == nil:
		if known && before.RequestHash != e.RequestHash {
			s.recordRepeatedOnboarding(ctx, d, before, e, addr)
		}
		return d, nil
	case errors.Is(err, store.ErrCloned):
		// The owner has decided it: a line for each try would fill their trail.
		return store.Device{}, ErrCloned
	case errors.Is(err, store.ErrEnrolmentExpired), errors.Is(err, store.ErrNotFound):
		return refuse(errExpired)
	case errors.Is(err, store.ErrSuperseded):
		return refuse(errSuperseded)
	case errors.Is(err, store.ErrRevoked):
		return refuse(errRevoked)
	case errors.Is(err, store.ErrTokenUnusable):
		return refuse(errTokenUnusable)
	case errors.Is(err, store.ErrTokenUsedUp):
		return refuse(&evidence.Refusal{Code: CodeTokenUsedUp, Reason: "The join token has been used as often as it allows.", Hint: "Make a new one with 'gangway token create'."})
	case errors.Is(err, store.ErrOtherEK):
		s.warnOwner(ctx, e, CodeOtherEK, addr)
		return refuse(&evidence.Refusal{Code: CodeOtherEK, Reason: "This TPM is registered already, under another of its endorsement keys.", Hint: "Onboard with the endorsement key it was registered with."})
	case errors.Is(err, store.ErrOtherOwner):
		s.warnOwner(ctx, e, CodeOtherOwner, addr)
		return refuse(&evidence.Refusal{Code: CodeOtherOwner, Reason: "This TPM belongs to another owner.", Hint: "Ask its owner to delete the device, which lets it go."})
	}
	return store.Device{}, err
}

// unproven is audit for what a peer caused that has proven nothing.
func (s *Service) unproven(ctx context.Context, e store.Event) {
	if s.Unproven == nil {
		e.Unproven = true
		s.audit(ctx, e)
		return
	}
	e.Time = s.Now()
	s.Unproven(ctx, e)
}

// audit appends to the trail. A trail that cannot be written is reported, and
// does not turn a refusal into another answer.
func (s *Service) audit(ctx context.Context, e store.Event) {
	e.Time = s.Now()
	if err := s.Store.AppendEvent(ctx, e.By(store.ActorIn(ctx))); err != nil {
		s.Log.Error("audit trail", "kind", e.Kind, "code", e.Code, "err", err)
	}
}
