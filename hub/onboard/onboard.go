// Package onboard is the hub's part of onboarding: it verifies a request and its ownership proof,
// issues certificates, encrypts them to the TPM, and later activates the device.
//
// Enrol judges a request. It answers with certificates that only the TPM with the request's EK can
// decrypt, and only if the IAK is in the same TPM. Nothing is proven before the TPM has decrypted
// them, so the enrolment is pending, and nothing else in the database changes. Activate is called
// on the first TLS connection with the IDevID certificate. In one transaction, it makes the
// enrolment active, and binds the device to the owner. FirstStep and SecondStep are Pantacor's
// two-step enrolment; SecondStep ends with the same transaction.
//
// The service keeps no state in memory between the calls of Enrol and Activate. The secret in a
// reply is derived from the hub's seal key and the request's hash, so any replica can serve each
// call, a repeated request gets the same secret, and the database does not contain the secret.
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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/tracing/step"
	"gangway/tcg"
	"gangway/wire"
)

// PendingFor is how long a pending enrolment may be activated. It allows for a device that loses
// its network connection after the request, and activates the enrolment later.
const PendingFor = time.Hour

// Service onboards devices. Set its fields, and call SetTrust, before the first request.
type Service struct {
	Store Store
	CA    *pki.Hub
	Log   *slog.Logger
	Now   func() time.Time
	// PublicURL is the base of the AIK certificates' download URLs, without a trailing slash.
	PublicURL string
	// Online looks up CA certificates and revocation lists. If it is nil, the hub looks nothing up.
	Online Online
	// Observe (optional) is called for each accepted request, before the hub sends the reply. Its
	// arguments are the stored enrolment and the verdict. Observe must not block.
	Observe func(store.Enrolment, *evidence.Verdict)
	// Issued (optional) is called when the hub issues certificates to a machine, before it sends
	// them. Issued must not block.
	Issued func(store.Enrolment)
	// Signed (optional) is called with the SHA-256 of each IDevID certificate that this process has
	// signed, but not for a certificate that comes from the database. Signed must not block.
	Signed func(idevid store.Hash)
	// Unproven (optional) receives the events that are caused by peers that have proven nothing,
	// and can limit the number of these events in the audit trail. If it is nil, each event is
	// appended.
	Unproven func(context.Context, store.Event)

	makers   makers
	settings atomic.Pointer[settings]
	pending  pending
}

// Stable codes of the refusals that this package makes. Package evidence defines the other codes.
const (
	CodeHubName       = "hub-name"
	CodeOwnership     = "ownership-proof"
	CodeTokenUnknown  = "token-unknown"
	CodeTokenOwner    = "token-owner"
	CodeTokenUnusable = "token-unusable"
	CodeTokenUsedUp   = "token-used-up"
	CodeTokenPaused   = "token-paused"
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

// The texts of the refusal CodeTokenPaused.
const (
	ReasonTokenPaused = "The join token is paused, because the hub was restored from a backup and may have lost uses of the token."
	HintTokenPaused   = "Make a new join token with 'gangway token create', or ask the hub's operator to run 'gangway restore resume'."
)

var (
	errOwnership  = &evidence.Refusal{Code: CodeOwnership, Reason: "The ownership proof was not made with this join token for this key.", Hint: "Use the token file as the hub made it; each proof is valid for one device's key."}
	errOtherHub   = &evidence.Refusal{Code: CodeHubName, Reason: "The request is for another hub.", Hint: "Use a token file of this hub."}
	errSuperseded = &evidence.Refusal{Code: CodeSuperseded, Reason: "The device has onboarded again, with a later request.", Hint: "Use the later certificate, or onboard with a new request."}
	errExpired    = &evidence.Refusal{Code: CodeExpired, Reason: "The certificates expired before they were activated.", Hint: "Onboard again; the agent does this automatically."}
	errRevoked    = &evidence.Refusal{Code: CodeRevoked, Reason: "The device was deleted from the hub.", Hint: "To use the device again, onboard it with a join token."}
)

// Enrol answers a request body with a reply (JSON of wire.Reply). If a device sends the same body
// several times, each reply has certificates for the same device. If the request is refused, the
// error has the type *evidence.Refusal, and Enrol appends an event about the refusal. If the device
// must wait for its owner's decision, the error has the type *WaitingError.
func (s *Service) Enrol(ctx context.Context, body []byte, addr string) ([]byte, error) {
	e, request, err := s.enrol(ctx, body, addr)
	if err != nil {
		var refusal *evidence.Refusal
		if errors.As(err, &refusal) {
			s.unproven(ctx, store.Event{Kind: "enrolment.refused", Code: refusal.Code, Owner: e.Owner, Token: e.TokenID, Device: e.DeviceID, Addr: addr, Message: refusal.Reason})
		}
		return nil, err
	}
	return s.seal(ctx, e, request)
}

// enrol returns the stored enrolment. On a refusal, the returned enrolment has only the owner and
// the other fields for the audit trail, and is empty if the ownership proof was not yet verified.
func (s *Service) enrol(ctx context.Context, body []byte, addr string) (e store.Enrolment, r *evidence.Request, err error) {
	if r, err = evidence.Parse(body); err != nil {
		return e, nil, err
	}
	e, err = s.enrolAs(ctx, r, s.knownToken(r.CAData.TokenID), addr)
	if errors.Is(err, errAssumed) {
		e, err = s.enrolAs(ctx, r, nil, addr)
	}
	if err == nil && e.State == store.Pending {
		s.pending.put(e, r)
	}
	return e, r, err
}

// enrolAs does the work of enrol. If `known` is not nil, it is the request's join token as the hub
// has read it for an earlier request. Then enrolAs reads nothing about the token and the EK before
// it judges the request, but assumes that nothing has changed and that the EK is new. If this is
// wrong, it returns errAssumed. A request that was judged under a wrong assumption gets neither
// certificates nor a refusal.
func (s *Service) enrolAs(ctx context.Context, r *evidence.Request, known *store.TokenForEK, addr string) (e store.Enrolment, err error) {
	now := s.Now()
	verdict := new(evidence.Verdict)
	token, err := s.ownership(ctx, r, known, now)
	if err != nil {
		return e, err
	}
	e.Owner, e.TokenID = token.Owner, token.ID
	verdict.Pass("ownership", passedOwnership(token.ID))

	e.DeviceID, e.Generation = s.deviceID(store.Hash(r.EKHash), token.Generation), token.Generation
	e.RequestHash, e.Request = store.Hash(r.Hash), r.Raw
	e.ProdModel, e.ProdSerial = tcg.Printable(string(r.CSR.ProdModel)), tcg.Printable(string(r.CSR.ProdSerial))
	e, err = s.accept(ctx, verdict, r, e, standing{token.ConfigVersion, token.Waits, known != nil}, now, addr)
	if err == nil && known == nil {
		s.keepToken(token)
	}
	return e, err
}

// errAssumed means that the hub has judged a request under a wrong assumption.
var errAssumed = errors.New("onboard: what the hub assumed about the request is wrong")

// standing is what the hub knows about a request before it judges the request.
type standing struct {
	version int64 // store.Config.ConfigVersion
	waits   bool  // the owner may have decided about the EK; false: the owner had not decided
	assumed bool  // the hub has not read the other fields for this request: see enrolAs
}

// readFor is how long judging a request may take before the hub reads the owner's decision again.
// Judging usually takes less than a millisecond, but longer if the hub fetches a revocation list.
const readFor = 100 * time.Millisecond

// accept judges a request after its ownership is proven, issues the certificates and stores the
// enrolment. `e` has the request, its owner and its device. On a refusal, the returned enrolment
// has only the fields for the audit trail: the owner, the token and, if known, the waiting device's
// id.
func (s *Service) accept(ctx context.Context, verdict *evidence.Verdict, r *evidence.Request, e store.Enrolment, at standing, now time.Time, addr string) (store.Enrolment, error) {
	known := store.Enrolment{Owner: e.Owner, TokenID: e.TokenID}
	x, err := s.examine(ctx, verdict, r, e.Owner, at.version, now, evidence.Verify)
	if err != nil {
		return known, err
	}
	if at.assumed && !verdict.Accepted() {
		if at, err = s.standing(ctx, &e, r, at.version, now); err != nil {
			return known, err
		}
	}
	if verdict.Refusal != nil {
		return known, verdict.Refusal
	}

	// Do not check here whether the TPM belongs to another owner, or whether the token is used up.
	// The peer has not proven that it is the TPM, so it must not learn this. Activate checks both.
	e.State = store.Pending
	e.EK, e.EKCertificate = store.Hash(r.EKHash), r.EKCertificateDER()
	e.EKKnown, e.EKLinks, e.CommonLinks = x.known, x.links, x.common
	e.IAKName, e.IAKPublic, e.IDevIDName = r.IAKName, r.IAK.Raw, r.IDevIDName
	e.Manufacturer, e.Model, e.Firmware = r.Maker(), r.Model(), r.Firmware()
	e.KeyAlgorithm = r.IDevID.Algorithm()
	e.Created, e.Expires = now, now.Add(PendingFor)
	switch {
	case !verdict.Accepted():
		err = s.askOwner(ctx, verdict, e, addr)
	case at.assumed: // the store checks this when it stores the enrolment
	case at.waits, s.Now().Sub(now) > readFor:
		err = s.checkDenial(ctx, e)
	}
	if err != nil {
		known.DeviceID = s.waitingID(e.EK)
		return known, err
	}
	if e.Verdict, err = verdict.JSON(); err != nil {
		return e, err
	}
	if err := s.issue(ctx, &e, r, verdict.Resident(r), now); err != nil {
		return e, err
	}
	stored, err := s.begin(ctx, e, at, now)
	if err != nil {
		return e, err
	}
	switch stored.State {
	case store.Pending, store.Active:
		if s.Observe != nil {
			s.Observe(stored, verdict)
		}
		if s.Issued != nil && stored.State == store.Pending {
			s.Issued(stored)
		}
		return stored, nil
	case store.Superseded:
		return stored, errSuperseded // the enrolment was active, so its peer has proven that it is the TPM
	default:
		known.DeviceID = s.waitingID(e.EK)
		return known, errRevoked
	}
}

// standing returns what the hub knows about a request that it has judged under an assumption and
// not accepted. If the assumption is wrong, the verdict may be wrong too; then standing returns
// errAssumed.
func (s *Service) standing(ctx context.Context, e *store.Enrolment, r *evidence.Request, version int64, now time.Time) (standing, error) {
	t, err := s.Store.JoinTokenForEK(ctx, e.TokenID, r.EKHash, now)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return standing{}, errAssumed
	case err != nil:
		return standing{}, err
	case !t.Fits(e, version, now):
		return standing{}, errAssumed
	}
	return standing{version: version, waits: t.Waits}, nil
}

// begin stores an enrolment. If the request was judged under an assumption, and the assumption is
// wrong, it stores nothing and returns errAssumed.
func (s *Service) begin(ctx context.Context, e store.Enrolment, at standing, now time.Time) (store.Enrolment, error) {
	if !at.assumed {
		return s.Store.BeginEnrolment(ctx, e, now)
	}
	stored, err := s.Store.BeginEnrolmentIfUnchanged(ctx, e, at.version, now)
	if errors.Is(err, store.ErrChanged) {
		err = errAssumed
	}
	return stored, err
}

// deviceOf returns the id of the device that belongs to an EK, and the TPM's generation, which is
// how often an owner has released the TPM. The device need not exist.
func (s *Service) deviceOf(ctx context.Context, ek store.Hash) (id string, generation int, err error) {
	tpm, err := s.Store.TPM(ctx, ek)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return "", 0, err
	}
	return s.deviceID(ek, tpm.Generation), tpm.Generation, nil
}

// ownership verifies the ownership proof of a request, and returns the join token, with the data
// that the store read together with it. If `known` is not nil, it is the join token, and ownership
// reads nothing.
func (s *Service) ownership(ctx context.Context, r *evidence.Request, known *store.TokenForEK, now time.Time) (store.TokenForEK, error) {
	d := r.CAData
	if !wire.HubNamesEqual(d.HubName, s.CA.HubName()) {
		return store.TokenForEK{}, errOtherHub
	}
	if known != nil {
		return *known, s.owned(known, d.Owner, r, d.Proof, now)
	}
	return s.ownershipOf(ctx, d.Owner, d.TokenID, r, d.Proof, now)
}

func passedOwnership(token string) string {
	return "This owner's join token " + token + " signed the name of this IDevID key, for this hub."
}

// ownershipOf verifies an ownership proof that is an Ed25519 signature. The signed message contains
// the name of this hub.
func (s *Service) ownershipOf(ctx context.Context, owner, tokenID string, r *evidence.Request, proof []byte, now time.Time) (store.TokenForEK, error) {
	if len(owner) > wire.MaxOwner || !wire.IsID(tokenID) {
		return store.TokenForEK{}, errOwnership
	}
	token, err := s.Store.JoinTokenForEK(ctx, tokenID, r.EKHash, now)
	if errors.Is(err, store.ErrNotFound) {
		return store.TokenForEK{}, &evidence.Refusal{Code: CodeTokenUnknown, Reason: "The hub does not have this join token.", Hint: "Make a join token with 'gangway token create' and put its token file on the device."}
	}
	if err != nil {
		return store.TokenForEK{}, err
	}
	if err := s.owned(&token, owner, r, proof, now); err != nil {
		return store.TokenForEK{}, err
	}
	return token, nil
}

// owned verifies an ownership proof with the token that the request names.
func (s *Service) owned(token *store.TokenForEK, owner string, r *evidence.Request, proof []byte, now time.Time) error {
	message := wire.OwnershipMessage(s.CA.HubName(), owner, token.ID, r.IDevIDName)
	if len(token.PublicKey) != ed25519.PublicKeySize || !ed25519.Verify(token.PublicKey, message, proof) {
		return errOwnership
	}
	// The sender has now proven that it has the token, so refusals may reveal the token's state.
	if owner != wire.AccountPRN+token.Owner {
		return &evidence.Refusal{Code: CodeTokenOwner, Reason: "The join token does not belong to the owner that the request names.", Hint: "Use the token file as the hub made it."}
	}
	if token.Disabled || !token.Expires.After(now) {
		return errTokenUnusable
	}
	return nil
}

var errTokenUnusable = &evidence.Refusal{Code: CodeTokenUnusable, Reason: "The join token is disabled or has expired.", Hint: "Make a new one with 'gangway token create'."}

func (s *Service) issue(ctx context.Context, e *store.Enrolment, r *evidence.Request, resident bool, now time.Time) error {
	iakKey, err := r.IAK.Key()
	if err != nil {
		return err
	}
	idevidKey, err := r.IDevID.Key()
	if err != nil {
		return err
	}
	hw := []byte(r.HardwareSerial(resident))
	_, span := step.Begin(ctx, "ca.sign-certificates")
	defer span.End()
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
	if s.Signed != nil {
		s.Signed(e.IDevIDHash)
	}
	return nil
}

// seal returns the reply with a stored enrolment's certificates, encrypted to the TPM.
func (s *Service) seal(ctx context.Context, e store.Enrolment, r *evidence.Request) ([]byte, error) {
	_, span := step.Begin(ctx, "tpm.make-credential")
	defer span.End()
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

// buffers has the buffers in which the hub makes replies. A buffer that is used again may still
// contain the certificates of an earlier reply, but never a secret.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 6<<10); return &b }}

// secret returns the secret that the reply to a request encrypts to the TPM. A repeated request
// gets the same secret, which nobody can compute without the seal key.
func (s *Service) secret(request store.Hash) []byte {
	secret := s.derive("gangway credential v1\x00", request[:])
	return secret[:wire.CredentialSize]
}

// deviceID returns the id of a TPM's device. The id stays the same when the TPM onboards again, and
// changes when the owner releases the TPM. Although the EK is public, nobody can compute the id
// from it without the seal key.
func (s *Service) deviceID(ek store.Hash, generation int) string {
	id := s.derive("gangway device id v1\x00", binary.BigEndian.AppendUint64(ek[:], uint64(generation)))
	return hex.EncodeToString(id[:12])
}

// deviceIDs returns all ids that the device with this enrolment's TPM may have. The id changes each
// time the owner releases the TPM, and if the hub was restored from a backup, the database may have
// lost the last releases. deviceIDs assumes that at most lostReleases of them are lost.
func (s *Service) deviceIDs(e store.Enrolment) (ids []string) {
	for n := range 1 + lostReleases {
		ids = append(ids, s.deviceID(e.EK, e.Generation+n))
	}
	return ids
}

// lostReleases is the largest number of lost releases of one TPM that the hub allows for. A release
// is lost if it was made after the backup from which the hub was restored.
const lostReleases = 8

func (s *Service) derive(label string, data []byte) [sha256.Size]byte {
	return tcg.HMACSHA256(s.CA.SealKey(), []byte(label), data)
}

// Activate binds the device at the other end of a TLS connection to its owner. `certHash` is the
// SHA-256 of the client certificate, whose key the peer has proven to have. `exporter` is the
// connection's exported keying material (wire.ExporterLabel). `proof` is the activation proof that
// the peer sent. A refusal is an error of type *evidence.Refusal.
func (s *Service) Activate(ctx context.Context, certHash [32]byte, exporter, proof []byte, addr string) (store.Device, error) {
	p := s.pending.take(certHash)
	if p == nil {
		var err error
		if p, err = s.toActivate(ctx, certHash); err != nil {
			return store.Device{}, err
		}
	}
	keys, err := wire.DeriveKeys(s.secret(p.RequestHash), p.RequestHash)
	if err != nil {
		return store.Device{}, err
	}
	if !wire.VerifyActivationProof(keys, exporter, certHash, proof) {
		return s.refuseActivation(ctx, p.Enrolment, addr, &evidence.Refusal{Code: CodeActivation, Reason: "Another TPM made the activation proof, or the activation proof is for another connection.", Hint: "Only the TPM with the request's EK can activate. Onboard again on the device itself."})
	}
	d, err := s.bind(ctx, p, addr)
	if errors.Is(err, errAssumed) {
		if p, err = s.toActivate(ctx, certHash); err == nil {
			d, err = s.bind(ctx, p, addr)
		}
	}
	return d, err
}

// refuseActivation returns a refusal, after it has recorded it for the token's owner. If the TPM
// belongs to another owner, the event does not reveal the id of that owner's device.
func (s *Service) refuseActivation(ctx context.Context, e store.Enrolment, addr string, r *evidence.Refusal) (store.Device, error) {
	if r.Code == CodeOtherOwner {
		e.DeviceID = s.waitingID(e.EK)
	}
	s.unproven(ctx, store.Event{Kind: "activation.refused", Code: r.Code, Owner: e.Owner, Token: e.TokenID, Device: e.DeviceID, Addr: addr, Message: r.Reason + s.whoIsRefused(ctx, e)})
	return store.Device{}, r
}

// whoIsRefused returns a sentence that names the refused machine and its join token, so that the
// token's owner can identify both.
func (s *Service) whoIsRefused(ctx context.Context, e store.Enrolment) string {
	machine := "The machine does not state its model"
	if model := strings.TrimSpace(e.ProdModel); model != "" {
		machine = fmt.Sprintf("The machine is %.64q", model)
	}
	if e.ProdSerial != "" {
		machine += fmt.Sprintf(", serial number %.64q", e.ProdSerial)
	}
	token := e.TokenID
	if t, err := s.Store.JoinToken(ctx, e.TokenID); err == nil && t.Nick != "" {
		token = fmt.Sprintf("%q (%s)", t.Nick, t.ID)
	}
	return fmt.Sprintf(" %s; its join token is %s.", machine, token)
}

// bind activates an enrolment after the peer has proven that it is the TPM. If p.first is wrong, it
// changes nothing and returns errAssumed.
func (s *Service) bind(ctx context.Context, p *pendingEnrolment, addr string) (store.Device, error) {
	e := p.Enrolment
	again := p.before != (store.Hash{}) && p.before != e.RequestHash
	var was, is store.Enrolment // both have their evidence
	if again {
		var err error
		if was, err = s.Store.Enrolment(ctx, p.before); err == nil {
			is, err = s.Store.Enrolment(ctx, e.RequestHash)
		}
		if err != nil {
			return store.Device{}, err
		}
	}
	d, err := s.Store.Activate(ctx, store.Activation{
		IDevIDHash: e.IDevIDHash, Nick: Nick(e.DeviceID), Now: s.Now(), Addr: addr, Marks: p.marks, First: p.first,
		DeviceIDs: func() []string { return s.deviceIDs(e) },
	})
	if err != nil {
		return s.refusedByStore(ctx, p, err, addr)
	}
	if again {
		s.recordRepeatedOnboarding(ctx, d, was, is, addr)
	}
	return d, nil
}

// refusedByStore returns the refusal that follows from an error of Store.Activate, after it has
// recorded it. It returns an unexpected error as it is.
func (s *Service) refusedByStore(ctx context.Context, p *pendingEnrolment, err error, addr string) (store.Device, error) {
	e := p.Enrolment
	refuse := func(r *evidence.Refusal) (store.Device, error) { return s.refuseActivation(ctx, e, addr, r) }
	switch {
	case p.first && errors.Is(err, store.ErrChanged):
		return store.Device{}, errAssumed
	case errors.Is(err, store.ErrCloned):
		// The refusal follows from the owner's own decision, so the owner knows about it, and
		// retries of the device append no events.
		return store.Device{}, ErrCloned
	case errors.Is(err, store.ErrEnrolmentExpired), errors.Is(err, store.ErrNotFound):
		return refuse(errExpired)
	case errors.Is(err, store.ErrSuperseded):
		return refuse(errSuperseded)
	case errors.Is(err, store.ErrRevoked):
		return refuse(errRevoked)
	case errors.Is(err, store.ErrTokenUnusable):
		return refuse(errTokenUnusable)
	case errors.Is(err, store.ErrTokenPaused):
		return refuse(&evidence.Refusal{Code: CodeTokenPaused, Reason: ReasonTokenPaused, Hint: HintTokenPaused})
	case errors.Is(err, store.ErrTokenUsedUp):
		return refuse(&evidence.Refusal{Code: CodeTokenUsedUp, Reason: "The join token has reached its maximum number of devices.", Hint: "Make a new one with 'gangway token create'."})
	case errors.Is(err, store.ErrOtherEK):
		s.warnOwner(ctx, e, CodeOtherEK, addr)
		return refuse(&evidence.Refusal{Code: CodeOtherEK, Reason: "This TPM is already registered under another of its endorsement keys.", Hint: "Onboard with the endorsement key under which the TPM is registered."})
	case errors.Is(err, store.ErrOtherOwner):
		s.warnOwner(ctx, e, CodeOtherOwner, addr)
		return refuse(&evidence.Refusal{Code: CodeOtherOwner, Reason: "This TPM belongs to another owner.", Hint: "Ask its owner to delete the device, which releases the TPM."})
	}
	return store.Device{}, err
}

// unproven passes an event that was caused by a peer that has proven nothing to s.Unproven. If
// s.Unproven is nil, it appends the event to the audit trail.
func (s *Service) unproven(ctx context.Context, e store.Event) {
	if s.Unproven == nil {
		e.Unproven = true
		s.audit(ctx, e)
		return
	}
	e.Time = s.Now()
	s.Unproven(ctx, e)
}

// audit appends an event to the audit trail. It only logs an error of the store, because the
// caller's answer does not depend on it.
func (s *Service) audit(ctx context.Context, e store.Event) {
	e.Time = s.Now()
	if err := s.Store.AppendEvent(ctx, e.By(store.ActorIn(ctx))); err != nil {
		s.Log.Error("could not append an event to the audit trail", "kind", e.Kind, "code", e.Code, "err", err)
	}
}
