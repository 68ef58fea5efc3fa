package store

import "context"

// Epochs numbers the backups and the starts of a hub. After a restore, these numbers show which of
// two events came first, even if clocks were wrong.
type Epochs interface {
	// NextEpoch begins an epoch and returns its number: one more than the previous number. The
	// first number is 1.
	NextEpoch(ctx context.Context) (int64, error)
}
