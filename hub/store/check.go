package store

import "context"

// Disagreement is a consistency rule that some rows of the database break.
type Disagreement struct {
	Rule string   // stable, such as "device-certificate"
	Rows []string // some of the rows: the ids of devices, accounts or join tokens, or the names of counters
	More bool     // there are more rows than Rows
}

// Identity is an enrolment, for a check of its hashes and certificates.
type Identity struct {
	Row int64
	Enrolment
	Unreadable string // why a column cannot be read, or empty
}

// RevisionState is the state of a revision, and the stored hash of this state (Sum). The caller
// must check that the hash matches the state, because the store does not.
type RevisionState struct {
	Row    int64
	Device string
	Rev    int
	Sum    Hash
	State  []byte
}

// Consistency checks that the parts of the database agree: certificates, devices, registries,
// objects and counters. A database breaks a rule only after a fault of the disk, the memory or the
// program, or after another program has changed it.
type Consistency interface {
	// Disagreements returns the rules that the database breaks, each with at most `limit` of the
	// rows that break it. It reads the whole database, as it was at one moment, and changes
	// nothing.
	Disagreements(ctx context.Context, limit int) ([]Disagreement, error)
	// WrongHashes returns each rule about hashes that is broken, with the rows that break it.
	WrongHashes(ctx context.Context) ([]Disagreement, error)
	// Identities returns at most `limit` enrolments with a greater Row than `after`, in the order
	// of Row. It sets only the fields that a caller can check with a certificate or a hash.
	Identities(ctx context.Context, after int64, limit int) ([]Identity, error)
	// States returns the states of at most `limit` revisions with a greater Row than `after`, in
	// the order of Row.
	States(ctx context.Context, after int64, limit int) ([]RevisionState, error)
	// StoredObjects returns at most `limit` objects with content whose Sum is greater than `after`,
	// in the order of their sums. Only Sum and Size are set.
	StoredObjects(ctx context.Context, after Hash, limit int) ([]Object, error)
}
