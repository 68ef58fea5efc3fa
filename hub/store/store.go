// Package store keeps what the hub must not lose: accounts, join tokens, the
// registry of TPMs (by endorsement key), the AIK registry, enrolments with the
// certificates that they issued, devices, and the audit trail.
//
// The Store interface speaks the words of the domain, never of a database. An
// engine (package sqlite, below this one) makes each method one atomic step:
// when a method that writes has returned nil, what it wrote survives a power
// cut. The suite in package storetest says what every engine must do; a new
// engine is done when the suite passes.
//
// Time comes in as an argument: an engine holds no clock.
package store

import (
	"context"
	"encoding/hex"
	"errors"
	"time"
)

// Errors that engines return, tested with errors.Is. Any other error is the
// engine's own trouble (disk, driver) and says nothing about the data.
var (
	// ErrNotFound: no such row, or none that the caller may see.
	ErrNotFound = errors.New("store: not found")
	// ErrExists: the unique name (nick, e-mail, id) is taken.
	ErrExists = errors.New("store: already exists")

	// The next ones are refusals of Activate.

	// ErrEnrolmentExpired: the pending enrolment's time ran out.
	ErrEnrolmentExpired = errors.New("store: enrolment expired")
	// ErrSuperseded: an enrolment of the same device that began later was
	// activated.
	ErrSuperseded = errors.New("store: enrolment superseded")
	// ErrTokenUnusable: the token was disabled or has expired.
	ErrTokenUnusable = errors.New("store: join token disabled or expired")
	// ErrTokenUsedUp: the token's last use went to another device.
	ErrTokenUsedUp = errors.New("store: join token used up")
	// ErrOtherOwner: the TPM is bound to another owner.
	ErrOtherOwner = errors.New("store: TPM belongs to another owner")
	// ErrOtherEK: the IAK is registered under another endorsement key of the
	// same TPM.
	ErrOtherEK = errors.New("store: IAK registered under another endorsement key")
	// ErrRevoked: the device was deleted after the enrolment was made.
	ErrRevoked = errors.New("store: device revoked")
	// ErrCloned: the device's owner has said that several machines run with its
	// TPM's state.
	ErrCloned = errors.New("store: TPM state runs in several machines")
)

// MaxSessions is how many sessions an account may have.
const MaxSessions = 200

// Hash is a SHA-256 digest used as a key.
type Hash [32]byte

// Account is a person or program that owns devices. ID is 24 lower-case
// hexadecimal digits; its prn is "prn:::accounts:/" + ID.
type Account struct {
	ID           string
	Nick         string // unique, 3 to 23 characters
	Email        string // unique when not empty
	PasswordHash string // argon2id, PHC string format; never leaves the hub
	Created      time.Time
	Disabled     bool // nobody signs in to it, and no new device joins it
}

// Session is a signed-in account, found by the SHA-256 of its random token:
// the token itself is not stored.
type Session struct {
	TokenHash Hash
	AccountID string
	Created   time.Time
	Expires   time.Time
	Addr      string // where it began, an IP address
	Means     string // ByPage or ByAPI
}

// ID names a session to its owner: half of its hash, as 32 hexadecimal digits.
// It opens nothing.
func (s Session) ID() string { return hex.EncodeToString(s.TokenHash[:16]) }

// JoinToken lets devices into an owner's fleet. The hub has only the public
// half of the key derived from its secret.
type JoinToken struct {
	ID        string // 24 lower-case hexadecimal digits
	Owner     string // Account.ID
	Nick      string // shown to the owner; not unique
	PublicKey []byte // Ed25519, 32 bytes
	Expires   time.Time
	MaxUses   int // 0: no limit
	Uses      int // devices that activated with it, each counted once
	Disabled  bool
	// DefaultUserMeta is what a device's user-meta starts with.
	DefaultUserMeta map[string]any
	Unreadable      []string // JSON Pointers, from "/default-user-meta": members that were kept and cannot be shown
	Created         time.Time
	// WithoutTPM: devices may show the token's secret itself, with no evidence;
	// AutoHash is what it is found by then.
	WithoutTPM bool
	AutoHash   Hash
	// ForPantacor: devices may prove ownership in Pantacor's form; PantacorKey
	// is what such proofs are checked with, encrypted by the hub.
	ForPantacor bool
	PantacorKey []byte
}

// MaxJoinTokens bounds the join tokens that an owner has, whatever their state.
const MaxJoinTokens = 10_000

// TPM is an entry of the EK registry: an endorsement key that proved itself
// at an activation, and whose it is.
type TPM struct {
	EK           Hash   // SHA-256 of the EK's SubjectPublicKeyInfo (DER)
	Owner        string // Account.ID; empty: let go by its last owner
	DeviceID     string // the device it is now; empty when let go
	Generation   int    // how often it was let go; part of the device id's derivation
	Certificate  []byte // EK certificate, DER
	Manufacturer string // as in the EK certificate, e.g. "IFX", "id:00001014"
	Model        string
	Firmware     string
	FirstSeen    time.Time
}

// AIK is an entry of the AIK registry: an attestation key proven to be in the
// same TPM as EK.
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
	// Pending: issued, sealed to the TPM, proven by nobody. Its certificates
	// open nothing but activation.
	Pending EnrolmentState = "pending"
	// Active: proven by an activation; the certificates are valid.
	Active EnrolmentState = "active"
	// Superseded: it was active, until an enrolment of the same device that
	// began later was activated.
	Superseded EnrolmentState = "superseded"
	// Revoked: the device was deleted or its certificate revoked.
	Revoked EnrolmentState = "revoked"
	// Expired: never activated in its time, or pushed out (MaxPending). Only the
	// fingerprints are kept, and those not for long: see ForgetEnrolments.
	Expired EnrolmentState = "expired"
)

// Bounds of what the hub keeps of enrolments.
const (
	// MaxPending bounds an owner's pending enrolments, in bytes of evidence and
	// certificates and 1024 a row. Who has a join token can make them with
	// made-up keys, so one more pushes out those that began first.
	MaxPending = 64 << 20
	// ExpiredFor is how long a hub remembers an enrolment that has expired, and
	// MaxExpired how many of them.
	ExpiredFor = 24 * time.Hour
	MaxExpired = 10_000
	// KeptSuperseded is how many superseded enrolments of a device are kept
	// whole, besides the active one; KeptFingerprints, how many older ones
	// without their evidence. Still older ones go, with the AIKs that were
	// registered by them and by none since.
	KeptSuperseded   = 2
	KeptFingerprints = 20
)

// Enrolment is one accepted request: the evidence, and the certificates that
// were issued for it. RequestHash makes it idempotent.
type Enrolment struct {
	RequestHash Hash // SHA-256 of Request
	State       EnrolmentState
	DeviceID    string
	Owner       string // Account.ID
	TokenID     string
	Generation  int // TPM.Generation when the request was judged

	EK            Hash
	EKCertificate []byte // DER
	// EKKnown: the EK certificate's chain leads to a root that the hub knows;
	// EKLinks are the certificates between, as in KeptCertificate.
	EKKnown bool
	EKLinks []byte

	IAKName    []byte
	IAKPublic  []byte // TPMT_PUBLIC
	IDevIDName []byte

	IAKCert    []byte // DER
	IAKHash    Hash   // SHA-256 of IAKCert
	IDevIDCert []byte // DER
	IDevIDHash Hash   // SHA-256 of IDevIDCert

	Request []byte // for the auditor: the whole TCG-CSR-IDEVID, or join.Kept
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

// Device is a machine. ID is 24 lower-case hexadecimal digits; its prn is
// "prn:::devices:/" + ID. EK and what follows from the enrolment are zero for a
// machine that came without a TPM.
type Device struct {
	ID      string
	Nick    string // unique for its owner
	Owner   string // Account.ID; empty: nobody's yet
	TokenID string // the token it first came with

	EK           Hash
	Enrolment    Hash // RequestHash of the active enrolment
	IDevIDHash   Hash // of the active certificate
	TPMMaker     string
	TPMModel     string
	TPMFirmware  string
	ProdModel    string
	ProdSerial   string
	KeyAlgorithm string
	UserMeta     map[string]any
	DeviceMeta   map[string]any
	Unreadable   []string  // JSON Pointers, from "/user-meta" or "/device-meta": members that were kept and cannot be shown
	Public       bool      // its trail may be read by anybody
	Created      time.Time // first activation
	Activated    time.Time // latest activation
	LastSeen     time.Time
	LastSeenAddr string
	Clone        string // clone.State: whether several machines run with its TPM's state
	Deleted      bool
}

// Activation is what Activate needs to know besides the enrolment itself.
type Activation struct {
	IDevIDHash Hash   // SHA-256 of the certificate that the TLS peer proved
	Nick       string // proposed; used only for a new device; must be free or is made so with a suffix
	Now        time.Time
	Addr       string // the peer's address, for LastSeenAddr
	// Marks are what the enrolment's EK certificate says of its chip.
	Marks []ChipMark
}

// ChipMark is something by which two EK certificates may be known to be of one
// chip. It is evidence for a person, and decides nothing.
type ChipMark struct {
	Hash Hash
	What string // in words: "the same serial number"
}

// EventSameChip tells an owner that a device of theirs may be the same chip as
// another device.
const EventSameChip = "device.same-chip"

// Event is a line of the audit trail. Events are only ever appended.
type Event struct {
	Seq     int64 // given by the store, increasing
	Time    time.Time
	Kind    string // stable, e.g. "enrolment.refused", "device.activated"
	Code    string // stable refusal code, or empty
	Owner   string // Account.ID whose trail this belongs to, or empty: the operator's
	Device  string
	Token   string
	Addr    string
	Message string // one sentence for a person

	// Who did it. See Actor.
	Actor      string
	ActorName  string
	Means      string
	Credential string

	// Count is how many events of a day this one stands for, the last of them at
	// Last. 0 and zero: one, at Time. See CountEvents.
	Count int
	Last  time.Time

	// Unproven: a peer caused it that had proven nothing. Such an event is kept
	// for a shorter time. Group keeps CountEvents from counting events in one row
	// whose Group differs. Neither is read back.
	Unproven bool
	Group    string
}

// EventFilter chooses events. Zero fields do not filter.
type EventFilter struct {
	Owner  string
	Device string
	Kind   string    // this kind, or, where it ends with ".", all that begin with it
	Since  time.Time // the event, or the last that it stands for, is not before this
	Until  time.Time // the event is before this
	// NoRoutine leaves out what CountEvents counted, unless it has a Code.
	NoRoutine bool
	Before    int64 // only events with a smaller Seq
	Limit     int   // 0: 100; at most 1000
}

// Store is the hub's memory. All methods are safe for concurrent use. A
// method that writes is one atomic step, durable before it returns.
type Store interface {
	AccountDesk
	Boots
	Clones
	DeviceDesk
	EKCertificates
	IssuedAIKs
	WaitingRoom
	Rulebook
	TrustStore
	Trails
	Objects
	Logs

	Close() error
	// Ping reports whether the store can be read and written now. It waits no
	// longer than ctx, or Patience, allows: ErrBusy, ErrNoSpace.
	Ping(ctx context.Context) error

	// CreateAccount fails with ErrExists when nick or e-mail is taken
	// (compared without regard to ASCII case), or the nick was a deleted
	// account's.
	CreateAccount(ctx context.Context, a Account) error
	Account(ctx context.Context, id string) (Account, error)
	// AccountByLogin finds an account by nick or e-mail, without regard to
	// ASCII case.
	AccountByLogin(ctx context.Context, login string) (Account, error)
	CountAccounts(ctx context.Context) (int, error)
	// CreateSession makes a session for whoever showed the password of verified,
	// an Account.PasswordHash. ErrChanged: the account has another one by now, or
	// was disabled. ErrNotFound: the account is gone. At most MaxSessions of an
	// account are kept; the oldest one ends.
	CreateSession(ctx context.Context, s Session, verified string) error
	// Session returns ErrNotFound for a session that expired at or before now.
	Session(ctx context.Context, token Hash, now time.Time) (Session, error)
	DeleteSession(ctx context.Context, token Hash) error

	// CreateJoinToken fails with ErrExists when the id is taken, ErrFull when the
	// owner has MaxJoinTokens, and as PatchDeviceMeta when the user-meta cannot
	// be kept.
	CreateJoinToken(ctx context.Context, t JoinToken) error
	JoinToken(ctx context.Context, id string) (JoinToken, error)
	// JoinTokenByAuto finds a token that is WithoutTPM.
	JoinTokenByAuto(ctx context.Context, hash Hash) (JoinToken, error)
	// JoinTokens lists an owner's, newest first.
	JoinTokens(ctx context.Context, owner string) ([]JoinToken, error)
	// DisableJoinToken is idempotent. ErrNotFound when owner has no such token.
	DisableJoinToken(ctx context.Context, owner, id string) error

	// TPM returns the registry's entry for an endorsement key. ErrNotFound:
	// never activated here.
	TPM(ctx context.Context, ek Hash) (TPM, error)
	// JoinTokenFor returns, as of one moment, a token and TPM.Generation of the
	// endorsement key that comes with it; 0 for one that never activated here.
	JoinTokenFor(ctx context.Context, id string, ek Hash) (t JoinToken, generation int, err error)
	// AIK returns the AIK registry's entry for a TPM name.
	AIK(ctx context.Context, name []byte) (AIK, error)

	// BeginEnrolment stores e as Pending and returns it. When an enrolment
	// with the same RequestHash exists and is not Expired, and has not passed
	// its Expires while Pending, nothing is written and the stored one is
	// returned: the same request gets the same answer. An expired one is
	// replaced, and begins now. Nothing but the enrolment is touched: a pending
	// row takes no name, spends no token use, and changes no other row. An EK
	// certificate that is EKKnown is kept as KeepEKCertificate does, for KeptFor.
	// Where the owner's Pending enrolments exceed MaxPending, those that began
	// first become Expired.
	BeginEnrolment(ctx context.Context, e Enrolment, now time.Time) (Enrolment, error)
	// Enrolment finds by request. ErrNotFound.
	Enrolment(ctx context.Context, request Hash) (Enrolment, error)
	// EnrolmentByCertificate finds by the SHA-256 of the IDevID certificate.
	EnrolmentByCertificate(ctx context.Context, idevid Hash) (Enrolment, error)
	// Activate binds, in one transaction: the EK to the enrolment's owner and
	// device, the AIK to the EK, one use of the token (once a device), and
	// makes the enrolment Active and its predecessor of the same device
	// Superseded, whose secret (PutSecret) ends with it. The EK is proven: its
	// kept certificate no longer expires, and becomes the enrolment's where that
	// is EKKnown. It appends a "device.activated" event. Activating an Active
	// enrolment again changes nothing but LastSeen and returns the device. A
	// Pending enrolment that began before the device's Active one is refused:
	// an activation that was delayed must not retire a newer certificate. The
	// order is the one in which the store recorded them, not Created: clocks
	// go back.
	// Where a device that is not deleted has one of the Marks, the owners of
	// both are told by an EventSameChip, once for a mark and a device; another
	// owner's device once for each owner who brings such a device.
	// Of what the device activated before, as much is kept as KeptSuperseded and
	// KeptFingerprints say. An event of a device that comes again is counted, as
	// CountEvents does.
	// Refusals: ErrNotFound, ErrEnrolmentExpired, ErrSuperseded, ErrRevoked,
	// ErrTokenUnusable, ErrTokenUsedUp, ErrOtherOwner, ErrOtherEK, ErrCloned.
	// A refusal changes nothing.
	Activate(ctx context.Context, a Activation) (Device, error)
	// ExpireEnrolments turns Pending enrolments past their Expires into
	// Expired, drops everything of them but fingerprints, names and times,
	// and says how many there were. At most limit at a time.
	ExpireEnrolments(ctx context.Context, now time.Time, limit int) (int, error)
	// ForgetEnrolments removes Expired enrolments whose Expires is not after
	// before, and of the others those beyond the keep that expire last: at most
	// limit, those that expired first. It says how many.
	ForgetEnrolments(ctx context.Context, before time.Time, keep, limit int) (int, error)

	// Device finds a device that is not deleted.
	Device(ctx context.Context, id string) (Device, error)
	// DeviceByCertificate is the hot look-up of every device request: the
	// device whose Active enrolment has this IDevID certificate, not deleted.
	DeviceByCertificate(ctx context.Context, idevid Hash) (Device, error)
	// Devices lists an owner's devices that are not deleted, by Nick, after
	// the nick `after` (empty: from the start), at most limit (0: 100, at
	// most 1000).
	Devices(ctx context.Context, owner, after string, limit int) ([]Device, error)
	CountDevices(ctx context.Context, owner string) (int, error)
	// RenameDevice fails with ErrExists when the owner has the nick already.
	RenameDevice(ctx context.Context, owner, id, nick string) error
	// SeenDevice records a contact. It may be batched, and is the one write
	// that need not be durable when it returns.
	SeenDevice(ctx context.Context, id, addr string, now time.Time) error
	// PatchDeviceMeta merges top-level keys; a nil value deletes the key. See
	// MaxMeta for what is refused: *MetaError, ErrTooLarge.
	PatchDeviceMeta(ctx context.Context, id string, patch map[string]any) error
	// PatchUserMeta is the owner's half.
	PatchUserMeta(ctx context.Context, owner, id string, patch map[string]any) error
	// DeleteDevice revokes the device's certificates (all enrolments of the
	// device by owner that are Pending or Active become Revoked; another
	// owner's Pending ones stay, so that nobody learns of the deletion by
	// them, and Activate refuses them), marks it Deleted,
	// and lets its TPM go: the EK may be bound again, by anybody, as another
	// device (TPM.Generation grows). The AIK leaves the registry, and the
	// owner's approval of the EK ends.
	DeleteDevice(ctx context.Context, owner, id string, now time.Time) error

	AppendEvent(ctx context.Context, e Event) error
	// AppendEventOnce appends an event about a device, unless one was appended
	// with the same mark since the device came aboard.
	AppendEventOnce(ctx context.Context, e Event, mark Hash) error
	// CountEvents appends events of which there may be many. Those that differ
	// only in Time, Addr and Message, on one day (UTC), become one row with their
	// Count, the Time of the first, and the Last, Addr and Message of the last.
	// An event's own Count is how many it stands for, 0 being one, until its Last.
	CountEvents(ctx context.Context, events []Event) error
	// ForgetEvents removes at most limit events whose Time and Last are before a
	// time: Unproven ones before unproven, any before all. Zero times remove
	// nothing. It says how many there were.
	ForgetEvents(ctx context.Context, unproven, all time.Time, limit int) (int, error)
	// Events lists newest first.
	Events(ctx context.Context, f EventFilter) ([]Event, error)
}
