package store

import (
	"context"
	"time"
)

// OwnerRow has the names and numbers of an account that the hub's operator may see. It has nothing
// about single devices.
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

// MaxMakers is the largest number of makers in HubCounts.
const MaxMakers = 200

// HubNumbers answers the operator's questions about the hub. The cost of an answer does not grow
// with the number of devices and accounts.
type HubNumbers interface {
	// SetOperator gives an account the role operator or, if `operator` is false, removes the role.
	// It appends the event only if it changes something. ErrNotFound: the account does not exist.
	SetOperator(ctx context.Context, id string, operator bool, e Event) error
	// Owners lists accounts in the order of their nicks (ASCII case is ignored). The list starts
	// after the nick `after` (empty: with the first nick). It has at most limit accounts (0: 100;
	// at most 1000).
	Owners(ctx context.Context, after string, limit int) ([]OwnerRow, error)
	HubCounts(ctx context.Context) (HubCounts, error)
	// CountUndecided counts the waiting devices that their owners have neither approved nor denied.
	// It counts over all owners, and stops at limit.
	CountUndecided(ctx context.Context, limit int) (int, error)
	// DatabaseSize returns the size of the database, in bytes.
	DatabaseSize(ctx context.Context) (int64, error)
}
