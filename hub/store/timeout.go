package store

import (
	"context"
	"errors"
	"time"
)

// Errors of an engine that cannot write at the moment. ErrBusy passes by itself; an operator must
// resolve ErrNoSpace. Nothing was written, and the caller may retry. Tested with errors.Is.
var (
	// ErrBusy: another program holds the database, or it is too slow for the load.
	ErrBusy = errors.New("store: the database is busy")
	// ErrNoSpace: the disk is full.
	ErrNoSpace = errors.New("store: the disk is full")
)

type writeTimeoutKey struct{}

// WithWriteTimeout returns a context whose writes wait up to d for a busy database before they fail with
// ErrBusy. Use it for writes that must not be left undone, such as a revocation; other writes give
// up after a few seconds.
func WithWriteTimeout(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, writeTimeoutKey{}, d)
}

// WriteTimeout returns the write timeout that WithWriteTimeout put into ctx, or otherwise if there is none.
func WriteTimeout(ctx context.Context, otherwise time.Duration) time.Duration {
	if d, ok := ctx.Value(writeTimeoutKey{}).(time.Duration); ok {
		return d
	}
	return otherwise
}
