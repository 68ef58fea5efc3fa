package store

import (
	"context"
	"time"
)

// OwnerRow is what the hub's operator sees of an account: names and numbers, and nothing of its
// devices.
type OwnerRow struct {
	ID       string // Account.ID
	Nick     string
	Created  time.Time
	SignedIn time.Time // when a session last began; zero: never
	Disabled bool
	Operator bool
	Devices  int
	Bytes    int64 // Objects.Usage
}

// HubCounts are sums over all owners.
type HubCounts struct {
	Accounts int
	Disabled int // of Accounts
	Devices  int // that have an owner
	Bytes    int64
	Makers   []FacetCount // devices by their TPM's maker, in the order of makers; at most MaxMakers
}

// MaxMakers is the largest number of makers in HubCounts.
const MaxMakers = 200

// HubNumbers answers the operator's questions about the hub. The cost of an answer does not grow with
// the number of devices and accounts.
type HubNumbers interface {
	// SetOperator gives an account the role operator, or takes it. It appends the event only if it
	// changes something. ErrNotFound: the account does not exist.
	SetOperator(ctx context.Context, id string, operator bool, e Event) error
	// Owners lists accounts in the order of their nicks (ASCII case is ignored), starting after the
	// nick `after`, or with the first nick if it is empty. limit is as in Accounts.
	Owners(ctx context.Context, after string, limit int) ([]OwnerRow, error)
	HubCounts(ctx context.Context) (HubCounts, error)
	// DatabaseSize returns the size of the database, in bytes.
	DatabaseSize(ctx context.Context) (int64, error)
}
