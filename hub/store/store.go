// Package store defines what the hub keeps: accounts, join tokens, the registries of TPMs (by
// endorsement key, EK) and of attestation keys (AIKs), enrolments with their certificates,
// devices, and the audit trail.
//
// The package has the types and, one for each resource, the interfaces that say what every
// method promises. They speak the words of the domain, never of a database. An engine (package
// sqlite) implements all of them; package storetest has the suite that every engine must pass.
// Code that uses a store declares the interface that it needs, where it needs it.
//
// Every method is safe for concurrent use. Every method that writes is one atomic step, and when it
// returns nil, what it wrote survives a power cut. Time comes in as an argument: an engine has no
// clock.
package store

import (
	"context"
	"errors"
)

// Errors that engines return, tested with errors.Is. Any other error is a failure of the engine
// (disk, driver) and says nothing about the data.
var (
	// ErrNotFound: the row does not exist, or the caller may not see it.
	ErrNotFound = errors.New("store: not found")
	// ErrExists: the unique name (nick, e-mail, id) is in use.
	ErrExists = errors.New("store: already exists")
	// ErrFull: the bound on rows of this kind is reached.
	ErrFull = errors.New("store: the bound on rows of this kind is reached")
	// ErrChanged: the row is no longer what the caller's decision was based on.
	ErrChanged = errors.New("store: the row has changed since it was read")
)

// Hash is a SHA-256 digest used as a key.
type Hash [32]byte

// Health reports whether an engine works.
type Health interface {
	// Ping reports whether the store can be read and written now. It waits no longer than ctx and
	// the write timeout of ctx allow: ErrBusy, ErrNoSpace.
	Ping(ctx context.Context) error
}
