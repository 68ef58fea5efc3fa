package store

import (
	"context"
	"errors"
	"time"
)

// Refusals of Activate, tested with errors.Is.
var (
	// ErrEnrolmentExpired: the pending enrolment has expired.
	ErrEnrolmentExpired = errors.New("store: enrolment expired")
	// ErrSuperseded: an enrolment of the same device that began later was activated.
	ErrSuperseded = errors.New("store: enrolment superseded")
	// ErrTokenUnusable: the token is disabled or has expired.
	ErrTokenUnusable = errors.New("store: join token disabled or expired")
	// ErrTokenUsedUp: other devices have spent all uses of the token.
	ErrTokenUsedUp = errors.New("store: join token used up")
	// ErrOtherOwner: the TPM is bound to another owner.
	ErrOtherOwner = errors.New("store: TPM belongs to another owner")
	// ErrOtherEK: the IAK is registered under another endorsement key of the same TPM.
	ErrOtherEK = errors.New("store: IAK registered under another endorsement key")
	// ErrRevoked: the device was deleted after the enrolment was made.
	ErrRevoked = errors.New("store: device revoked")
	// ErrCloned: the device's owner has decided that several machines run with its TPM's state.
	ErrCloned = errors.New("store: TPM state runs in several machines")
)

// TPM is an entry of the EK registry: an endorsement key that was proven at an activation, and
// its owner.
type TPM struct {
	EK           Hash   // SHA-256 of the EK's SubjectPublicKeyInfo (DER)
	Owner        string // Account.ID; empty: the last owner released it
	DeviceID     string // the TPM's device; empty: released
	Generation   int    // how often the TPM was released; the device id is derived from it
	Certificate  []byte // EK certificate, DER
	Manufacturer string // as in the EK certificate, e.g. "IFX", "id:00001014"
	Model        string
	Firmware     string
	FirstSeen    time.Time
}

// AIK is an entry of the AIK registry: an attestation key proven to be in the same TPM as EK.
type AIK struct {
	Name        []byte // TPM name: 2-byte nameAlg, then the digest of the public area
	EK          Hash
	DeviceID    string
	Public      []byte // TPMT_PUBLIC
	Certificate []byte // DER, by the ACA
	Registered  time.Time
}

// EnrolmentState is the life of an enrolment and of the two certificates in it.
type EnrolmentState string

const (
	// Pending: issued and encrypted to the TPM, not proven yet. Its certificates are accepted for
	// activation only.
	Pending EnrolmentState = "pending"
	// Active: proven by an activation; the certificates are valid.
	Active EnrolmentState = "active"
	// Superseded: it was active, until an enrolment of the same device that began later was
	// activated.
	Superseded EnrolmentState = "superseded"
	// Revoked: the device was deleted or its certificate revoked.
	Revoked EnrolmentState = "revoked"
	// Expired: not activated before its Expires, or pushed out (MaxPending). Only its fingerprints
	// are kept, for a limited time: see RemoveExpiredEnrolments.
	Expired EnrolmentState = "expired"
)

// Bounds of what the hub keeps of enrolments.
const (
	// MaxPending bounds an owner's pending enrolments, in bytes of evidence and certificates plus
	// 1024 for each row. The holder of a join token can make pending enrolments with invented
	// keys, so at the bound a new one pushes out those that began first.
	MaxPending = 64 << 20
	// ExpiredFor is how long a hub keeps the fingerprints of an enrolment that has expired, and
	// MaxExpired how many of these rows.
	ExpiredFor = 24 * time.Hour
	MaxExpired = 10_000
	// KeptSuperseded is how many superseded enrolments of a device are kept whole, in addition to
	// the active one; KeptFingerprints is how many older ones are kept without their evidence. The
	// rest is removed, with AIKs that only removed enrolments registered.
	KeptSuperseded   = 2
	KeptFingerprints = 20
)

// Enrolment is one accepted request: the evidence, and the certificates that were issued for it.
// RequestHash makes it idempotent.
type Enrolment struct {
	RequestHash Hash // SHA-256 of Request
	State       EnrolmentState
	DeviceID    string
	Owner       string // Account.ID
	TokenID     string
	Generation  int // TPM.Generation when the request was judged

	EK            Hash
	EKCertificate []byte // DER
	// EKKnown: the EK certificate's chain leads to a root that the hub knows; EKLinks are the
	// certificates between them, as in KeptEKCertificate.
	EKKnown bool
	EKLinks []byte

	IAKName    []byte
	IAKPublic  []byte // TPMT_PUBLIC
	IDevIDName []byte

	IAKCert    []byte // DER
	IAKHash    Hash   // SHA-256 of IAKCert
	IDevIDCert []byte // DER
	IDevIDHash Hash   // SHA-256 of IDevIDCert

	Request []byte // for the auditor: the whole TCG-CSR-IDEVID, or wire.Kept
	Verdict []byte // JSON of the evidence verdict

	Manufacturer string
	Model        string // the TPM's
	Firmware     string
	ProdModel    string // the machine's
	ProdSerial   string
	KeyAlgorithm string // of the IDevID key, e.g. "ECDSA P-256"

	Created time.Time
	Expires time.Time // while pending
}

// Activation is what Activate needs to know in addition to the enrolment.
type Activation struct {
	IDevIDHash Hash   // SHA-256 of the certificate that the TLS peer proved
	Nick       string // proposed; used only for a new device; gets a suffix if it is in use
	Now        time.Time
	Addr       string // the peer's address, for LastSeenAddr
	// Marks are the properties of the chip that the enrolment's EK certificate states.
	Marks []ChipMark
}

// ChipMark is a property that EK certificates of the same chip share. It is evidence for a
// person, and decides nothing.
type ChipMark struct {
	Hash Hash
	What string // in words: "the same serial number"
}

// EventSameChip is the kind of the event that warns an owner: one of their devices may be the
// same chip as another device.
const EventSameChip = "device.same-chip"

// Registries are the EK registry and the AIK registry.
type Registries interface {
	// TPM returns the registry's entry for an endorsement key. ErrNotFound: it never activated
	// here.
	TPM(ctx context.Context, ek Hash) (TPM, error)
	// AIK returns the AIK registry's entry for a TPM name.
	AIK(ctx context.Context, name []byte) (AIK, error)
}

// Enrolments keeps enrolments, from the request to their removal.
type Enrolments interface {
	// BeginEnrolment stores e as Pending and returns it. If an enrolment with the same RequestHash
	// exists, and is neither Expired nor Pending past its Expires, nothing is written and the
	// stored one is returned: the same request gets the same answer. An expired one is replaced,
	// and begins now.
	//
	// Only the enrolment is touched: a pending row reserves no name, spends no use of the token and
	// changes no other row. An EK certificate that is EKKnown is kept as KeepEKCertificate does, for
	// UnprovenEKKeptFor. If the owner's Pending enrolments exceed MaxPending, those that began first become
	// Expired.
	BeginEnrolment(ctx context.Context, e Enrolment, now time.Time) (Enrolment, error)
	// Enrolment finds an enrolment by its request. ErrNotFound.
	Enrolment(ctx context.Context, request Hash) (Enrolment, error)
	// EnrolmentByCertificate finds an enrolment by the SHA-256 of its IDevID certificate.
	EnrolmentByCertificate(ctx context.Context, idevid Hash) (Enrolment, error)
	// PendingEnrolments lists an owner's Pending enrolments that have not expired, those that began
	// last first, at most limit (0: 100, at most 1000). They have only the Owner, TokenID, EK, texts
	// about the TPM and the machine, and times.
	PendingEnrolments(ctx context.Context, owner string, now time.Time, limit int) ([]Enrolment, error)
	// Activate binds, in one transaction, the EK to the enrolment's owner and device, the AIK to
	// the EK, and one use of the token (once for each device). It makes the enrolment Active, and
	// the device's former enrolment Superseded; that one's secret (PutDeviceSecret) ends with it. It
	// appends a "device.activated" event; when the device onboards again, the event is counted as
	// AppendCounted does.
	//
	// The EK is now proven: its kept certificate no longer expires, and becomes the enrolment's if
	// that is EKKnown. Superseded enrolments beyond KeptSuperseded and KeptFingerprints are removed.
	//
	// Activating an Active enrolment again changes only LastSeen and returns the device. A Pending
	// enrolment that began before the device's Active one is refused: a delayed activation must not
	// retire a newer certificate. The order is that in which the store recorded the enrolments, not
	// Created, because clocks go back.
	//
	// If a device that is not deleted has one of the Marks, both owners get an EventSameChip, once
	// for each mark and device. The owner of the other device gets it once for each owner who
	// onboards a device with the mark.
	//
	// Refusals: ErrNotFound, ErrEnrolmentExpired, ErrSuperseded, ErrRevoked, ErrTokenUnusable,
	// ErrTokenUsedUp, ErrOtherOwner, ErrOtherEK, ErrCloned. A refusal changes nothing.
	Activate(ctx context.Context, a Activation) (Device, error)
	// ExpireEnrolments turns at most limit Pending enrolments past their Expires into Expired,
	// removes everything from them but fingerprints, names and times, and returns how many there
	// were.
	ExpireEnrolments(ctx context.Context, now time.Time, limit int) (int, error)
	// RemoveExpiredEnrolments removes Expired enrolments whose Expires is not after before. Of the others
	// it keeps the keep that expire last. It removes at most limit, those that expired first, and
	// returns how many.
	RemoveExpiredEnrolments(ctx context.Context, before time.Time, keep, limit int) (int, error)
}
