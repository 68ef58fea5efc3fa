package store

import (
	"context"
	"errors"
	"time"
)

// Refusals of Activate. Test for them with errors.Is.
var (
	// ErrEnrolmentExpired means that the pending enrolment has expired.
	ErrEnrolmentExpired = errors.New("store: enrolment expired")
	// ErrSuperseded means that an enrolment of the same device that began later was already
	// activated.
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
	// ErrCloned means that the device's owner decided that several machines run with its TPM's
	// state.
	ErrCloned = errors.New("store: TPM state runs in several machines")
)

// TPM is an entry of the EK registry: an endorsement key that an activation has proven, and its
// owner.
type TPM struct {
	EK           Hash   // SHA-256 of the EK's SubjectPublicKeyInfo (DER)
	Owner        string // Account.ID; empty if the last owner released the TPM
	DeviceID     string // the TPM's device; empty if the TPM is released
	Generation   int    // how often the TPM was released; the device id is derived from this number
	Certificate  []byte // EK certificate, DER
	Manufacturer string // as in the EK certificate, e.g. "IFX", "id:00001014"
	Model        string
	Firmware     string
	FirstSeen    time.Time
}

// AIK is an entry of the AIK registry: an attestation key that is proven to be in the same TPM as
// EK.
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
	// Pending means that the certificates are issued and encrypted to the TPM, but that the TPM has
	// not proven the keys yet. The hub accepts the certificates only for the activation.
	Pending EnrolmentState = "pending"
	// Active means that an activation has proven the keys. The certificates are valid.
	Active EnrolmentState = "active"
	// Superseded means that the enrolment was active until a later enrolment of the same device was
	// activated.
	Superseded EnrolmentState = "superseded"
	// Revoked means that the device was deleted or its certificate revoked.
	Revoked EnrolmentState = "revoked"
	// Expired means that the enrolment was not activated before its Expires, or was removed to stay
	// within MaxPending. The store keeps only its fingerprints, for a limited time: see
	// RemoveExpiredEnrolments.
	Expired EnrolmentState = "expired"
)

// Bounds on the enrolments that the store keeps.
const (
	// MaxPending bounds an owner's pending enrolments: the bytes of evidence and certificates, plus
	// 1024 for each row. Anyone who has a join token can make pending enrolments with invented
	// keys. So at the bound, a new enrolment makes the oldest ones expire.
	MaxPending = 64 << 20
	// ExpiredFor is how long the fingerprints of an expired enrolment are kept. MaxExpired is the
	// largest number of these rows.
	ExpiredFor = 24 * time.Hour
	MaxExpired = 10_000
	// KeptSuperseded is the number of superseded enrolments of a device that are kept whole, in
	// addition to the active one. KeptFingerprints is the number of older ones that are kept
	// without their evidence. All others are removed, together with AIKs that only removed
	// enrolments registered.
	KeptSuperseded   = 2
	KeptFingerprints = 20
)

// Enrolment is one accepted request: its evidence, and the certificates that were issued for it.
// RequestHash makes enrolment idempotent: the same request gets the same enrolment.
type Enrolment struct {
	RequestHash Hash // SHA-256 of Request
	State       EnrolmentState
	DeviceID    string
	Owner       string // Account.ID
	TokenID     string
	Generation  int // TPM.Generation when the hub judged the request

	EK            Hash
	EKCertificate []byte // DER
	// EKKnown means that the EK certificate chains to a root that the hub trusts. EKLinks holds the
	// CA certificates between them, as KeptEKCertificate.Links does.
	EKKnown bool
	EKLinks []byte

	IAKName    []byte
	IAKPublic  []byte // TPMT_PUBLIC
	IDevIDName []byte

	IAKCert    []byte // DER
	IAKHash    Hash   // SHA-256 of IAKCert
	IDevIDCert []byte // DER
	IDevIDHash Hash   // SHA-256 of IDevIDCert

	Request []byte // for an auditor: the whole TCG-CSR-IDEVID, or the JSON of wire.Kept
	Verdict []byte // JSON of the evidence verdict

	Manufacturer string
	Model        string // the TPM's
	Firmware     string
	ProdModel    string // the machine's
	ProdSerial   string
	KeyAlgorithm string // of the IDevID key, e.g. "ECDSA P-256"

	Created time.Time
	Expires time.Time // when the enrolment expires if it is still pending
}

// Activation holds the facts that Activate needs in addition to the enrolment.
type Activation struct {
	IDevIDHash Hash   // SHA-256 of the IDevID certificate with which the device made the TLS connection
	Nick       string // proposed nick; used only for a new device; it gets a suffix if it is in use
	Now        time.Time
	Addr       string // the device's IP address, for LastSeenAddr
	// Marks holds the properties that the enrolment's EK certificate states about the chip.
	Marks []ChipMark
}

// ChipMark is a property that several EK certificates of one chip share. It is a hint for a person
// and decides nothing.
type ChipMark struct {
	Hash Hash
	What string // the property in words, such as "the same serial number"
}

// EventSameChip is the kind of the event that warns an owner that one of their devices may be the
// same chip as another device.
const EventSameChip = "device.same-chip"

// Registries are the EK registry and the AIK registry.
type Registries interface {
	// TPM returns the EK registry's entry for an endorsement key. ErrNotFound: the EK was never
	// activated at this hub.
	TPM(ctx context.Context, ek Hash) (TPM, error)
	// AIK returns the AIK registry's entry for a TPM name. ErrNotFound: the AIK is not registered.
	AIK(ctx context.Context, name []byte) (AIK, error)
}

// Enrolments stores enrolments, from the request until they are removed.
type Enrolments interface {
	// BeginEnrolment stores e as Pending and returns it. If a valid enrolment with the same
	// RequestHash exists, BeginEnrolment writes nothing and returns the stored enrolment: the same
	// request gets the same answer. If the stored enrolment is Expired, or Pending after its
	// Expires, e replaces it and begins now.
	//
	// BeginEnrolment changes only this enrolment: a pending row reserves no name, spends no use of
	// the join token and changes no other row. There are two exceptions. If e is EKKnown, its EK
	// certificate is stored for UnprovenEKKeptFor, as KeepEKCertificate does. If the owner's
	// Pending enrolments exceed MaxPending, the oldest ones become Expired.
	BeginEnrolment(ctx context.Context, e Enrolment, now time.Time) (Enrolment, error)
	// Enrolment finds an enrolment by the SHA-256 of its request. ErrNotFound: there is none.
	Enrolment(ctx context.Context, request Hash) (Enrolment, error)
	// EnrolmentByCertificate finds an enrolment by the SHA-256 of its IDevID certificate.
	EnrolmentByCertificate(ctx context.Context, idevid Hash) (Enrolment, error)
	// PendingEnrolments lists an owner's Pending enrolments that have not expired, newest first, at
	// most limit (0: 100; at most 1000). Only these fields are set: State, Owner, TokenID, EK, the
	// texts about the TPM and the machine, and the times.
	PendingEnrolments(ctx context.Context, owner string, now time.Time, limit int) ([]Enrolment, error)
	// Activate makes an enrolment Active. In one transaction, it binds the EK to the enrolment's
	// owner and device, binds the AIK to the EK, and spends one use of the join token (once for
	// each device). The device's former enrolment becomes Superseded, and the secret for the former
	// certificate (PutDeviceSecret) ends. Activate appends a "device.activated" event. If the
	// device onboards again, the event is counted as AppendCounted does.
	//
	// The EK is proven now. So its stored certificate no longer expires, and if the enrolment is
	// EKKnown, the enrolment's EK certificate replaces the stored one. Superseded enrolments beyond
	// KeptSuperseded and KeptFingerprints are removed.
	//
	// If the enrolment is already Active, Activate changes only LastSeen and returns the device. A
	// Pending enrolment that began before the device's Active one is refused: a delayed activation
	// must not replace a newer certificate. Enrolments are compared by the order in which the store
	// recorded them, not by Created, because a clock may be set back.
	//
	// If a device that is not deleted has one of the Marks, both owners get an EventSameChip, once
	// for each mark and device. The owner of the other device gets it once for each owner who
	// onboards a device with the mark.
	//
	// Refusals: ErrNotFound, ErrEnrolmentExpired, ErrSuperseded, ErrRevoked, ErrTokenUnusable,
	// ErrTokenUsedUp, ErrOtherOwner, ErrOtherEK, ErrCloned. A refusal changes nothing.
	Activate(ctx context.Context, a Activation) (Device, error)
	// ExpireEnrolments changes Pending enrolments whose Expires has passed to Expired, at most
	// limit. It removes everything from them except fingerprints, names and times. It returns the
	// number of enrolments that it changed.
	ExpireEnrolments(ctx context.Context, now time.Time, limit int) (int, error)
	// RemoveExpiredEnrolments removes Expired enrolments whose Expires is at or before the time
	// `before`. If more than `keep` others are left, it also removes those of them that expired
	// first. It removes at most limit enrolments, and returns their number.
	RemoveExpiredEnrolments(ctx context.Context, before time.Time, keep, limit int) (int, error)
}
