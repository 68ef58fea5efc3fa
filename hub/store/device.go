package store

import (
	"context"
	"time"
)

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

// MaxUnclaimed bounds the devices that are nobody's yet.
const MaxUnclaimed = 10_000

// DeviceDesk is what a hub that serves Pantacor's clients does with devices
// besides: devices that came without a TPM, where a policy lets them, secrets
// that programs sign in with, and claims.
type DeviceDesk interface {
	// CreateDevice stores a device without evidence: EK, Enrolment and
	// IDevIDHash are zero. Owner may be empty: nobody's yet. Its Nick must be
	// free, or is made so with a suffix. secret is the SHA-256 of what it signs
	// in with. With a TokenID one use of that token is spent, in the same
	// transaction: ErrTokenUnusable, ErrTokenUsedUp. Without an owner it must
	// find room among MaxUnclaimed: ErrFull. ErrExists: the id is taken.
	CreateDevice(ctx context.Context, d Device, secret Hash) (Device, error)
	// ClaimDevice gives a device that is nobody's to owner. ErrNotFound when
	// there is no such device, or it is somebody's.
	ClaimDevice(ctx context.Context, id, owner string, now time.Time) (Device, error)
	// RemoveUnclaimed deletes at most limit devices that are nobody's and were
	// last seen before a time, and says how many.
	RemoveUnclaimed(ctx context.Context, before time.Time, limit int) (int, error)

	// PutSecret replaces what a device signs in with, if its active certificate
	// still is the one with this SHA-256 (zero: a device without a TPM). A zero
	// expires is never. ErrNotFound: no such device, or another certificate.
	PutSecret(ctx context.Context, device string, idevid, secret Hash, expires time.Time) error
	// Secret gives the SHA-256 of a device's secret; ErrNotFound when it has
	// none that is good now.
	Secret(ctx context.Context, device string, now time.Time) (Hash, error)

	// SetPublic, ReplaceUserMeta and ReplaceDeviceMeta: ErrNotFound. Of a meta
	// also *MetaError and ErrTooLarge.
	SetPublic(ctx context.Context, owner, id string, public bool) error
	ReplaceUserMeta(ctx context.Context, owner, id string, meta map[string]any) error
	ReplaceDeviceMeta(ctx context.Context, id string, meta map[string]any) error

	DeviceByNick(ctx context.Context, owner, nick string) (Device, error)
	// FindDevices lists devices that are somebody's and not deleted, by nick.
	FindDevices(ctx context.Context, f DeviceFilter) ([]Device, error)
}
