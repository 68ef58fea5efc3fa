package store

import (
	"context"
	"errors"
	"time"
)

// Trouble that passes, or that an operator ends. Nothing was written, and the
// same call may be made again. Tested with errors.Is.
var (
	// ErrBusy: another program holds the database, or it is too slow for what
	// is asked of it.
	ErrBusy = errors.New("store: the database is busy")
	// ErrNoSpace: there is no room on the disk.
	ErrNoSpace = errors.New("store: the disk is full")
)

type patienceKey struct{}

// Patient returns a context whose writes wait up to d for a busy database
// before they fail with ErrBusy. It is for what must not be left undone, such
// as a revocation; other writes give up after a few seconds.
func Patient(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, patienceKey{}, d)
}

// Patience is what Patient put into ctx, or otherwise.
func Patience(ctx context.Context, otherwise time.Duration) time.Duration {
	if d, ok := ctx.Value(patienceKey{}).(time.Duration); ok {
		return d
	}
	return otherwise
}
