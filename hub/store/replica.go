package store

import (
	"context"
	"errors"
	"time"
)

// ErrLeased means that another replica holds the lease.
var ErrLeased = errors.New("store: another replica holds the lease")

// ErrFenced means that another replica has taken the lease since the caller got its fence, and that
// nothing was written.
var ErrFenced = errors.New("store: another replica has taken the lease")

// Fence is a lease that a replica holds. Number increases each time another replica takes the
// lease.
type Fence struct {
	Lease  string
	Number int64
}

type fenceKey struct{}

// WithFence returns a context with which every write checks the fence, in the same transaction. If
// another replica has taken the lease, the write returns ErrFenced. Therefore a replica that was
// paused for longer than its lease cannot change anything, even if its clock is wrong.
func WithFence(ctx context.Context, f Fence) context.Context {
	return context.WithValue(ctx, fenceKey{}, f)
}

// FenceIn returns the fence of a context.
func FenceIn(ctx context.Context) (f Fence, ok bool) {
	f, ok = ctx.Value(fenceKey{}).(Fence)
	return f, ok
}

// Message is a message from one replica to the others. The store does not interpret Body.
type Message struct {
	Seq    int64  // assigned by the store; increases
	Origin string // the replica that sent the message
	Body   []byte
}

// Temporary is a value that expires.
type Temporary struct{ Key, Value []byte }

// Limits on messages and temporary values.
const (
	// MessageLife is how long the store keeps a message.
	MessageLife = time.Minute
	// MaxTemporary is the maximum number of temporary values of the same kind.
	MaxTemporary = 1024
)

// Replicas stores the short-lived data that the replicas of a hub share. Unlike other methods,
// these use the clock of the database, so it does not matter whether the clocks of the replicas
// agree.
type Replicas interface {
	// Lease takes a lease for the replica `holder`, or renews it. No other replica can get the
	// lease for the time `life`. ErrLeased: another replica holds the lease.
	Lease(ctx context.Context, name, holder string, life time.Duration) (Fence, error)
	// EndLease ends a lease at once, unless another replica has taken it.
	EndLease(ctx context.Context, f Fence) error

	// Tell sends a message to the other replicas.
	Tell(ctx context.Context, origin string, body []byte) error
	// Messages returns at most `limit` messages whose Seq is larger than `after`, the oldest first.
	Messages(ctx context.Context, after int64, limit int) ([]Message, error)
	// LastMessage returns the Seq of the newest message, or 0.
	LastMessage(ctx context.Context) (int64, error)

	// PutTemporary adds or replaces values. `kind` says what the values are for; values of
	// different kinds are independent of each other. The values expire after the time `life`. If
	// there are then more than MaxTemporary values of this kind, the store removes those that would
	// expire first.
	PutTemporary(ctx context.Context, kind string, values []Temporary, life time.Duration) error
	// Temporary returns a value. ErrNotFound: there is no such value, or it has expired.
	Temporary(ctx context.Context, kind string, key []byte) ([]byte, error)
	// TakeTemporary returns a value and removes it. If several callers ask for the value at the
	// same time, only one of them gets it. The errors are the same as those of Temporary.
	TakeTemporary(ctx context.Context, kind string, key []byte) ([]byte, error)
}
