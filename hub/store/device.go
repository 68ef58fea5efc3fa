package store

import (
	"context"
	"time"
)

// MaxUnclaimed is the maximum number of devices without an owner.
const MaxUnclaimed = 10_000

// Device is a device that has joined the hub. ID is 24 lower-case hexadecimal digits; the device's
// prn (Pantacor resource name) is "prn:::devices:/" + ID. For a device without a TPM, EK and all
// fields from the enrolment are zero.
type Device struct {
	ID      string
	Nick    string // unique among its owner's devices
	Owner   string // Account.ID; empty if no account has claimed the device yet
	TokenID string // the join token of the device's first onboarding

	EK           Hash
	Enrolment    Hash // RequestHash of the active enrolment
	IDevIDHash   Hash // SHA-256 of the active IDevID certificate
	TPMMaker     string
	TPMModel     string
	TPMFirmware  string
	ProdModel    string
	ProdSerial   string
	KeyAlgorithm string
	UserMeta     map[string]any
	DeviceMeta   map[string]any
	// Unreadable lists the members of UserMeta and DeviceMeta that are in the database but cannot
	// be returned: see MaxMeta. Each is a JSON Pointer that begins with "/user-meta" or
	// "/device-meta".
	Unreadable   []string
	Public       bool      // anyone may read the device's trail
	Created      time.Time // first activation
	Activated    time.Time // latest activation
	LastSeen     time.Time
	LastSeenAddr string
	Clone        string // a clone.State: says whether several machines run with this TPM's state
	Deleted      bool
	// BootRequested means that the owner has requested a boot measurement: see Boots.RequestBoot.
	BootRequested bool
	// ConfigVersion is the config version at the time when the device was read: see Config. Only
	// BareDevice and DeviceByCertificate set it.
	ConfigVersion int64
	// Idle means that the device has a trail, and that no revision of it was open when the device
	// was read: each one had a final status. Only BareDevice sets it.
	Idle bool
}

// DeviceFilter selects devices. An empty field does not restrict the selection.
type DeviceFilter struct {
	Owner      string // Account.ID
	Nick       string // the whole nick
	NickPrefix string // ASCII case is ignored
	NotNick    string
	PublicOnly bool
	After      string // only nicks after this nick
	Limit      int    // 0: 100; at most 1000
}

// Devices stores devices. Those that have a TPM are created by Activate (see Enrolments).
type Devices interface {
	// Device finds a device by its id. ErrNotFound: no device has this id, or it was deleted.
	Device(ctx context.Context, id string) (Device, error)
	// BareDevice is like Device, but faster: it returns the device as DeviceByCertificate does,
	// without its metadata, and with the config version. It also sets Idle, because a device that
	// polls for revisions is usually idle, and the hub then needs no other read for its answer.
	BareDevice(ctx context.Context, id string) (Device, error)
	// DeviceByCertificate finds the device whose Active enrolment has an IDevID certificate with
	// this SHA-256, unless the device was deleted. It must be fast, because the hub calls it for
	// every request of a device. So it returns the device without its metadata: UserMeta,
	// DeviceMeta and Unreadable are nil. Because the hub needs the config version for the same
	// requests, it returns the version too.
	DeviceByCertificate(ctx context.Context, idevid Hash) (Device, error)
	DeviceByNick(ctx context.Context, owner, nick string) (Device, error)
	// Devices lists at most `limit` devices of an owner (0: 100; at most 1000) that are not
	// deleted, in the order of their nicks. The list starts after the nick `after`, or with the
	// first nick if `after` is empty.
	Devices(ctx context.Context, owner, after string, limit int) ([]Device, error)
	// FindDevices lists the devices that the filter selects, sorted by nick, without deleted
	// devices and devices that have no owner.
	FindDevices(ctx context.Context, f DeviceFilter) ([]Device, error)
	CountDevices(ctx context.Context, owner string) (int, error)
	// RenameDevice changes a device's nick. ErrExists: another device of the owner has the nick.
	RenameDevice(ctx context.Context, owner, id, nick string) error
	// SetPublic sets whether anyone may read the device's revisions. ErrNotFound: the owner has no
	// such device.
	SetPublic(ctx context.Context, owner, id string, public bool) error
	// MarkDeviceSeen records that a device contacted the hub. The engine may delay this write and
	// combine it with others, so it may be lost if the hub crashes after the method has returned.
	// This is true of no other method.
	MarkDeviceSeen(ctx context.Context, id, addr string, now time.Time) error
	// DeleteDevice marks a device as Deleted and revokes its certificates: the owner's Pending and
	// Active enrolments of the device become Revoked. Other owners' Pending enrolments of the same
	// EK stay Pending, so that they do not reveal the deletion, but Activate refuses them. The TPM
	// is released: any owner may onboard the EK again, as another device (TPM.Generation
	// increases). The device's AIK is removed from the AIK registry, and the owner's approval of
	// the EK ends.
	DeleteDevice(ctx context.Context, owner, id string, now time.Time) error
}

// DevicesWithoutTPM stores devices without evidence, which a policy may allow, and lets owners
// claim them.
type DevicesWithoutTPM interface {
	// CreateDevice stores a device without evidence, in which EK, Enrolment and IDevIDHash are
	// zero. If d.Nick is in use, the nick gets a suffix. `secret` is the SHA-256 of the secret with
	// which the device signs in. d.Owner may be empty. If d.TokenID is set, one use of that join
	// token is spent in the same transaction. Errors: ErrTokenUnusable, ErrTokenUsedUp. ErrFull:
	// d.Owner is empty, and there are already MaxUnclaimed devices without an owner. ErrExists: the
	// id is in use.
	CreateDevice(ctx context.Context, d Device, secret Hash) (Device, error)
	// ClaimDevice makes the account `owner` the owner of a device that has no owner. ErrNotFound:
	// no device has this id, or the device already has an owner.
	ClaimDevice(ctx context.Context, id, owner string, now time.Time) (Device, error)
	// RemoveUnclaimed deletes at most `limit` devices that have no owner and were last seen before
	// `before`. It returns how many it deleted.
	RemoveUnclaimed(ctx context.Context, before time.Time, limit int) (int, error)
}

// DeviceSecrets stores the hashes of the secrets with which devices sign in.
type DeviceSecrets interface {
	// PutDeviceSecret replaces a device's secret, provided that `idevid` is the SHA-256 of the
	// device's active certificate (zero for a device without a TPM). `secret` is the SHA-256 of the
	// new secret. If `expires` is zero, the secret does not expire. ErrNotFound: no device has this
	// id, or the device has another certificate.
	PutDeviceSecret(ctx context.Context, device string, idevid, secret Hash, expires time.Time) error
	// DeviceSecret returns the SHA-256 of a device's secret. ErrNotFound: the device has no secret,
	// or the secret has expired.
	DeviceSecret(ctx context.Context, device string, now time.Time) (Hash, error)
}
