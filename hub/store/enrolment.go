package store

import (
	"context"
	"errors"
	"time"
)

// The reasons for which Activate refuses an enrolment. Test for them with errors.Is.
var (
	// ErrEnrolmentExpired means that the pending enrolment has expired.
	ErrEnrolmentExpired = errors.New("store: enrolment expired")
	// ErrSuperseded means that a newer enrolment of the same device was already activated.
	ErrSuperseded = errors.New("store: enrolment superseded")
	// ErrTokenUnusable means that the join token is disabled or has expired.
	ErrTokenUnusable = errors.New("store: join token disabled or expired")
	// ErrTokenUsedUp means that other devices have spent all uses of the join token.
	ErrTokenUsedUp = errors.New("store: join token used up")
	// ErrOtherOwner means that the TPM is bound to another owner.
	ErrOtherOwner = errors.New("store: TPM belongs to another owner")
	// ErrOtherEK means that the IAK is registered under another endorsement key of the same TPM.
	ErrOtherEK = errors.New("store: IAK registered under another endorsement key")
	// ErrRevoked means that the device was deleted after the enrolment began.
	ErrRevoked = errors.New("store: device revoked")
	// ErrCloned means that the device's owner has refused it, because several machines run with
	// copies of its TPM state.
	ErrCloned = errors.New("store: several machines run with the same TPM state")
)

// TPM is an entry of the EK registry: an endorsement key that an activation has proven, and its
// owner.
type TPM struct {
	EK           Hash   // SHA-256 of the EK's SubjectPublicKeyInfo (DER)
	Owner        string // Account.ID; empty if the last owner released the TPM
	DeviceID     string // the TPM's device; empty if the TPM is released
	Generation   int    // how often the TPM was released; the device id depends on this number
	Certificate  []byte // EK certificate, DER
	Manufacturer string // as in the EK certificate, e.g. "IFX", "id:00001014"
	Model        string
	Firmware     string
	FirstSeen    time.Time
}

// AIK is an entry of the AIK registry: an attestation key that has been proven to be in the same
// TPM as the EK.
type AIK struct {
	Name        []byte // TPM name: 2-byte nameAlg, then the digest of the public area
	EK          Hash
	DeviceID    string
	Public      []byte // TPMT_PUBLIC
	Certificate []byte // DER, issued by the hub's ACA
	Registered  time.Time
}

// EnrolmentState is the state of an enrolment and of its two certificates.
type EnrolmentState string

const (
	// Pending means that the hub has issued the certificates and encrypted them to the TPM, which
	// has not proven the keys yet. The hub accepts the certificates only for the activation.
	Pending EnrolmentState = "pending"
	// Active means that an activation has proven the keys. The certificates are valid.
	Active EnrolmentState = "active"
	// Superseded means that the enrolment was active until a later enrolment of the same device was
	// activated.
	Superseded EnrolmentState = "superseded"
	// Revoked means that the device was deleted or its certificate revoked.
	Revoked EnrolmentState = "revoked"
	// Expired means that the enrolment was not activated before its Expires, or that MaxPending was
	// exceeded. The store keeps only the fingerprints of an expired enrolment, for a limited time:
	// see RemoveExpiredEnrolments.
	Expired EnrolmentState = "expired"
)

// Bounds on the enrolments that the store keeps.
const (
	// MaxPending bounds an owner's pending enrolments, in bytes: the size of their evidence and
	// certificates, plus 1024 for each enrolment. Because anyone who has a join token can make
	// pending enrolments with invented keys, the oldest pending enrolments expire if a new one
	// exceeds the bound.
	MaxPending = 64 << 20
	// ExpiredFor is how long the fingerprints of an expired enrolment are kept. MaxExpired is the
	// maximum number of expired enrolments.
	ExpiredFor = 24 * time.Hour
	MaxExpired = 10_000
	// KeptSuperseded is the number of superseded enrolments of a device that are kept with their
	// evidence. KeptFingerprints is the number of older ones that are kept without it. All still
	// older enrolments are removed, and so are the AIKs that only these enrolments registered.
	KeptSuperseded   = 2
	KeptFingerprints = 20
)

// Enrolment is one accepted request: its evidence, and the certificates that were issued for it.
// RequestHash makes enrolment idempotent: the same request always leads to the same enrolment.
type Enrolment struct {
	RequestHash Hash // SHA-256 of Request
	State       EnrolmentState
	DeviceID    string
	Owner       string // Account.ID
	TokenID     string
	Generation  int // TPM.Generation when the hub judged the request

	EK            Hash
	EKCertificate []byte // DER
	// EKKnown means that the EK certificate chains to a root that the hub trusts. EKLinks has the
	// CA certificates between that root and the EK certificate, encoded like
	// KeptEKCertificate.Links.
	EKKnown bool
	EKLinks []byte
	// CommonLinks means that EKLinks come from the hub's trust store or from the TPM's maker, and
	// not from the request. Because other devices then have the same EKLinks, the store keeps only
	// one copy. CommonLinks itself is not stored.
	CommonLinks bool

	IAKName    []byte
	IAKPublic  []byte // TPMT_PUBLIC
	IDevIDName []byte

	IAKCert    []byte // DER
	IAKHash    Hash   // SHA-256 of IAKCert
	IDevIDCert []byte // DER
	IDevIDHash Hash   // SHA-256 of IDevIDCert

	Request []byte // evidence for an auditor: the whole TCG-CSR-IDEVID, or the JSON of a wire.RegistrationRecord
	Verdict []byte // JSON of the evidence verdict

	Manufacturer string
	Model        string // model of the TPM
	Firmware     string
	ProdModel    string // model of the machine
	ProdSerial   string
	KeyAlgorithm string // of the IDevID key, e.g. "ECDSA P-256"

	Created time.Time
	Expires time.Time // when the enrolment expires if it is still pending
}

// Activation is what Activate needs to know in addition to the stored enrolment.
type Activation struct {
	IDevIDHash Hash   // SHA-256 of the IDevID certificate with which the device made the TLS connection
	Nick       string // proposed nick, for a new device only; the nick gets a suffix if it is in use
	Now        time.Time
	Addr       string // the device's IP address, for LastSeenAddr
	// Marks are the properties of the TPM that the enrolment's EK certificate states.
	Marks []ChipMark
	// First means that the caller assumes that the device has never onboarded before. If it has, and
	// Activate would make the enrolment Active, Activate changes nothing and returns ErrChanged.
	First bool
	// DeviceIDs returns ids that the device may have had before the hub was restored from a backup.
	// Activate calls it only if there are lost devices. If it is nil, there are no such ids.
	DeviceIDs func() []string
}

// ChipMark is a property that several EK certificates of the same TPM have in common. It is only a
// hint for a person: the hub refuses nothing because of it.
type ChipMark struct {
	Hash Hash
	What string // the property in words, such as "the same serial number"
}

// EventSameChip is the kind of the event that warns an owner that one of the owner's devices may be
// using the same TPM as another device.
const EventSameChip = "device.same-chip"

// Registries are the EK registry and the AIK registry.
type Registries interface {
	// TPM returns an endorsement key's entry in the EK registry. ErrNotFound: the EK was never
	// activated at this hub.
	TPM(ctx context.Context, ek Hash) (TPM, error)
	// AIK returns the AIK registry's entry for the key with this TPM name. ErrNotFound: the AIK is
	// not registered.
	AIK(ctx context.Context, name []byte) (AIK, error)
}

// Enrolments stores enrolments, from the request until they are removed.
type Enrolments interface {
	// BeginEnrolment stores the enrolment `e` as Pending, and returns it. If a valid enrolment with
	// the same RequestHash exists, BeginEnrolment writes nothing and returns that one instead, so
	// that the same request gets the same answer. If the stored enrolment is Expired, or is Pending
	// after its Expires, `e` replaces it, and begins at the time `now`.
	//
	// BeginEnrolment changes nothing but this enrolment, which reserves no name and spends no use
	// of the join token while it is pending. There are two exceptions: if e.EKKnown is true and no
	// certificate is stored for the EK, EKCertificate finds the certificate of this enrolment for
	// UnprovenEKKeptFor; and if the owner's Pending enrolments exceed MaxPending, the oldest of them
	// become Expired, and their EK certificates are forgotten.
	BeginEnrolment(ctx context.Context, e Enrolment, now time.Time) (Enrolment, error)
	// BeginEnrolmentIfUnchanged is like BeginEnrolment, but for a request that the hub has judged
	// without reading the database. It stores the enrolment only if all of these assumptions of the
	// hub are true in the same transaction. Otherwise, it returns ErrChanged and writes nothing:
	//
	//   - ConfigVersion is still `version`,
	//   - the owner of the join token is e.Owner, and neither the token nor the account is disabled,
	//   - the token expires after the time `now`,
	//   - TPM.Generation of the EK is e.Generation, which is 0 for an unknown EK, and
	//   - WaitingByEK finds no device of the owner with this EK.
	BeginEnrolmentIfUnchanged(ctx context.Context, e Enrolment, version int64, now time.Time) (Enrolment, error)
	// Enrolment finds an enrolment by the SHA-256 of its request. ErrNotFound: no enrolment has
	// this RequestHash.
	Enrolment(ctx context.Context, request Hash) (Enrolment, error)
	// EnrolmentByCertificate finds an enrolment by the SHA-256 of its IDevID certificate.
	EnrolmentByCertificate(ctx context.Context, idevid Hash) (Enrolment, error)
	// EnrolmentToActivate finds an enrolment by the SHA-256 of its IDevID certificate. It reads
	// less than EnrolmentByCertificate: the fields Request, Verdict, IAKPublic, IAKCert, IDevIDCert
	// and EKLinks are empty. `before` is the RequestHash of the device's Active enrolment, or zero
	// if there is no such device or it has no Active enrolment.
	EnrolmentToActivate(ctx context.Context, idevid Hash) (e Enrolment, before Hash, err error)
	// PendingEnrolments lists at most `limit` of an owner's Pending enrolments (0: 100; at most
	// 1000) that have not expired, newest first. It sets only these fields: State, Owner, TokenID,
	// EK, the times, and the texts that describe the TPM and the machine.
	PendingEnrolments(ctx context.Context, owner string, now time.Time, limit int) ([]Enrolment, error)
	// Activate makes an enrolment Active. In one transaction, it binds the EK to the enrolment's
	// owner and device, binds the AIK to the EK, and spends one use of the join token (only once
	// per device). The device's former enrolment becomes Superseded, and the device secret that was
	// issued for the former certificate (see PutDeviceSecret) ends. Activate appends a
	// "device.activated" event. If the device has onboarded before, it appends the event as
	// AppendCounted does, so that several such events on one day become one.
	//
	// Because the activation proves the EK, the EK's stored certificate no longer expires. If
	// EKKnown is true, the enrolment's EK certificate replaces it. Superseded enrolments beyond
	// KeptSuperseded and KeptFingerprints are removed.
	//
	// If the enrolment is already Active, Activate changes only LastSeen, and returns the device.
	// It refuses a Pending enrolment that began before the device's Active enrolment, because a
	// delayed activation must not replace a newer certificate. The store goes by the order in which
	// it recorded the enrolments, and not by the times in Created, because a clock may be set back.
	//
	// If other devices that are not deleted have one of the Marks, Activate appends an
	// EventSameChip for the owner of the activated device: at most one event per activation, about
	// the oldest of the other devices. It also appends an event for each other device that belongs
	// to another owner, but an account can cause only one such event per device, even if it
	// activates several devices with the same mark.
	//
	// Refusals: ErrNotFound, ErrEnrolmentExpired, ErrSuperseded, ErrRevoked, ErrTokenUnusable,
	// ErrTokenUsedUp, ErrOtherOwner, ErrOtherEK, ErrCloned, and ErrChanged (see Activation.First). A
	// refusal changes nothing.
	Activate(ctx context.Context, a Activation) (Device, error)
	// ExpireEnrolments makes at most `limit` Pending enrolments Expired whose Expires has passed,
	// and removes all their data except fingerprints, names and times. It returns how many
	// enrolments it changed.
	ExpireEnrolments(ctx context.Context, now time.Time, limit int) (int, error)
	// PackEvidence rewrites at most `limit` enrolments that an earlier version of the hub stored,
	// so that they take less space. This does not change the results of other methods. `more` is
	// true if there are further enrolments to rewrite.
	PackEvidence(ctx context.Context, limit int) (more bool, err error)
	// RemoveExpiredEnrolments removes Expired enrolments whose Expires is at or before the time
	// `before`. If more than `keep` Expired enrolments are left, it also removes those that expired
	// first, until `keep` are left. It removes at most `limit` enrolments, and returns how many it
	// removed.
	RemoveExpiredEnrolments(ctx context.Context, before time.Time, keep, limit int) (int, error)
}
