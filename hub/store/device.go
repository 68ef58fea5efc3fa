package store

import (
	"context"
	"time"
)

// MaxUnclaimed bounds the devices without an owner.
const MaxUnclaimed = 10_000

// Device is a machine. ID is 24 lower-case hexadecimal digits; the device's prn is
// "prn:::devices:/" + ID. For a device without a TPM, EK and everything that comes from the
// enrolment are zero.
type Device struct {
	ID      string
	Nick    string // unique for its owner
	Owner   string // Account.ID; empty: not claimed yet
	TokenID string // the join token of its first onboarding

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
	// Unreadable are JSON Pointers, from "/user-meta" or "/device-meta", of members that were kept
	// and cannot be returned. See MaxMeta.
	Unreadable   []string
	Public       bool      // anyone may read its trail
	Created      time.Time // first activation
	Activated    time.Time // latest activation
	LastSeen     time.Time
	LastSeenAddr string
	Clone        string // clone.State: whether several machines run with its TPM's state
	Deleted      bool
}

// DeviceFilter chooses devices. Empty fields do not filter.
type DeviceFilter struct {
	Owner      string // Account.ID
	Nick       string // exactly
	NickPrefix string // without regard to ASCII case
	NotNick    string
	PublicOnly bool
	After      string // nicks after this one
	Limit      int    // 0: 100; at most 1000
}

// Devices keeps devices. Activate (see Enrolments) makes the devices that have a TPM.
type Devices interface {
	// Device finds a device that is not deleted.
	Device(ctx context.Context, id string) (Device, error)
	// DeviceByCertificate finds the device, not deleted, whose Active enrolment has this IDevID
	// certificate. It is called for every request of a device, so it must be fast.
	DeviceByCertificate(ctx context.Context, idevid Hash) (Device, error)
	DeviceByNick(ctx context.Context, owner, nick string) (Device, error)
	// Devices lists an owner's devices that are not deleted, sorted by Nick, after the nick `after`
	// (empty: from the start), at most limit (0: 100, at most 1000).
	Devices(ctx context.Context, owner, after string, limit int) ([]Device, error)
	// FindDevices lists devices that have an owner and are not deleted, sorted by nick.
	FindDevices(ctx context.Context, f DeviceFilter) ([]Device, error)
	CountDevices(ctx context.Context, owner string) (int, error)
	// RenameDevice returns ErrExists if another device of the owner has the nick.
	RenameDevice(ctx context.Context, owner, id, nick string) error
	// SetPublic returns ErrNotFound if the owner has no such device.
	SetPublic(ctx context.Context, owner, id string, public bool) error
	// MarkDeviceSeen records that a device contacted the hub. The write may be batched: of all
	// writes, only this one need not be durable when the method returns.
	MarkDeviceSeen(ctx context.Context, id, addr string, now time.Time) error
	// DeleteDevice marks a device as Deleted and revokes its certificates: the owner's Pending and
	// Active enrolments of the device become Revoked. Another owner's Pending ones stay, so that
	// they do not reveal the deletion; Activate refuses them. The TPM is released: any owner may
	// onboard the EK again, as another device (TPM.Generation grows). The AIK leaves the registry,
	// and the owner's approval of the EK ends.
	DeleteDevice(ctx context.Context, owner, id string, now time.Time) error
}

// DevicesWithoutTPM keeps devices without evidence, which a policy may allow, and lets owners claim
// them.
type DevicesWithoutTPM interface {
	// CreateDevice stores a device without evidence: EK, Enrolment and IDevIDHash are zero. If its
	// Nick is in use, it gets a suffix. secret is the SHA-256 of the secret that the device signs
	// in with. If TokenID is set, one use of that token is spent in the same transaction:
	// ErrTokenUnusable, ErrTokenUsedUp. Owner may be empty: the device is then one of MaxUnclaimed,
	// or ErrFull. ErrExists: the id is in use.
	CreateDevice(ctx context.Context, d Device, secret Hash) (Device, error)
	// ClaimDevice makes owner the owner of a device that has none. ErrNotFound: no device has this
	// id, or it has an owner.
	ClaimDevice(ctx context.Context, id, owner string, now time.Time) (Device, error)
	// RemoveUnclaimed deletes at most limit devices without an owner that were last seen before a
	// time, and returns how many.
	RemoveUnclaimed(ctx context.Context, before time.Time, limit int) (int, error)
}

// DeviceSecrets keeps the hashes of the secrets that devices sign in with.
type DeviceSecrets interface {
	// PutDeviceSecret replaces a device's secret, if its active certificate still has this SHA-256 (zero:
	// a device without a TPM). If expires is zero, the secret does not expire. ErrNotFound: no
	// device has this id, or it has another certificate.
	PutDeviceSecret(ctx context.Context, device string, idevid, secret Hash, expires time.Time) error
	// DeviceSecret returns the SHA-256 of a device's secret. ErrNotFound: the device has no secret, or it
	// has expired.
	DeviceSecret(ctx context.Context, device string, now time.Time) (Hash, error)
}
