package store

import (
	"context"
	"errors"
	"time"
)

// Errors of an engine that cannot write at the moment. Nothing was written, and the caller may
// retry. After ErrBusy, a later retry can succeed; after ErrNoSpace, the operator must free disk
// space first. Test for these errors with errors.Is.
var (
	// ErrBusy means that another program has locked the database, or that the database is too slow
	// for the load.
	ErrBusy = errors.New("store: the database is busy")
	// ErrNoSpace means that the disk is full.
	ErrNoSpace = errors.New("store: the disk is full")
)

type writeTimeoutKey struct{}

// WithWriteTimeout returns a context with which writes wait up to d for a busy database before they
// fail with ErrBusy. Without it, they fail after a few seconds. Use it for writes that must not be
// lost, such as a revocation.
func WithWriteTimeout(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, writeTimeoutKey{}, d)
}

// WriteTimeout returns the write timeout that WithWriteTimeout stored in ctx. If ctx has no write
// timeout, it returns `otherwise`.
func WriteTimeout(ctx context.Context, otherwise time.Duration) time.Duration {
	if d, ok := ctx.Value(writeTimeoutKey{}).(time.Duration); ok {
		return d
	}
	return otherwise
}
