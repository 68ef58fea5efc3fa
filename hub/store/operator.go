package store

import (
	"context"
	"time"
)

// OwnerRow has what the hub's operator may see of an account: names and totals, but nothing about
// single devices.
type OwnerRow struct {
	ID       string // Account.ID
	Nick     string
	Created  time.Time
	SignedIn time.Time // when the account's latest session began; zero: the account never had a session
	Disabled bool
	Operator bool
	Devices  int
	Bytes    int64 // Objects.Usage
}

// HubCounts has sums over all owners.
type HubCounts struct {
	Accounts int
	Disabled int // how many of the Accounts are disabled
	Devices  int // devices that have an owner
	Quiet    int // how many of the Devices are quiet
	Bytes    int64
	Makers   []FacetCount // number of devices for each TPM maker, in the order of the makers' names; at most MaxMakers
}

// MaxMakers is the maximum number of makers in HubCounts.
const MaxMakers = 200

// HubNumbers provides the operator's view of the whole hub. The cost of each method does not grow
// with the number of devices and accounts.
type HubNumbers interface {
	// SetOperator gives an account the role operator or, if `operator` is false, takes it away. It
	// appends the event only if it changes something. ErrNotFound: the account does not exist.
	SetOperator(ctx context.Context, id string, operator bool, e Event) error
	// Owners lists at most `limit` accounts (0: 100; at most 1000) in the order of their nicks,
	// ignoring ASCII case. The list starts after the nick `after`, or with the first nick if
	// `after` is empty.
	Owners(ctx context.Context, after string, limit int) ([]OwnerRow, error)
	HubCounts(ctx context.Context) (HubCounts, error)
	// CountUndecided counts the waiting devices of all owners that have been neither approved nor
	// denied. It stops at `limit`.
	CountUndecided(ctx context.Context, limit int) (int, error)
	// DatabaseSize returns the size of the database, in bytes.
	DatabaseSize(ctx context.Context) (int64, error)
}
