// Package store defines the data that the hub stores: accounts, join tokens, the registries of TPMs
// (by endorsement key, EK) and of attestation keys (AIKs), enrolments with their certificates,
// devices, and the audit trail.
//
// The package contains the types of the data, and one interface for each kind of data. The
// interfaces document what every method guarantees, in the words of the glossary and not in those
// of a database. An engine (packages sqlite and postgres) implements all of them, and package
// storetest contains the tests that every engine must pass. Code that uses an engine declares, in
// its own package, a small interface with the methods that it needs.
//
// Every method is safe for concurrent use. Every method that writes is one transaction, and when it
// returns nil, its data survives a power failure. Engines do not read the clock: the caller passes
// the current time. Only Upkeep.Clock and the methods of Replicas use the clock of the database.
package store

import (
	"context"
	"errors"
)

// Errors that engines return. Test for them with errors.Is. Any other error is a failure of the
// engine (disk, driver) and says nothing about the data.
var (
	// ErrNotFound means that the requested data does not exist, or that the caller may not see it.
	ErrNotFound = errors.New("store: not found")
	// ErrExists means that the unique name (nick, e-mail address or id) is in use.
	ErrExists = errors.New("store: already exists")
	// ErrFull means that a limit on the number of entries is reached, for example on the lines of
	// an EK list.
	ErrFull = errors.New("store: the limit on rows of this kind is reached")
	// ErrChanged means that the stored data has changed since the caller read it, so the caller's
	// decision may be wrong now.
	ErrChanged = errors.New("store: the row has changed since it was read")
)

// Hash is a SHA-256 digest used as a key.
type Hash [32]byte

// Health reports whether an engine works.
type Health interface {
	// Ping returns an error if the database cannot be read and written now. Errors: ErrBusy,
	// ErrNoSpace. If the database is busy, Ping waits, but no longer than ctx and its write timeout
	// allow.
	Ping(ctx context.Context) error
	// WritesWaiting returns the number of writes of this process that wait for their turn.
	WritesWaiting() int
}
